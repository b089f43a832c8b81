"""Make what a client sent fit an input exactly, or say what does not: dtype, range, rank, sizes, rows.

Every format ends here, so the rules are the same whatever the Content-Type:
a number widens freely, narrows only when it stays in range, a float is never taken for an int, text and null are no
numbers. Values that were written as infinite stay infinite; whether a model wants them is checked by the engine.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from evenkeel.serve.codec.codec import Array, Decoded, Form
from evenkeel.serve.codec.codec_plan import PACK_CODES, STORED, CodecPlan
from evenkeel.serve.codec.decoded_size import check_array
from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.errors import BadRequest, BadShape, OutputNotFinite

EMPTY_ROWS_MAX = 1 << 16  # rows that hold nothing take no bytes, so their number is bounded for itself


def finish(arrays: Sequence[Array], plan: CodecPlan, form: Form) -> Decoded:
    """Arrays that each fit their spec become one request, once they agree on rows and on free dims."""
    rows = 1
    if plan.signature.rows_axis:
        rows = len(arrays[0])
        for spec, array in zip(plan.inputs, arrays, strict=True):
            if len(array) != rows:
                raise BadShape(f"inputs disagree on rows: {plan.inputs[0].name!r} has {rows}, {spec.name!r} {len(array)}")
        if rows == 0:
            raise BadRequest("the request holds no rows: send at least one")
        if rows > EMPTY_ROWS_MAX and not any(array.size for array in arrays):
            raise BadShape(f"{rows} rows that hold nothing: at most {EMPTY_ROWS_MAX} are taken")
    if plan.shared_free:
        _check_free_dims(arrays, plan)
    return Decoded(rows, tuple(arrays), form)


def _check_free_dims(arrays: Sequence[Array], plan: CodecPlan) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for spec, array in zip(plan.inputs, arrays, strict=True):
        for dim, size in zip(spec.dims, array.shape[plan.signature.rows_axis :], strict=True):
            if isinstance(dim, str) and sizes.setdefault(dim, (size, spec.name))[0] != size:
                other = sizes[dim]
                raise BadShape(f"input {spec.name!r}: dimension {dim!r} is {size}, but {other[0]} in input {other[1]!r}")


def place(array: Array, spec: TensorSpec, rows_axis: bool) -> Array:
    """Check rank and sizes. An array of the rank of one row becomes a batch of that row."""
    if rows_axis and array.ndim == len(spec.dims):
        array = array[None]
    if array.ndim != len(spec.dims) + rows_axis or any(
        isinstance(dim, int) and dim != size for dim, size in zip(spec.dims, array.shape[rows_axis:], strict=True)
    ):
        got = ", ".join(map(str, array.shape))
        raise BadShape(f"expected {spec.describe(rows_axis)}, got an array of shape [{got}]")
    return array


def convert(array: Array, spec: TensorSpec, rows_axis: bool) -> Array:
    """An array of any dtype as the spec's stored dtype, C-contiguous and native; a view where it already is."""
    source = array.dtype
    if spec.dtype == "string":
        return _strings(array, spec)
    check_array(array.size * STORED[spec.dtype].itemsize, f"input {spec.name!r}")
    if spec.dtype == "bfloat16":
        return to_bfloat16(_numbers(array, np.dtype(np.float32), spec, rows_axis), spec)
    if source == STORED[spec.dtype]:
        return np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray alone would lift rank 0 to 1
    return _numbers(array, STORED[spec.dtype], spec, rows_axis)


def _numbers(array: Array, target: np.dtype[Any], spec: TensorSpec, rows_axis: bool) -> Array:
    source = array.dtype
    if source.kind not in "biuf" or (source.kind == "f" and target.kind != "f"):
        raise BadShape(f"input {spec.name!r} is {spec.dtype}, which {source} does not convert to")
    if not np.can_cast(source, target, "safe"):
        if target.kind == "f":
            return _narrowed(array, target, spec, rows_axis)
        low, high = (0, 1) if target.kind == "b" else (int(np.iinfo(target).min), int(np.iinfo(target).max))
        if array.size and (int(array.min()) < low or int(array.max()) > high):
            at = next(i for i, value in enumerate(array.flat) if not low <= int(value) <= high)
            where = locate(spec, at, array.shape, rows_axis)
            raise BadShape(f"{where}: {array.flat[at]} is out of the range of {spec.dtype}, {low} to {high}")
    return array.astype(target, order="C")


def _narrowed(array: Array, target: np.dtype[Any], spec: TensorSpec, rows_axis: bool) -> Array:
    """To a smaller float. Losing digits is fine; a finite value that becomes infinite is refused."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = array.astype(target, order="C")
    lost = np.isinf(narrow)
    if lost.any() and (lost := lost & np.isfinite(array)).any():
        where = locate(spec, int(lost.argmax()), array.shape, rows_axis)
        raise BadShape(f"{where}: {array[lost].flat[0]} is too large for {spec.dtype}")
    return narrow


def to_bfloat16(array: Array, spec: TensorSpec) -> Array:
    """float32 to bfloat16 bit patterns, rounding to nearest even. Adding the half carries into the exponent."""
    shape, array = array.shape, np.ascontiguousarray(array).reshape(-1)  # a scalar would warn when the sum wraps
    bits = array.view(np.uint32)
    rounded = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    # A NaN must neither carry into infinity nor wrap around: keep its sign and make it quiet.
    rounded = np.where(np.isnan(array), ((bits >> 16) | 0x7FC0).astype(np.uint16), rounded)
    if ((rounded & 0x7FFF == 0x7F80) & np.isfinite(array)).any():
        raise BadShape(f"input {spec.name!r}: a value is too large for bfloat16")
    return rounded.reshape(shape)


def shown(array: Array, spec: TensorSpec) -> Array:
    """An output as formats with numbers show it: native, C-contiguous, bfloat16 widened to float32."""
    if spec.dtype == "bfloat16":
        return (np.ascontiguousarray(array).astype(np.uint32) << 16).view(np.float32).reshape(array.shape)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(native).reshape(array.shape)


def _strings(array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind not in "US":
        raise BadShape(f"input {spec.name!r} is string, which {array.dtype} does not convert to")
    try:
        if array.dtype.kind == "S":
            flat = [item.decode() for item in array.reshape(-1).tolist()]
        else:
            codes = np.ascontiguousarray(array).reshape(-1).view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
            if codes.size and int(codes.max()) > sys.maxunicode:  # numpy would fail with an error of the interpreter
                raise ValueError("a code point is out of range")
            flat = array.reshape(-1).tolist()
            "".join(flat).encode()  # a lone surrogate is no text, and no reply could carry it back
    except ValueError as e:
        raise BadRequest(f"input {spec.name!r}: not valid Unicode text: {e}") from e
    return _objects(flat).reshape(array.shape)


def _objects(flat: list[str]) -> Array:
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array


def from_leaves(leaves: list[Any], shape: tuple[int, ...], spec: TensorSpec, rows_axis: bool) -> Array:
    """Python scalars, in C order, as an array. Types are exact: JSON's true is no number and "1" is no 1."""
    kinds = set(map(type, leaves))
    allowed = _ALLOWED[spec.dtype]
    if not kinds <= allowed:
        if spec.allow_nan and float in allowed and kinds <= {int, float, type(None)}:
            leaves = [float("nan") if leaf is None else leaf for leaf in leaves]
        else:
            at = next(i for i, leaf in enumerate(leaves) if type(leaf) not in allowed)
            raise BadShape(f"{locate(spec, at, shape, rows_axis)}: {spec.dtype} expected, got {_brief(leaves[at])}")
    if spec.dtype == "string":
        return _objects(leaves).reshape(shape)
    if spec.dtype == "bool":
        leaves = [leaf if leaf in (0, 1) else 2 for leaf in leaves]  # so that any size of int fits the array below
        return convert(np.array(leaves, dtype=np.int64).reshape(shape), spec, rows_axis)
    if spec.dtype == "bfloat16":
        return convert(np.array(leaves, dtype=np.float64).reshape(shape), spec, rows_axis)
    try:
        packed = struct.pack(f"<{len(leaves)}{PACK_CODES[spec.dtype]}", *leaves)
    except (struct.error, OverflowError) as e:
        info = np.finfo(STORED[spec.dtype]) if float in allowed else np.iinfo(STORED[spec.dtype])
        # The last half step above the largest float still rounds down, hence the packer decides and not a comparison.
        at = next(i for i, leaf in enumerate(leaves) if not _fits(leaf, spec))
        where, edges = locate(spec, at, shape, rows_axis), f"{info.min} to {info.max}"
        raise BadShape(f"{where}: {leaves[at]} is out of the range of {spec.dtype}, {edges}") from e
    return np.frombuffer(packed, STORED[spec.dtype]).reshape(shape)


def _fits(leaf: Any, spec: TensorSpec) -> bool:
    try:
        struct.pack(f"<{PACK_CODES[spec.dtype]}", leaf)
    except (struct.error, OverflowError):
        return False
    return True


_FLOATS: frozenset[type] = frozenset({int, float})
_ALLOWED: dict[str, frozenset[type]] = {name: frozenset({int}) for name in STORED} | {
    "bool": frozenset({bool, int}), "string": frozenset({str}),
    "float16": _FLOATS, "bfloat16": _FLOATS, "float32": _FLOATS, "float64": _FLOATS,
}  # fmt: skip


def from_nested(value: Any, spec: TensorSpec, rows_axis: bool) -> Array:
    """Nested lists as the array of one input, with or without the rows axis in front."""
    level: list[Any] = [value]  # all values at one depth, in C order
    shape: tuple[int, ...] = ()
    for dim in ("rows", *spec.dims) if rows_axis else spec.dims:
        if set(map(type, level)) - {list}:
            at = next(i for i, item in enumerate(level) if type(item) is not list)
            raise BadShape(f"{locate(spec, at, shape, rows_axis)}: expected {spec.describe(rows_axis)}, "
                           f"so a list of {dim} here, got {_brief(level[at])}")  # fmt: skip
        widths = set(map(len, level))
        width = dim if isinstance(dim, int) else len(level[0]) if level else 0
        if widths - {width}:
            at = next(i for i, item in enumerate(level) if len(item) != width)
            raise BadShape(f"{locate(spec, at, shape, rows_axis)}: expected {width} values, got {len(level[at])}")
        level, shape = list(chain.from_iterable(level)), (*shape, width)
    return from_leaves(level, shape, spec, rows_axis)


def check_names(names: Iterable[str], plan: CodecPlan, where: str) -> None:
    """Exactly the inputs of the model, each once."""
    names = set(names)
    for name in sorted(names - plan.input_names):
        inputs_named = ", ".join(sorted(plan.input_names))
        raise BadShape(f"{where}: the model has no input {name[:80]!r}; its inputs are {inputs_named}")
    for name in sorted(plan.input_names - names):
        raise BadShape(f"{where}: input {name!r} is missing")


def locate(spec: TensorSpec, at: int, shape: tuple[int, ...], rows_axis: bool) -> str:
    """Words for place `at`, counted in C order in an array of `shape`."""
    words = f"input {spec.name!r}"
    if not shape:
        return words
    place = [int(i) for i in np.unravel_index(at, shape)]
    if rows_axis:
        words += f", row {place.pop(0)}"
    return words + (f", position {place}" if place else "")


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the string {value[:20]!r}"
    return f"the number {value!r}"


def check_finite(arrays: Sequence[Array], plan: CodecPlan) -> None:
    """Raises OutputNotFinite for the first output that strict text cannot carry."""
    for spec, array in zip(plan.outputs, arrays, strict=True):
        if spec.allow_nan or spec.dtype not in ("float16", "bfloat16", "float32", "float64"):
            continue
        bad = ~np.isfinite(shown(array, spec))
        if bad.any():
            row = f", first in row {int(np.argwhere(bad)[0][0])}" if plan.signature.rows_axis and bad.ndim else ""
            share = f"{int(bad.sum())} of {bad.size} values"
            raise OutputNotFinite(
                f"output {spec.name!r} holds NaN or an infinity in {share}{row}; set allow_nan for it, or ask for "
                "application/x-npy"
            )
