"""A large JSON body that is one plain array of numbers, or a list of records, read piece by piece into the arrays it becomes.

Parsed at once, 25 MB of JSON become a few hundred MB of Python numbers. Here a body costs its array and little else.

How it works. Delete from the text of a regular array all that numbers and blanks are made of: what is left, the
*skeleton*, repeats one unit a row. `[[1,2],[3,4]]` leaves `[[,],[,]]`, so inside the outer brackets the unit is `[,],`.
The text is cut at commas into pieces. Of each piece the skeleton must continue where the one before ended, no number
may stand on the wrong side of a bracket, and with brackets blanked out orjson must read it as a list of numbers, so
that each place between commas holds exactly one. Together that is exactly the grammar of the array. Anything else,
valid or not, is left to the general path (return None), which also words the errors.

A list of records, `[{"features": [1, 2]}, ...]`, is cut where one record seems to end and the next to begin. When each piece
is a list of JSON values by itself, the pieces in a row are the list that the whole is; a cut in the middle of something is
no JSON, and left to the general path as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
import orjson

from evenkeel.serve.codec.codec import Array, Body, Decoded, Form
from evenkeel.serve.codec.codec_plan import STORED, CodecPlan
from evenkeel.serve.codec.fit import finish, from_leaves
from evenkeel.serve.codec.json_records import Noun
from evenkeel.serve.codec.pieces import PIECE_BYTES, filled
from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.errors import BadRequest

LARGE_BYTES = 256 << 10  # below, Python objects are cheaper than pieces
EDGE_BYTES = 4 << 10  # what surrounds the array must fit into this, at either end

BLANKS = b" \t\r\n"  # JSON's, which are fewer than those of \s
_KEY = rb'(\{)_"(%b)"_:_'
HEAD = re.compile((b"_(?:" + _KEY % b"instances|inputs" + b"(?:" + _KEY % rb'[^"\\]*' + rb")?)?(\[[ \t\r\n\[]*)")
                  .replace(b"_", rb"[ \t\r\n]*"))  # fmt: skip
TAIL = re.compile(rb"\]([ \t\r\n}]*)\Z")
NUMBER_BYTES = b"0123456789+-.eE"
AS_DIGITS = bytes.maketrans(NUMBER_BYTES, b"0" * len(NUMBER_BYTES))
BRACE = ord("{")
RECORD_ENDS = b"},"  # as nearly everybody writes it; the count of rows relies on it, and is checked
NO_BRACKETS = bytes.maketrans(b"[]", b"  ")


def decode_large(body: Body, plan: CodecPlan) -> Decoded | None:
    """The request, or None when the body is not the plain form of this model's input, nor a list of records."""
    text = memoryview(body)
    head, tail = HEAD.match(bytes(text[:EDGE_BYTES])), TAIL.search(bytes(text[-EDGE_BYTES:]))
    if head is None or tail is None:
        return None
    braces = [brace for brace in (head[1], head[3]) if brace]
    if tail[1].translate(None, BLANKS) != b"}" * len(braces) or (head[2] == b"instances" and head[3]):
        return None
    if head[5].count(b"[") == 1 and text[head.end(5)] == BRACE:
        inner = text[head.end(5) : len(text) - len(tail[1]) - 1]
        return _decode_records(inner, plan, Form.INSTANCES if braces else Form.BARE) if head[2] != b"inputs" else None
    spec = plan.single
    if spec is None or spec.dtype in ("bool", "string") or (head[4] is not None and head[4] != spec.name.encode()):
        return None
    rank = head[5].count(b"[")
    rows_axis = plan.signature.rows_axis
    one_row = not rows_axis or (rank == len(spec.dims) and head[2] != b"instances" and not head[3])
    if rank != len(spec.dims) + (not one_row):
        return None
    start, end = head.start(5), len(text) - len(tail[1])
    if not one_row:  # step inside the list of rows
        start, end = start + 1, end - 1
    form = Form.BARE if not braces else Form.INSTANCES if head[2] == b"instances" else Form.COLUMNS
    array = _read(text[start:end], spec, one_row)
    if array is None:
        return None
    try:
        return finish((array if rows_axis else array[0],), plan, form)
    except BadRequest:
        return None


def _decode_records(text: memoryview, plan: CodecPlan, form: Form) -> Decoded | None:
    """Of `{...},{...}`."""
    if not plan.signature.rows_axis:
        return None
    ends = sum(bytes(text[at : at + PIECE_BYTES + 1]).count(RECORD_ENDS) for at in range(0, len(text), PIECE_BYTES))
    pieces = (orjson.loads(b"[" + piece + b"]") for piece in _records(text))
    arrays = filled(pieces, ends + 1, plan, Noun("record"))
    try:
        return None if arrays is None else finish(arrays, plan, form)
    except BadRequest:
        return None


def _records(text: memoryview) -> Iterator[bytes]:
    """The text in pieces that end where a record seems to, without the comma."""
    at, size = 0, PIECE_BYTES
    while at < len(text):
        piece = bytes(text[at : at + size])
        cut = len(piece) if at + size >= len(text) else piece.rfind(RECORD_ENDS) + 1
        if cut == 0:
            size *= 2
            continue
        yield piece[:cut]
        at, size = at + cut + 1, PIECE_BYTES


def _read(text: memoryview, spec: TensorSpec, one_row: bool) -> Array | None:
    """An array of (rows, *dims) from the rows with commas between them."""
    dims = _dims(text, spec)
    if dims is None or 0 in dims:
        return None
    numbers = 1 + sum(bytes(text[at : at + PIECE_BYTES]).count(b",") for at in range(0, len(text), PIECE_BYTES))
    rows, rest = divmod(numbers, math.prod(dims))
    if rest or rows == 0 or (one_row and rows != 1):
        return None
    unit = b""
    for size in reversed(dims):
        unit = b"[" + (unit + b",") * (size - 1) + unit + b"]"
    unit += b","
    out, filled, skeleton_at = np.empty(numbers, dtype=STORED[spec.dtype]), 0, 0
    tile = unit * (1 + PIECE_BYTES // len(unit))
    for piece in _pieces(text):
        bones = piece.translate(AS_DIGITS, BLANKS)
        if b"]0" in bones or b"0[" in bones:
            return None
        bones = bones.translate(None, b"0")
        if not _continues(tile, skeleton_at, bones):
            return None
        skeleton_at = (skeleton_at + len(bones)) % len(tile)
        try:
            values = orjson.loads(b"[" + piece.removesuffix(b",").translate(NO_BRACKETS) + b"]")
            array = from_leaves(values, (len(values),), spec, rows_axis=False)
        except (orjson.JSONDecodeError, BadRequest):
            return None
        out[filled : filled + len(array)] = array
        filled += len(array)
    # The last unit lacks its comma. Each comma was checked, so only the end can still be wrong.
    if (skeleton_at + 1) % len(unit) or filled != numbers:
        return None
    return out.reshape(rows, *dims)


def _continues(tile: bytes, at: int, bones: bytes) -> bool:
    """Is `bones` what comes at place `at` of the endlessly repeated tile?"""
    done = 0
    while done < len(bones):
        part = tile[at : at + len(bones) - done]
        if bones[done : done + len(part)] != part:
            return False
        done, at = done + len(part), 0
    return True


def _pieces(text: memoryview) -> Iterator[bytes]:
    """The text in pieces that end with a comma, except the last. A gap of a piece without any is not plain."""
    at = 0
    while at < len(text):
        piece = bytes(text[at : at + PIECE_BYTES])
        if at + len(piece) < len(text):
            piece = piece[: piece.rfind(b",") + 1] or piece
        yield piece
        at += len(piece)


def _dims(text: memoryview, spec: TensorSpec) -> tuple[int, ...] | None:
    """The sizes of one row: those of the spec, and for free dims those of the first row."""
    if not spec.free:
        dims = tuple(dim for dim in spec.dims if isinstance(dim, int))
        # A row has a byte or more for each number and each comma; a model's row may be larger than any body.
        return dims if 2 * math.prod(dims) - 1 <= len(text) else None
    bones, depth = bytearray(), len(spec.dims)
    for piece in _pieces(text):
        bones += piece.translate(None, BLANKS + NUMBER_BYTES)
        if bones.find(b"]" * depth, max(0, len(bones) - len(piece) - depth)) >= 0:
            break
    sizes: list[int] = []
    unit = 0  # length of the skeleton of one element at this depth
    for closed in range(1, depth + 1):
        closing = bones.find(b"]" * closed)
        length = closing + closed - (depth - closed)
        size, rest = divmod(length - 1, unit + 1)
        if closing < 0 or length < 2 or rest or spec.dims[-closed] not in (size, str(spec.dims[-closed])):
            return None
        sizes, unit = [size, *sizes], length
    return tuple(sizes)
