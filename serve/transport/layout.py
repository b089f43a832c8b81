"""How the tensors of one request lie in a span of memory: the agreement between the side that packs and unpacks.

Fixed shapes (every dim known, no strings) need no words: array after array, each at a multiple of ALIGN, its size
known from the rows. Anything else starts with a table of 8-byte integers: for each array its dims without rows, and
its byte count. Strings are, in that byte count, the UTF-8 lengths as uint32 and then the texts.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.errors import BadShape

Array = np.ndarray[Any, Any]
SMALL_BYTES = 4096
ALIGN = 64  # a cache line, and what vectorised kernels like their inputs to start at


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of arrays of this spec. bfloat16 has no NumPy type and travels as its bits."""
    return np.dtype({"bfloat16": "uint16", "string": "object"}.get(name, name))


def aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


class Layout:
    """Packs and unpacks the inputs (or outputs) of one signature."""

    def __init__(self, specs: Sequence[TensorSpec], rows_axis: bool) -> None:
        self.specs = tuple(specs)
        self.rows_axis = rows_axis
        self.fixed = all(s.row_bytes is not None for s in specs)
        self.dtypes = tuple(numpy_dtype(s.dtype) for s in specs)
        self._row_bytes = tuple(s.row_bytes or 0 for s in specs)
        self.dims = tuple(tuple(int(d) for d in s.dims) if self.fixed else () for s in specs)
        self._table = struct.Struct("<" + "q" * sum(len(s.dims) + 1 for s in specs))
        # One fixed array is by far the most common case and has a path of its own.
        self.single = self.fixed and len(self.specs) == 1 and not self.specs[0].keys  # maps are written one by one
        self.row_bytes = self._row_bytes[0] if self.single else 0  # of the single array
        self.row_room = sum(aligned(n) for n in self._row_bytes) if self.fixed else 0  # what one row takes

    def bytes_of(self, arrays: Sequence[Array], rows: int) -> int:
        """How much room these arrays take."""
        if self.fixed:
            return self.fixed_bytes(rows)
        return aligned(self._table.size) + sum(aligned(_array_bytes(a)) for a in arrays)

    def fixed_bytes(self, rows: int) -> int:
        """Room for `rows` rows, when every shape is fixed."""
        assert self.fixed, "asked of fixed layouts only"
        if rows == 1:
            return self.row_room
        return sum(aligned(n * rows) for n in self._row_bytes)

    def pack(self, arrays: Sequence[Array], memory: memoryview, offset: int) -> int:
        """Copy the arrays to `offset` and return the bytes used. The caller made sure that they fit."""
        if self.single:
            array = arrays[0]
            size = array.nbytes
            # Copying a small array once more is cheaper than making a view of it.
            memory[offset : offset + size] = array.tobytes() if size <= SMALL_BYTES else array.reshape(-1).view(np.uint8).data
            return size
        at = offset
        if not self.fixed:
            skip = 1 if self.rows_axis else 0
            table = [n for a in arrays for n in (*a.shape[skip:], _array_bytes(a))]
            self._table.pack_into(memory, offset, *table)
            at = _end_span(memory, at, self._table.size)
        for array in arrays:
            raw = _string_bytes(array) if array.dtype.hasobject else array.reshape(-1).view(np.uint8).data
            memory[at : at + len(raw)] = raw
            at = _end_span(memory, at, len(raw))
        return at - offset

    def unpack(self, memory: memoryview, offset: int, rows: int) -> list[Array]:
        """Views into `memory` (copies for strings), valid as long as the slot is held."""
        if self.single:
            shape = (rows, *self.dims[0]) if self.rows_axis else self.dims[0]
            return [np.ndarray(shape, self.dtypes[0], memory, offset)]
        sizes: list[tuple[tuple[int, ...], int]]
        at = offset
        if self.fixed:
            sizes = [(d, n * rows) for d, n in zip(self.dims, self._row_bytes, strict=True)]
        else:
            sizes = self._read_table(memory, offset)
            at += aligned(self._table.size)
        arrays = []
        for (dims, size), dtype in zip(sizes, self.dtypes, strict=True):
            shape = self._shape(rows, dims)
            if dtype.hasobject:
                arrays.append(_strings(memory[at : at + size], shape))
            else:
                arrays.append(np.frombuffer(memory, dtype, math.prod(shape), at).reshape(shape))
            at += aligned(size)
        return arrays

    def _shape(self, rows: int, dims: tuple[int, ...]) -> tuple[int, ...]:
        return (rows, *dims) if self.rows_axis else dims

    def _read_table(self, memory: memoryview, offset: int) -> list[tuple[tuple[int, ...], int]]:
        numbers = self._table.unpack_from(memory, offset)
        sizes, i = [], 0
        for spec in self.specs:
            n = len(spec.dims)
            sizes.append((numbers[i : i + n], numbers[i + n]))
            i += n + 1
        return sizes

    def row_dims(self, memory: memoryview, offset: int) -> tuple[tuple[int, ...], ...]:
        """The dims of one row of each array: what decides which requests can share a batch."""
        if self.fixed:
            return self.dims
        return tuple(dims for dims, _ in self._read_table(memory, offset))


def _end_span(memory: memoryview, at: int, size: int) -> int:
    """The gap behind a span is cleared: the same request is the same bytes, whatever lay in the slot before."""
    end = at + aligned(size)
    memory[at + size : end] = bytes(end - at - size)
    return end


def _array_bytes(array: Array) -> int:
    if not array.dtype.hasobject:
        return array.nbytes
    return len(_string_bytes(array))


def _string_bytes(array: Array) -> bytes:
    try:
        texts = [s.encode() for s in array.ravel().tolist()]
    except (AttributeError, UnicodeEncodeError) as e:
        raise BadShape(f"a string tensor holds something that is not text: {e}") from e
    return struct.pack(f"<{len(texts)}I", *map(len, texts)) + b"".join(texts)


def _strings(memory: memoryview, shape: tuple[int, ...]) -> Array:
    count = math.prod(shape)
    lengths = struct.unpack_from(f"<{count}I", memory, 0)
    out = np.empty(count, object)
    at = 4 * count
    for i, n in enumerate(lengths):
        out[i] = bytes(memory[at : at + n]).decode("utf-8", "replace")
        at += n
    return out.reshape(shape)
