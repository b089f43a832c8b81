"""Gather and scatter: rows from many slots into one batch, and the batch's outputs back into the slots.

The common batch, single rows of one fixed shape from one front, is a single vectorised copy each way: every slot
offset is a multiple of STEP, so the arena is a strided array whose row i starts at i x STEP, and picking rows by index
is one NumPy call for the whole batch. Everything else is copied request by request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evenkeel.serve.batching.item import Item, Segment
from evenkeel.serve.batching.split import bucket_edge
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.engine.cycle.row_table import OFFSET, RowTable
from evenkeel.serve.errors import NotFinite
from evenkeel.serve.transport.layout import Layout, aligned, numpy_dtype
from evenkeel.serve.transport.slots import STEP

Array = np.ndarray[Any, Any]
Dims = tuple[tuple[int, ...], ...]
Lend = Callable[[Sequence[tuple[int, ...]]], Sequence[Array]]  # places for the inputs, of these shapes, as in backends/base.py
COPIED_ALONE_FROM = 4096  # bytes of a row from which copying row by row costs less than copying the batch once more


class Gather:
    """Builds the input arrays of a batch. `key` says which requests may share one."""

    def __init__(self, signature: Signature, layout: Layout, pad_waste: float) -> None:
        self.signature, self.layout = signature, layout
        spec = signature.inputs[0]
        self._vector_items = layout.row_bytes // max(1, layout.dtypes[0].itemsize) if layout.single else 0
        self._vector_shape = tuple(int(d) for d in spec.dims) if layout.single else ()
        # A free dim is padded only when every input that has it says with what.
        bare = {d for s in signature.inputs if s.pad is None for d in s.dims if isinstance(d, str)}
        self._padded = {d for s in signature.inputs for d in s.dims if isinstance(d, str)} - bare
        # The waste of several padded dims multiplies, so each gets its root of what is left.
        together = max([sum(d in self._padded for d in s.dims) for s in signature.inputs])
        self._waste = 1 - (1 - pad_waste) ** (1 / max(1, together))
        self._checked = [
            i
            for i, s in enumerate(signature.inputs)
            if not s.allow_nan and s.dtype in ("float16", "float32", "float64") and math.isfinite(s.pad or 0.0)
        ]

    def key(self, dims: Dims) -> Dims:
        """The shape under which a request queues: its row dims, free ones rounded up to their bucket."""
        if not self._padded:
            return dims
        return tuple(self._bucket(spec, d) for spec, d in zip(self.signature.inputs, dims, strict=True))

    def _bucket(self, spec: TensorSpec, dims: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            bucket_edge(size, self._waste) if name in self._padded else size for name, size in zip(spec.dims, dims, strict=True)
        )

    def batch(self, segments: Sequence[Segment], key: Dims, singles: Array | None, lend: Lend | None = None) -> Sequence[Array]:
        """Input arrays of (rows, *dims). One whole request is handed over as views of its slot, without a copy.

        `singles`: what `single_rows` says of the segments. `lend`: where a batch of several is to be put together.
        """
        first = segments[0]
        alone = len(segments) == 1 and first.rows == first.item.rows
        if alone and not self._padded and (singles is None or len(singles) == 1):
            return self._arrays(first)
        if singles is not None:
            view = segments[0].item.peer.rows.view(0, self._vector_items, self.layout.dtypes[0])
            if lend is None or self.layout.row_bytes < COPIED_ALONE_FROM:
                return [view[singles].reshape(len(singles), *self._vector_shape)]
            places = lend([(len(singles), *self._vector_shape)])
            for place, row in zip(places[0].reshape(len(singles), -1), singles.tolist(), strict=True):
                place[:] = view[row]
            return places
        return self._by_request(segments, key, lend)

    def _arrays(self, segment: Segment) -> list[Array]:
        """Read-only: after a crash the request runs again on what is in its slot, so no model may write there."""
        item = segment.item
        return self.layout.unpack(item.peer.memory.toreadonly(), item.offset, item.rows)

    def _by_request(self, segments: Sequence[Segment], key: Dims, lend: Lend | None) -> Sequence[Array]:
        if not self.signature.rows_axis:
            return self._padded_alone(segments[0], key)
        total = sum(s.rows for s in segments)
        batch = self._places([(total, *dims) for dims in key], lend)
        at = 0
        for s in segments:
            for target, source in zip(batch, self._arrays(s), strict=True):
                region = tuple(slice(0, n) for n in source.shape[1:])
                target[(slice(at, at + s.rows), *region)] = source[s.start : s.start + s.rows]
            at += s.rows
        return batch

    def _padded_alone(self, segment: Segment, key: Dims) -> list[Array]:
        return self.padded(self._arrays(segment), key)

    def padded(self, arrays: Sequence[Array], key: Dims) -> list[Array]:
        """Inputs of one request, filled up to the shape under which it queues."""
        lead = arrays[0].shape[:1] if self.signature.rows_axis else ()
        out = []
        for spec, source, dims in zip(self.signature.inputs, arrays, key, strict=True):
            if source.shape == (*lead, *dims):
                out.append(source)
                continue
            target = self._empty(spec, (*lead, *dims))
            target[tuple(slice(0, n) for n in source.shape)] = source
            out.append(target)
        return out

    def _places(self, shapes: Sequence[tuple[int, ...]], lend: Lend | None) -> Sequence[Array]:
        """Of these shapes, filled with the padding where there may be some."""
        specs = self.signature.inputs
        if lend is None:
            return [self._empty(spec, shape) for spec, shape in zip(specs, shapes, strict=True)]
        places = lend(shapes)
        for spec, place in zip(specs, places, strict=True):
            if spec.pad is not None and spec.free:
                place[...] = _padding(spec)
        return places

    def _empty(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        dtype = numpy_dtype(spec.dtype)
        return np.empty(shape, dtype) if spec.pad is None or not spec.free else np.full(shape, _padding(spec), dtype)

    @property
    def checks(self) -> bool:
        """Whether `refuse_not_finite` looks at anything."""
        return bool(self._checked)

    def refuse_not_finite(self, batch: Sequence[Array]) -> None:
        """Raises NotFinite for an input that holds a NaN or an infinity although its spec does not allow it."""
        for i in self._checked:
            if not finite(batch[i]):
                name = self.signature.inputs[i].name
                raise NotFinite(f"input {name!r} holds NaN or infinity; set allow_nan in model.toml if the model takes it")


def _padding(spec: TensorSpec) -> Any:
    assert spec.pad is not None, "asked for what is padded"
    # Of bfloat16 the bits: the upper half of a float32.
    return np.float32(spec.pad).view(np.uint32) >> 16 if spec.dtype == "bfloat16" else spec.pad


def single_rows(segments: Sequence[Segment], answer_bytes: int) -> Array | None:
    """Arena rows of the slots, when every segment holds whole requests of one row, all from one front and alike.

    None otherwise, when some slot has no room for an answer of `answer_bytes` behind its input, and for a request that
    runs alone, which plain copies serve faster.
    """
    first = segments[0].item
    if len(segments) == 1 and not isinstance(first, RowTable):
        return None
    peer, used, capacity = first.peer, first.used, aligned(first.used) + answer_bytes
    tables = []
    for item, start, rows in segments:
        if item.peer is not peer or item.used != used or item.capacity < capacity:
            return None
        if isinstance(item, RowTable):
            tables.append(item.table[start : start + rows, OFFSET] // STEP)
        elif item.rows == 1:
            tables.append(np.array((item.offset // STEP,), np.uint64))
        else:
            return None
    return tables[0] if len(tables) == 1 else np.concatenate(tables)


class Scatter:
    """Puts outputs behind the inputs in each request's slot."""

    def __init__(self, signature: Signature, layout: Layout) -> None:
        self.signature, self.layout = signature, layout
        self._items = layout.row_bytes // max(1, layout.dtypes[0].itemsize) if layout.single else 0
        # Dims of a row of the only output, when its rank and dtype are all there is to check.
        self._plain = layout.dims[0] if layout.single and layout.rows_axis else None
        self._floats = [i for i, dtype in enumerate(layout.dtypes) if dtype.kind == "f"]
        self._unread = any(spec.dtype == "bfloat16" for spec in signature.outputs)

    def checked(self, outputs: Sequence[Array], rows: int) -> list[Array] | str:
        """The outputs as the layout wants them, or what is wrong with them."""
        signature, dtypes = self.signature, self.layout.dtypes
        if self._plain is not None and len(outputs) == 1:
            only = outputs[0]
            if type(only) is np.ndarray and only.shape == (rows, *self._plain) and only.dtype == dtypes[0]:
                return [np.ascontiguousarray(only)]
        if len(outputs) != len(dtypes):
            return f"the model gave {len(outputs)} outputs, its signature has {len(dtypes)}"
        out = []
        for spec, dtype, output in zip(signature.outputs, dtypes, outputs, strict=True):
            array = np.asarray(output)
            shape = array.shape
            want: tuple[int | str, ...] = (rows, *spec.dims) if signature.rows_axis else spec.dims
            if shape != want and not _fits(shape, want):
                return f"output {spec.name!r} has shape {shape} for {rows} rows, expected {spec.describe(signature.rows_axis)}"
            if array.dtype != dtype or not array.flags.c_contiguous:
                try:
                    array = np.ascontiguousarray(array, dtype).reshape(shape)
                except (TypeError, ValueError, OverflowError):
                    return f"output {spec.name!r} is of dtype {array.dtype}, which cannot become {spec.dtype}"
            if spec.dtype == "string" and not all(_is_text(value) for value in array.ravel().tolist()):
                return f"output {spec.name!r} holds something that is not text"
            out.append(array)
        return out

    def finite(self, outputs: Sequence[Array]) -> bool:
        """Whether every float is finite, so that the front need not look again. bfloat16 is left to the front."""
        return not self._unread and all(finite(outputs[i]) for i in self._floats)

    def singles(self, first: Item, output: Array, singles: Array) -> None:
        """One copy for a whole batch of single rows; `first` is any of its items, since they are alike."""
        shift = aligned(first.used)
        view = first.peer.rows.view(shift, self._items, self.layout.dtypes[0])
        view[singles] = output.reshape(len(singles), self._items)

    def crop(self, arrays: Sequence[Array], actual: Dims, padded: Dims) -> list[Array]:
        """Cut padding off the outputs: an output dim named like a padded input dim gets that input's true size."""
        if actual == padded:
            return list(arrays)
        true: dict[str, tuple[int, int]] = {}
        for spec, have, had in zip(self.signature.inputs, actual, padded, strict=True):
            true |= {d: (a, p) for d, a, p in zip(spec.dims, have, had, strict=True) if isinstance(d, str)}
        skip = 1 if self.signature.rows_axis else 0
        out = []
        for spec, array in zip(self.signature.outputs, arrays, strict=True):
            region = [slice(None)] * array.ndim
            for axis, d in enumerate(spec.dims, start=skip):
                if isinstance(d, str) and d in true and array.shape[axis] == true[d][1]:
                    region[axis] = slice(0, true[d][0])
            out.append(np.ascontiguousarray(array[tuple(region)]))
        return out


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _fits(shape: tuple[int, ...], want: tuple[int | str, ...]) -> bool:
    return len(shape) == len(want) and all(isinstance(w, str) or w == n for w, n in zip(want, shape, strict=True))


def finite(array: Array) -> bool:
    """Whether no element is NaN or an infinity. Looking for a zero byte is quicker than NumPy's own `all`."""
    return 0 not in np.isfinite(array).tobytes()
