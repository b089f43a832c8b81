"""application/json: one document a request, in any of the shapes that SageMaker's and TensorFlow's clients send.

Small and plain bodies take `_quick`, which must agree with `decode_document` on all it accepts and may give up on
anything. Large plain ones go piecewise (json_large). The rest, and every error message, is `decode_document`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from evenkeel.serve.codec.codec import ROOM_BYTES, Array, Body, Decoded, Form
from evenkeel.serve.codec.codec_plan import CodecPlan, plan_of
from evenkeel.serve.codec.decoded_size import (
    QUICK_BYTES,
    QUICK_LISTS,
    QUICK_NUMBERS_BYTES,
    QUICK_OBJECTS_BYTES,
    QUICK_TEXT_OUTPUT_BYTES,
    check_json,
    count,
)
from evenkeel.serve.codec.fit import check_finite, check_names, finish, from_nested, shown
from evenkeel.serve.codec.json_large import LARGE_BYTES, decode_large
from evenkeel.serve.codec.json_records import Noun, from_records, in_rows, sparse_bytes
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.errors import BadRequest, BadShape, ModelFailed, UnsupportedMedia

BOM = b"\xef\xbb\xbf"
U, L, N = b"uln"
NOT_NUMBERS = re.compile(b"NaN|Infinity")  # Python's json writes them
U_OR_L = re.compile(b"[ul]")
INSTANCES, BARE, COLUMNS = Form  # a look-up of an enum's member costs as much as a search of the body
NUMBERS_AT_ONCE = 1 << 16  # of a large array: while orjson writes, no other thread of this process runs
ONE_ROW_UNCOUNTED = 1024  # bytes of a body in which not many lists can be
IGNORED_KEYS = frozenset({"configuration", "signature_name"})  # built-in algorithms and TensorFlow Serving send them


class JsonDocument:
    mime = "application/json"
    quick_output_bytes = QUICK_TEXT_OUTPUT_BYTES

    def decode(self, body: Body, signature: Signature, params: Mapping[str, str], room: int = ROOM_BYTES) -> Decoded:
        plan = plan_of(signature)
        if params:
            check_charset(params)
        if len(body) > LARGE_BYTES:
            if plan.has_texts:  # they stay objects, whichever way they are read
                check_json(body, room, "the document")
            decoded = decode_large(body, plan)
            if decoded is not None:
                return decoded
            check_json(body, room, "the document")
        document = parse(body)
        return _quick(document, body, plan) or decode_document(document, plan)

    def is_quick(self, body: Body, signature: Signature) -> bool:
        return is_quick(body, plan_of(signature))

    def decode_row(self, body: Body, plan: CodecPlan) -> Body | None:
        pack = plan.pack_flat_row
        if pack is None or isinstance(body, memoryview) or U in body or L in body:  # as in _quick
            return None
        if len(body) > ONE_ROW_UNCOUNTED and body.count(b"[") != 2:  # what has many lists takes long to read, and is no one row
            return None
        try:
            document = orjson.loads(body)
            (row,) = document["instances"]
            return pack(*row) if len(document) == 1 and type(row) is list else None
        except (ValueError, TypeError, KeyError, struct.error, OverflowError):
            return None

    def encode(self, arrays: Sequence[Array], signature: Signature, form: Form, finite: bool = False) -> bytes:
        plan = plan_of(signature)
        if plan.plain_output and form != COLUMNS:
            text = dumps(arrays[0])
            if not finite and N in text:  # orjson writes what is not finite as null, and no number has an "n"
                check_finite(arrays, plan)
            return b'{"predictions":' + text + b"}" if form == INSTANCES else text
        if not finite:
            check_finite(arrays, plan)
        columns = [listed(array, spec) for array, spec in zip(arrays, plan.outputs, strict=True)]
        if form == COLUMNS:
            return dumps({"outputs": dict(zip(plan.output_names, columns, strict=True))})
        values = columns[0]
        if len(columns) > 1:
            values = named_rows(columns, plan) if signature.rows_axis else dict(zip(plan.output_names, columns, strict=True))
        return dumps({"predictions": values} if form == INSTANCES else values)

    def encode_rows(self, rows: Array) -> list[bytes]:
        text = dumps(rows)
        return [b'{"predictions":[[%b]]}' % row for row in text[2:-2].split(b"],[")]


def is_quick(body: Body, plan: CodecPlan) -> bool:
    """Of one document, or of lines."""
    return (len(body) <= QUICK_OBJECTS_BYTES or _is_quick_though_long(body)) and sparse_bytes(body, plan) <= QUICK_BYTES


def _is_quick_though_long(body: Body) -> bool:
    """As numbers are, in not too many lists."""
    if len(body) > QUICK_NUMBERS_BYTES:
        return False
    return count(body, b"{") <= 2 and count(body, b'"') <= 4 and count(body, b"[") <= QUICK_LISTS


def parse(body: Body) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as e:
        if not body:
            raise BadRequest("the body is empty: send a JSON document") from e
        if bytes(body[:3]) == BOM:
            return parse(memoryview(body)[3:])
        around = bytes(body[max(0, e.pos - 1) : e.pos + 9])  # as UTF-8, where `pos` counts characters: near enough for ASCII
        if NOT_NUMBERS.search(around):
            raise BadRequest(f"JSON has no NaN or Infinity (line {e.lineno} column {e.colno}): leave the row out, or send CSV or "
                             "NPY to a model that takes them") from e  # fmt: skip
        raise BadRequest(f"not valid JSON: {e}") from e


def _may_hold_bools(body: Body) -> bool:
    if isinstance(body, memoryview):  # `in` would compare its items, which are numbers
        return U_OR_L.search(body) is not None
    return U in body or L in body


def _quick(document: Any, body: Body, plan: CodecPlan) -> Decoded | None:
    """The plain case, [[numbers], ...] bare or as instances, without a look at each number from Python."""
    pack, rows, form = plan.pack_row, document, BARE
    if type(document) is dict and len(document) == 1:
        rows, form = document.get("instances"), INSTANCES
    if pack is None or len(plan.single_dims) != 1 or type(rows) is not list or not rows:
        return None
    # pack takes true for 1. The literals true and false cannot be spelled without a u or an l, so a body that has
    # neither byte holds no bool; "instances" has neither. All else that is no number, pack refuses itself.
    if _may_hold_bools(body) or set(map(type, rows)) != {list}:  # a text would be taken for a list of its letters
        return None
    try:
        packed = pack(*rows[0]) if len(rows) == 1 else b"".join([pack(*row) for row in rows])
    except (struct.error, TypeError, OverflowError):
        return None
    return Decoded(len(rows), None, form, packed, plan.row_dtype)


def decode_document(document: Any, plan: CodecPlan) -> Decoded:
    if type(document) is not dict:
        return _bare(document, plan, BARE)
    if "instances" in document and "inputs" in document:
        raise BadRequest('the body has both "instances" and "inputs": send one of them')
    for key in document:
        if key not in ("instances", "inputs") and key not in IGNORED_KEYS:
            raise BadRequest(f'unknown key "{key[:40]}": expected {{"instances": [...]}} or {{"inputs": ...}}')
    if "instances" in document:
        instances = document["instances"]
        if not plan.signature.rows_axis:
            return _whole(instances, plan, INSTANCES)
        if type(instances) is not list:
            raise BadRequest('"instances" must be a list with one item a row')
        return finish(from_records(instances, plan, Noun("instance")), plan, INSTANCES)
    if "inputs" in document:
        inputs = document["inputs"]
        if type(inputs) is dict:
            return _columns(inputs, plan, COLUMNS)
        return _bare(inputs, plan, COLUMNS)
    raise BadRequest('expected {"instances": [...]}, {"inputs": ...} or a bare array')


def _bare(value: Any, plan: CodecPlan, form: Form) -> Decoded:
    """A bare array: rows, or one row without the list around it. For a model without rows, the whole item."""
    if not plan.signature.rows_axis:
        return _whole(value, plan, form)
    if plan.single is None and form == COLUMNS:
        raise BadShape(f"the model has {len(plan.inputs)} inputs: name them, {_by_name(plan)}")
    if plan.single is None or (type(value) is list and value and type(value[0]) is dict):
        if type(value) is not list:
            raise BadShape(f"the model has {len(plan.inputs)} inputs: name them, {_by_name(plan)}")
        return finish(from_records(value, plan, Noun("item")), plan, form)
    rank, inner = 0, value
    while type(inner) is list:
        rank, inner = rank + 1, inner[0] if inner else None
    if rank == len(plan.single.dims) and (value != [] or isinstance(plan.single.dims[0], str)):
        value = [value]
    return finish((from_nested(value, plan.single, rows_axis=True),), plan, form)


def _whole(value: Any, plan: CodecPlan, form: Form) -> Decoded:
    if type(value) is dict:
        return _columns(value, plan, form)
    if plan.single is None:
        raise BadShape(f"the model has {len(plan.inputs)} inputs: name them, {_by_name(plan)}")
    return finish((from_nested(value, plan.single, rows_axis=False),), plan, form)


def _columns(columns: dict[str, Any], plan: CodecPlan, form: Form) -> Decoded:
    check_names(columns.keys(), plan, "inputs")
    rows_axis = plan.signature.rows_axis
    arrays = [from_nested(in_rows(columns[spec.name], spec) if rows_axis else columns[spec.name], spec, rows_axis)
              for spec in plan.inputs]  # fmt: skip
    return finish(arrays, plan, form)


def _by_name(plan: CodecPlan) -> str:
    return '{"inputs": {' + ", ".join(f'"{spec.name}": ...' for spec in plan.inputs) + "}}"


def check_charset(params: Mapping[str, str]) -> None:
    charset = params.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise UnsupportedMedia(f"charset {charset[:40]!r} is not supported here: JSON is UTF-8")


def listed(array: Array, spec: TensorSpec) -> Any:
    """An output as orjson takes it: an array, nested lists of strings, or a map for each row. Rank 0 must be a scalar."""
    if spec.keys:
        return [dict(zip(spec.keys, row, strict=True)) for row in shown(array, spec).tolist()]
    if spec.dtype == "string":
        return array.tolist()
    array = shown(array, spec)
    return array if array.ndim else array[()]


def named_rows(columns: Sequence[Any], plan: CodecPlan) -> list[dict[str, Any]]:
    return [dict(zip(plan.output_names, row, strict=True)) for row in zip(*columns, strict=True)]


def dumps(value: Any) -> bytes:
    if isinstance(value, np.ndarray) and value.size > NUMBERS_AT_ONCE and value.dtype != object:
        return _dumped_in_pieces(value)
    try:
        return orjson.dumps(value, None, orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as e:
        if isinstance(value, np.ndarray) and not (value.flags.c_contiguous and value.dtype.isnative and value.ndim):
            native = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="), copy=False)).reshape(value.shape)
            return dumps(native if native.ndim else native[()])
        raise ModelFailed(f"an output cannot be written as JSON: {e}") from e


def _dumped_in_pieces(array: Array) -> bytes:
    if len(array) == 1:
        return b"[" + dumps(array[0]) + b"]"
    step = max(1, NUMBERS_AT_ONCE * len(array) // array.size)
    return b"[" + b",".join([dumps(array[at : at + step])[1:-1] for at in range(0, len(array), step)]) + b"]"
