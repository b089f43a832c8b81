"""text/csv: one line a row; its cells are the values of all inputs (or outputs) in signature order, flattened.

Plain numbers, as nearly all clients send them, are also JSON once brackets stand around the lines, so orjson reads
them, a piece of lines at a time. Whatever that does not take goes through the csv module and is refused or read cell
by cell, with the line and the column in the message.
"""

from __future__ import annotations

import csv
import io
import math
import re
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from evenkeel.serve.codec.codec import ROOM_BYTES, Array, Body, Decoded, Form
from evenkeel.serve.codec.codec_plan import CodecPlan, plan_of
from evenkeel.serve.codec.decoded_size import (
    OBJECT_BYTES,
    QUICK_NUMBERS_BYTES,
    QUICK_OBJECTS_BYTES,
    QUICK_TEXT_OUTPUT_BYTES,
    check_room,
    count,
)
from evenkeel.serve.codec.fit import check_finite, finish, from_leaves, shown
from evenkeel.serve.codec.json_document import BOM, dumps
from evenkeel.serve.codec.pieces import whole_lines
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.errors import BadRequest, BadShape, ModelFailed, UnsupportedMedia

CELLS_UNCOUNTED = 64 << 10  # bytes of a body that is not worth a count of its cells
TEXT_SHARE = 8  # bytes for each byte of a body that is read as text, twice
LINE_BYTES = b"0123456789+-.eE, "
PLAIN_BYTES = LINE_BYTES + b"\r\n"
CHARSETS = {"utf-8": "utf-8-sig", "utf8": "utf-8-sig", "us-ascii": "ascii", "ascii": "ascii", "iso-8859-1": "latin-1",
            "latin-1": "latin-1", "windows-1252": "cp1252", "utf-16": "utf-16"}  # fmt: skip
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
ODD_NUMBERS = {"nan": math.nan, "": math.nan, "inf": math.inf, "+inf": math.inf, "-inf": -math.inf,
               "infinity": math.inf, "-infinity": -math.inf}  # fmt: skip
NEEDS_QUOTES = re.compile(r'[",\r\n]')
BOOLS = {"true": True, "false": False, "1": True, "0": False}


class CsvRows:
    mime = "text/csv"
    quick_output_bytes = QUICK_TEXT_OUTPUT_BYTES

    def decode(self, body: Body, signature: Signature, params: Mapping[str, str], room: int = ROOM_BYTES) -> Decoded:
        plan = plan_of(signature)
        columns = _columns(plan)
        charset, header = _read_params(params) if params else ("utf-8-sig", False)
        if not body:
            raise BadRequest("the body is empty: send one line a row")
        if not header and charset != "utf-16":
            decoded = _quick(body, plan, columns)
            if decoded is not None:
                return decoded
        if len(body) > CELLS_UNCOUNTED:
            cells = count(body, b",") + count(body, b"\n") + count(body, b"\r")
            check_room(OBJECT_BYTES * cells + TEXT_SHARE * len(body), room, "the lines")
        return _by_cell(bytes(body), plan, columns, charset, header)

    def is_quick(self, body: Body, signature: Signature) -> bool:
        if len(body) > QUICK_NUMBERS_BYTES:
            return False
        plain = not plan_of(signature).has_texts and not bytes(body).translate(None, PLAIN_BYTES)
        return plain or len(body) <= QUICK_OBJECTS_BYTES

    def decode_row(self, body: Body, plan: CodecPlan) -> Body | None:
        pack = plan.pack_row
        if pack is None or type(body) is not bytes:
            return None
        line = body.removesuffix(b"\n").removesuffix(b"\r")
        if line.translate(None, LINE_BYTES):
            return None
        try:
            return pack(*orjson.loads(b"[" + line + b"]"))
        except (ValueError, struct.error, OverflowError):
            return None

    def encode(self, arrays: Sequence[Array], signature: Signature, form: Form, finite: bool = False) -> bytes:
        plan = plan_of(signature)
        if not finite:
            check_finite(arrays, plan)
        rows = len(arrays[0]) if signature.rows_axis else 1
        tables = [shown(array, spec).reshape(rows, array.size // max(rows, 1))
                  for array, spec in zip(arrays, plan.outputs, strict=True)]  # fmt: skip
        texts = [None if table.dtype == object else dumps(table) for table in tables]
        # Strings may need quotes, and orjson has no word for NaN: it writes null, and nothing else has an "n".
        if any(text is None or text.find(b"n") >= 0 for text in texts):
            return _with_quotes(tables)
        lines = [text[2:-2].split(b"],[") for text in texts if text is not None]
        joined = lines[0] if len(lines) == 1 else [b",".join(filter(None, parts)) for parts in zip(*lines, strict=True)]
        return b"\n".join(joined) + b"\n"

    def encode_rows(self, rows: Array) -> list[bytes]:
        return [row + b"\n" for row in dumps(rows)[2:-2].split(b"],[")]


def _columns(plan: CodecPlan) -> int | None:
    """How many cells a line must have; None for the one free dim of a single input: all lines alike."""
    total = 0
    for spec in plan.inputs:
        if spec.free:
            if len(plan.inputs) == 1 and len(spec.dims) == 1:
                return None
            raise UnsupportedMedia(f"text/csv cannot carry {spec.describe(plan.signature.rows_axis)}: use application/json")
        total += math.prod(d for d in spec.dims if isinstance(d, int))
    return total


def _read_params(params: Mapping[str, str]) -> tuple[str, bool]:
    """(Python's name of the charset, whether a header line comes first)."""
    if params.get("label_size", "0") != "0":
        raise BadRequest("label_size must be 0: requests for inference carry no labels")
    charset = params.get("charset", "utf-8").lower()
    if charset not in CHARSETS:
        raise UnsupportedMedia(f"charset {charset[:40]!r} is not supported: use one of {', '.join(CHARSETS)}")
    return CHARSETS[charset], params.get("header", "absent").lower() == "present"


def _quick(body: Body, plan: CodecPlan, columns: int | None) -> Decoded | None:
    """Lines of plain JSON numbers; None for all else, and for everything that is wrong."""
    if columns == 0 or any(spec.dtype in ("bool", "string") for spec in plan.inputs):
        return None
    parts: list[list[Array]] = []
    for n, piece in enumerate(whole_lines(body)):
        piece = piece if n else piece.removeprefix(BOM)
        if piece.translate(None, PLAIN_BYTES):
            return None
        try:
            lines = piece.replace(b"\r\n", b"\n").removesuffix(b"\n")
            if b"\r" in lines:  # a blank to JSON, the end of a line to CSV
                return None
            table: list[list[Any]] = orjson.loads(b"[[" + lines.replace(b"\n", b"],[") + b"]]")
        except orjson.JSONDecodeError:
            return None
        columns = columns or len(table[0])
        if not columns:
            return None
        try:
            parts.append(_packed(table, plan) if plan.pack_row else _arrays_of(table, plan, columns))
        except (BadRequest, struct.error, OverflowError):
            return None
    if not parts:
        return None
    arrays = parts[0] if len(parts) == 1 else [np.concatenate(part) for part in zip(*parts, strict=True)]
    return _finish(arrays, plan)


def _packed(table: list[list[Any]], plan: CodecPlan) -> list[Array]:
    """Rows of plain numbers for a single plain input. Raises struct.error or OverflowError for what is not."""
    pack = plan.pack_row
    assert pack is not None, "the caller looks"
    return [np.frombuffer(b"".join([pack(*row) for row in table]), plan.row_dtype)]


def _arrays_of(table: list[list[Any]], plan: CodecPlan, columns: int) -> list[Array]:
    """One array of (rows, ...) per input from rows of Python values, which must all be of `columns`."""
    if set(map(len, table)) != {columns}:
        raise BadShape("a line has another number of columns")
    arrays, start = [], 0
    for spec in plan.inputs:
        dims = tuple(columns if isinstance(d, str) else d for d in spec.dims)
        stop = start + math.prod(dims)
        cells = list(chain.from_iterable(table if len(plan.inputs) == 1 else [row[start:stop] for row in table]))
        arrays.append(from_leaves(cells, (len(table), *dims), spec, rows_axis=True))
        start = stop
    return arrays


def _finish(arrays: Sequence[Array], plan: CodecPlan) -> Decoded:
    if not plan.signature.rows_axis:
        if len(arrays[0]) != 1:
            raise BadShape(f"the model takes one item a request, in one line; got {len(arrays[0])} lines")
        arrays = [array[0] for array in arrays]
    return finish(arrays, plan, Form.INSTANCES)


def _by_cell(content: bytes, plan: CodecPlan, columns: int | None, charset: str, header: bool) -> Decoded:
    """The patient way, which also words every error. Lines are counted from 1, as editors do."""
    try:
        text = content.decode(charset)
    except UnicodeDecodeError as e:
        raise BadRequest(f"the body is not {charset.removesuffix('-sig')} text: byte {e.start} cannot be read") from e
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    readers: list[TensorSpec] | None = None
    table: list[list[Any]] = []
    try:
        for cells in reader:
            line = reader.line_num
            if header:
                header = False
                continue
            if columns is None:
                columns = len(cells)
            if not cells:
                raise BadRequest(f"line {line} is blank")
            if len(cells) != columns:
                raise BadShape(f"line {line}: expected {columns} columns, got {len(cells)}")
            if readers is None:
                readers = list(chain.from_iterable([spec] * _width(spec, columns) for spec in plan.inputs))
            table.append([_value(cell, readers[i], line, i + 1) for i, cell in enumerate(cells)])
    except csv.Error as e:
        raise BadRequest(f"line {reader.line_num}: not valid CSV: {e}") from e
    if not table:
        raise BadRequest("the body holds no rows: send one line a row")
    assert columns is not None, "set by the first line"
    return _finish(_arrays_of(table, plan, columns), plan)


def _width(spec: TensorSpec, columns: int) -> int:
    return math.prod(columns if isinstance(d, str) else d for d in spec.dims)


def _value(cell: str, spec: TensorSpec, line: int, column: int) -> Any:
    """One cell as a Python value of the input's kind."""
    if spec.dtype == "string":
        return cell
    text = cell.strip(" \t")
    if spec.dtype == "bool":
        value: Any = BOOLS.get(text.lower())
    elif "float" in spec.dtype:
        value = float(text) if NUMBER.fullmatch(text) else ODD_NUMBERS.get(text.lower()) if spec.allow_nan else None
        if value is not None and math.isinf(value) and NUMBER.fullmatch(text):
            value = None
    else:
        value = int(text) if WHOLE.fullmatch(text) else None
    if value is None:
        what = f"{text[:40]!r} is not a {spec.dtype}" if text else "the cell is empty"
        raise BadShape(f"line {line}, column {column}: {what} (input {spec.name!r})")
    return value


def _with_quotes(tables: Sequence[Array]) -> bytes:
    lines = []
    for parts in zip(*tables, strict=True):
        cells = [cell for part in parts for cell in _cells(part)]
        lines.append((",".join(cells) if cells != [""] else '""') + "\n")  # a line with nothing on it would be no row
    try:
        return "".join(lines).encode()
    except UnicodeEncodeError as e:
        raise ModelFailed(f"an output cannot be written as text: {e}") from e


def quoted(text: str) -> str:
    """csv.writer would leave a lone carriage return bare, and its own reader then sees the end of a line."""
    return '"' + text.replace('"', '""') + '"' if NEEDS_QUOTES.search(text) else text


def _cells(values: Array) -> list[str]:
    """Shortest text that reads back as the same value; nan and inf by these names."""
    if values.dtype == object:
        return [quoted(str(value)) for value in values]
    texts = orjson.loads(b'["' + dumps(values)[1:-1].replace(b",", b'","') + b'"]') if values.size else []
    return [str(float(v)) if text == "null" else text for text, v in zip(texts, values, strict=True)]
