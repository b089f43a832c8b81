"""JSON Lines: one record a line in, one value a line out, no wrapper. Serves every name the format goes by."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from evenkeel.serve.codec.codec import ROOM_BYTES, Array, Body, Decoded, Form
from evenkeel.serve.codec.codec_plan import CodecPlan, plan_of
from evenkeel.serve.codec.decoded_size import OBJECT_BYTES, QUICK_TEXT_OUTPUT_BYTES, check_json, check_room, count
from evenkeel.serve.codec.fit import check_finite, check_names, finish, from_nested
from evenkeel.serve.codec.json_document import BOM, L, U, check_charset, dumps, is_quick, listed, named_rows
from evenkeel.serve.codec.json_large import LARGE_BYTES
from evenkeel.serve.codec.json_records import Noun, from_records
from evenkeel.serve.codec.pieces import PIECE_BYTES, filled, whole_lines
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.errors import BadRequest, BadShape

NOUN = Noun("line", first=1)


class JsonLines:
    quick_output_bytes = QUICK_TEXT_OUTPUT_BYTES

    def __init__(self, mime: str) -> None:
        self.mime = mime

    def decode(self, body: Body, signature: Signature, params: Mapping[str, str], room: int = ROOM_BYTES) -> Decoded:
        plan = plan_of(signature)
        if params:
            check_charset(params)
        if len(body) > LARGE_BYTES and plan.has_texts:  # they stay objects, whichever way they are read
            check_json(body, room, "the lines")
        decoded = _quick(body, plan) if signature.rows_axis else None
        if decoded is not None:
            return decoded
        if signature.rows_axis and len(body) > LARGE_BYTES:
            arrays = _by_pieces(body, plan)
            if arrays is not None:
                return finish(arrays, plan, Form.INSTANCES)
        if len(body) > LARGE_BYTES:
            check_json(body, room, "the lines")
            check_room(OBJECT_BYTES * count(body, b"\n") + len(body), room, "the lines")
        records = _records(bytes(body))
        if not signature.rows_axis:
            return _whole(records, plan)
        return finish(from_records(records, plan, NOUN), plan, Form.INSTANCES)

    def is_quick(self, body: Body, signature: Signature) -> bool:
        return is_quick(body, plan_of(signature))

    def encode(self, arrays: Sequence[Array], signature: Signature, form: Form, finite: bool = False) -> bytes:
        plan = plan_of(signature)
        if not finite:
            check_finite(arrays, plan)
        columns = [listed(array, spec) for array, spec in zip(arrays, plan.outputs, strict=True)]
        if not signature.rows_axis:
            columns = [[column] for column in columns]
        values: Any = columns[0] if len(columns) == 1 else named_rows(columns, plan)
        return b"".join([dumps(value) + b"\n" for value in values])


def _records(body: bytes) -> list[Any]:
    lines = body.removeprefix(BOM).split(b"\n")
    if not lines[-1].strip():
        lines.pop()
    if not lines:
        raise BadRequest("the body is empty: send one JSON record a line")
    records: list[Any] = []
    try:
        for line in lines:
            records.append(orjson.loads(line))
    except orjson.JSONDecodeError as e:
        what = "blank" if not lines[len(records)].strip() else f"not valid JSON: {e.msg} at column {e.colno}"
        raise BadRequest(f"line {len(records) + 1} is {what}") from e
    return records


def _quick(body: Body, plan: CodecPlan) -> Decoded | None:
    """Plain rows of plain numbers; None for all else, and for everything that is wrong."""
    pack = plan.pack_row
    if pack is None or len(plan.single_dims) != 1:
        return None
    packed: list[bytes] = []  # the rows of a piece each
    rows = 0
    for n, piece in enumerate(whole_lines(body)):
        # pack takes true for 1; the literals cannot be spelled without a u or an l, and no number has one.
        if U in piece or L in piece:
            return None
        lines = (piece if n else piece.removeprefix(BOM)).removesuffix(b"\n").split(b"\n")
        try:
            packed.append(b"".join([pack(*_row(orjson.loads(line))) for line in lines]))
        except (struct.error, TypeError, OverflowError, orjson.JSONDecodeError):
            return None
        rows += len(lines)
    return Decoded(rows, None, Form.INSTANCES, b"".join(packed), plan.row_dtype) if rows else None


def _row(record: Any) -> list[Any]:
    """A text would be taken for a list of its letters, and an object for one of its names."""
    if type(record) is not list:
        raise TypeError("a row is a list")
    return record


def _by_pieces(body: Body, plan: CodecPlan) -> list[Array] | None:
    """Lines of any kind that the model takes; None for all else. `from_records` copies into arrays what it has read."""
    text = memoryview(body)
    rows = sum(bytes(text[at : at + PIECE_BYTES]).count(b"\n") for at in range(0, len(text), PIECE_BYTES))
    rows += bytes(text[-1:]) != b"\n"

    def records() -> Iterator[list[Any]]:
        for n, piece in enumerate(whole_lines(body)):
            lines = (piece if n else piece.removeprefix(BOM)).removesuffix(b"\n").split(b"\n")
            yield [orjson.loads(line) for line in lines]

    return filled(records(), rows, plan, NOUN)


def _whole(records: list[Any], plan: CodecPlan) -> Decoded:
    """For a model without rows: one line that holds everything."""
    if len(records) != 1:
        raise BadShape(f"the model takes one item a request, in one line; got {len(records)} lines")
    record = records[0]
    if plan.single is not None and not (type(record) is dict and record.keys() == {plan.single.name}):
        return finish((from_nested(record, plan.single, rows_axis=False),), plan, Form.INSTANCES)
    if type(record) is not dict:
        raise BadShape(f"the line must name the inputs: {', '.join(spec.name for spec in plan.inputs)}")
    check_names(record, plan, "line 1")
    return finish([from_nested(record[s.name], s, rows_axis=False) for s in plan.inputs], plan, Form.INSTANCES)
