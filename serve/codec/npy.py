"""NPY, the format of numpy.save: application/x-npy, and tensor/pt, which the SDK uses for the very same bytes.

The header is text. Clients repeat few of them, so those seen are remembered by their bytes: numpy.load takes 70 us,
this way a small array takes two. Objects (pickles) are refused before anything is read.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenkeel.serve.codec.codec import ROOM_BYTES, Array, Body, Decoded, Form
from evenkeel.serve.codec.codec_plan import STORED, CodecPlan, plan_of
from evenkeel.serve.codec.decoded_size import OBJECT_BYTES, QUICK_CAST_BYTES, QUICK_OUTPUT_BYTES, QUICK_TEXTS, check_room
from evenkeel.serve.codec.fit import convert, finish, place, shown
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.errors import BadRequest, BadShape, NotAcceptable, UnsupportedMedia

MAGIC = b"\x93NUMPY"
HEADER_BYTES_MAX = 64 << 10  # numpy writes 128 bytes for a plain array
HEADERS_REMEMBERED = 256
SLICED_BYTES = 4096  # up to here copying the data out of the body is cheaper than making an array over it


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What a header says. `offset` is where the data starts, `end` where it must end."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int
    end: int
    plain: bool  # rows of C order: the bytes are the array


class Npy:
    quick_output_bytes = QUICK_OUTPUT_BYTES

    def __init__(self, mime: str) -> None:
        self.mime = mime
        # How the last plain row began, for which plan, and how long it was: most clients repeat all but the numbers.
        self._usual, self._usual_length = b"", 0
        self._usual_plan: CodecPlan | None = None

    def decode(self, body: Body, signature: Signature, params: Mapping[str, str], room: int = ROOM_BYTES) -> Decoded:
        plan = plan_of(signature)
        if plan.single is None:
            raise UnsupportedMedia(f"{self.mime} carries one array, the model has {len(plan.inputs)} inputs: use "
                                   "application/x-npz or application/json")  # fmt: skip
        layout = read_layout(body)
        shape = layout.shape
        if layout.plain and layout.dtype == plan.view_dtype and shape[1:] == plan.single_dims and signature.rows_axis:
            if plan.row_dtype is not None and type(body) is bytes and len(body) <= SLICED_BYTES:
                return Decoded(shape[0], None, Form.INSTANCES, body[layout.offset :], plan.row_dtype)
            return Decoded(shape[0], (np.ndarray(shape, layout.dtype, body, layout.offset),), Form.INSTANCES)
        check_room(becomes(layout, plan.single), room, "the array")
        try:
            return decode_array(as_array(body, layout), plan)
        except ValueError as e:  # an empty array whose other sizes are absurd
            raise BadRequest(f"the NPY header holds an impossible shape: {str(shape)[:80]}") from e

    def is_quick(self, body: Body, signature: Signature) -> bool:
        spec = plan_of(signature).single
        try:
            layout = read_layout(body)
        except BadRequest:
            return True  # `decode` says the same
        return spec is None or (math.prod(layout.shape) <= QUICK_TEXTS if spec.dtype == "string"
                                else becomes(layout, spec) <= QUICK_CAST_BYTES)  # fmt: skip

    def decode_row(self, body: Body, plan: CodecPlan) -> Body | None:
        size = plan.row_bytes
        if plan is self._usual_plan and len(body) == self._usual_length and type(body) is bytes and body.startswith(self._usual):
            return body[-size:]
        layout = _layouts.get(body[:-size]) if size and type(body) is bytes else None
        if layout is None or layout.end != len(body) or not layout.plain or layout.dtype != plan.view_dtype:
            return None
        if layout.shape != (1, *plan.single_dims):
            return None
        self._usual, self._usual_plan, self._usual_length = bytes(body[:-size]), plan, len(body)
        return body[-size:]

    def encode(self, arrays: Sequence[Array], signature: Signature, form: Form, finite: bool = False) -> bytes:
        if len(arrays) != 1:
            raise NotAcceptable(f"{self.mime} carries one array, the model has {len(arrays)} outputs: ask for "
                                "application/x-npz or application/json")  # fmt: skip
        return to_npy(arrays[0], signature.outputs[0])

    def encode_rows(self, rows: Array) -> list[bytes]:
        header, raw, size = header_of(rows.dtype, (1, rows.shape[1])), rows.tobytes(), rows.itemsize * rows.shape[1]
        return [header + raw[at : at + size] for at in range(0, len(raw), size)]


# {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } with its keys in any order. A structured dtype is a list
# and matches nothing. All repetitions are possessive, so that no text can make the match slow.
_VALUE = r"""'[^']{1,16}'|"[^"]{1,16}"|True|False|\([0-9L, ]{0,600}\)"""
_ITEM = re.compile(rf"""["'](descr|fortran_order|shape)["'] *+: *+({_VALUE})""")
_HEADER = re.compile(rf"""\{{ *+(?:["'](?:descr|fortran_order|shape)["'] *+: *+(?:{_VALUE}) *+,? *+)*+\}}\s*+""")

_layouts: dict[bytes, NpyHeader] = {}


def read_layout(body: Body, length: int | None = None) -> NpyHeader:
    """The layout of an NPY file, which must be exactly as long as its header says. `length`: of the whole file, where `body`
    is only how it begins."""
    if length is None:
        length = len(body)
    if length < 12 or body[:6] != MAGIC:
        raise BadRequest("the body is empty" if not length else "not an NPY file: it does not start as one")
    offset = header_bytes(body)
    if offset > HEADER_BYTES_MAX:
        raise BadRequest(f"the NPY header is over {HEADER_BYTES_MAX} bytes")
    header = bytes(body[:offset])
    layout = _layouts.get(header)
    if layout is None:
        if len(body) < offset:
            raise BadRequest("the NPY file ends within its header")
        layout = _parse(header)
        if len(_layouts) >= HEADERS_REMEMBERED:
            _layouts.clear()
        _layouts[header] = layout
    if length != layout.end:
        what = "is truncated" if length < layout.end else "has trailing bytes"
        raise BadRequest(f"the NPY file {what}: its header says {layout.end} bytes in all, there are {length}")
    return layout


def _parse(header: bytes) -> NpyHeader:
    """By our own small grammar: numpy's reader evaluates the text as Python, which hostile text can make crash."""
    version = (header[6], header[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise BadRequest(f"NPY version {version[0]}.{version[1]} is not known here")
    text = header[10 if version == (1, 0) else 12 :].decode("latin-1")
    items = dict(_ITEM.findall(text)) if _HEADER.fullmatch(text) else {}
    descr, order, sizes = (items.get(key, "") for key in ("descr", "fortran_order", "shape"))
    if descr[:1] not in ("'", '"') or order not in ("True", "False") or sizes[:1] != "(":
        raise BadRequest("the NPY header is not that of a plain array")
    try:
        dtype = np.dtype(descr[1:-1])
        parts = [part.strip() for part in sizes[1:-1].split(",")]
        shape = tuple(int(part.removesuffix("L")) for part in (parts if parts[-1] else parts[:-1]))
    except (TypeError, ValueError, SyntaxError) as e:
        raise BadRequest("the NPY header holds an unknown dtype or shape") from e
    if dtype.hasobject or dtype.kind not in "biufSU" or dtype.itemsize == 0:
        raise BadShape(f"arrays of dtype {dtype} are not accepted: send numbers, bools or fixed-width strings")
    fortran = order == "True"
    end = len(header) + math.prod(shape) * dtype.itemsize
    return NpyHeader(dtype, shape, fortran, len(header), end, plain=not fortran and len(shape) > 0 and 0 not in shape)


def becomes(layout: NpyHeader, spec: TensorSpec) -> int:
    """Bytes that such an array takes as this input, beside the body that it lies in."""
    items = math.prod(layout.shape)
    if spec.dtype == "string":
        return items * OBJECT_BYTES + layout.end
    return 0 if layout.dtype == STORED[spec.dtype] and not layout.fortran else items * STORED[spec.dtype].itemsize


def header_bytes(start: Body) -> int:
    """How long the header is that begins so; `start` is 12 bytes or more."""
    return 10 + int.from_bytes(start[8:10], "little") if start[6] == 1 else 12 + int.from_bytes(start[8:12], "little")


def as_array(body: Body, layout: NpyHeader) -> Array:
    shape = layout.shape
    try:
        array = np.ndarray(shape, layout.dtype, body, layout.offset, order="F" if layout.fortran else "C")
    except ValueError as e:  # an empty array whose other sizes are absurd
        raise BadRequest(f"the NPY header holds an impossible shape: {str(shape)[:80]}") from e
    if layout.dtype.kind == "b":
        check_bools(array)
    return array


def check_bools(array: Array) -> None:
    """Foreign bytes as bools must be 0 or 1: what else does to a model is undefined."""
    if array.size and int(np.ascontiguousarray(array).view(np.uint8).max()) > 1:
        raise BadShape("a bool is neither 0 nor 1")


def decode_array(array: Array, plan: CodecPlan) -> Decoded:
    """An array of any dtype as the request of a model with a single input."""
    assert plan.single is not None, "callers refuse models of several inputs"
    return finish((fitted(array, plan.single, plan.signature.rows_axis),), plan, Form.INSTANCES)


def fitted(array: Array, spec: TensorSpec, rows_axis: bool) -> Array:
    return convert(place(array, spec, rows_axis), spec, rows_axis)


_headers: dict[tuple[np.dtype[Any], tuple[int, ...]], bytes] = {}


def to_npy(array: Array, spec: TensorSpec) -> bytes:
    """The bytes of numpy.save. bfloat16 travels as float32, strings as fixed-width Unicode."""
    if spec.dtype == "string":
        array = np.array(array.tolist(), dtype=str).reshape(array.shape)
    elif spec.dtype == "bfloat16":
        array = shown(array, spec)
    return header_of(array.dtype, array.shape) + array.tobytes()


def header_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    header = _headers.get((dtype, shape))
    if header is None:
        if len(_headers) >= HEADERS_REMEMBERED:
            _headers.clear()
        header = _headers[dtype, shape] = _header(dtype, shape)
    return header


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()
