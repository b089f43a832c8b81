"""What one side packs the other unpacks: every dtype, several arrays, strings, scalars, free dims, no rows axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.serve.contract.signature import ITEM_BYTES, TensorSpec
from evenkeel.serve.errors import BadShape
from evenkeel.serve.transport.layout import ALIGN, Layout, aligned, numpy_dtype

Array = np.ndarray[Any, Any]
AT = 192
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)


def fill(dtype: str, shape: tuple[int, ...], seed: int) -> Array:
    rng = np.random.default_rng(seed)
    if dtype == "string":
        words = ["", "a", "é", "日本語", "x" * 100, "\x00\n"]
        return np.array([words[i] for i in rng.integers(0, len(words), int(np.prod(shape)))], object).reshape(shape)
    return rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(numpy_dtype(dtype))


@st.composite
def tensors(draw: st.DrawFn) -> tuple[list[TensorSpec], bool, int, list[Array]]:
    """Specs, with or without rows axis, and arrays that fit them."""
    rows_axis = draw(st.booleans())
    rows = draw(st.integers(1, 4)) if rows_axis else 1
    specs, arrays = [], []
    for i in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
        sizes = draw(st.lists(st.integers(1, 4), max_size=3))
        free = [draw(st.booleans()) for _ in sizes]
        sizes = [draw(st.integers(0, 4)) if f else n for f, n in zip(free, sizes, strict=True)]
        dims = tuple(f"d{i}{j}" if f else n for j, (f, n) in enumerate(zip(free, sizes, strict=True)))
        specs.append(TensorSpec(f"t{i}", dtype, dims))
        shape = (rows, *sizes) if rows_axis else tuple(sizes)
        arrays.append(fill(dtype, shape, draw(st.integers(0, 2**32 - 1))))
    return specs, rows_axis, rows, arrays


@given(tensors())
@settings(max_examples=150, deadline=None)
def test_what_is_packed_is_unpacked_and_takes_the_room_that_was_promised(
    case: tuple[list[TensorSpec], bool, int, list[Array]],
) -> None:
    specs, rows_axis, rows, arrays = case
    layout = Layout(specs, rows_axis)
    room = layout.bytes_of(arrays, rows)
    memory = memoryview(bytearray(b"\xaa" * (AT + aligned(room) + ALIGN)))
    used = layout.pack(arrays, memory, AT)
    assert used <= room
    back = layout.unpack(memory, AT, rows)
    for spec, sent, got in zip(specs, arrays, back, strict=True):
        assert got.shape == sent.shape and got.dtype == numpy_dtype(spec.dtype)
        assert np.array_equal(got, sent)
    assert layout.row_dims(memory, AT) == tuple(a.shape[1 if rows_axis else 0 :] for a in arrays)
    assert bytes(memory[:AT]) == b"\xaa" * AT, "nothing before the span is touched"
    assert bytes(memory[AT + aligned(room) :]) == b"\xaa" * ALIGN, "nothing behind the span is touched"


@given(tensors())
@settings(max_examples=50, deadline=None)
def test_every_array_starts_on_a_cache_line(case: tuple[list[TensorSpec], bool, int, list[Array]]) -> None:
    specs, rows_axis, rows, arrays = case
    layout = Layout(specs, rows_axis)
    memory = memoryview(bytearray(aligned(layout.bytes_of(arrays, rows)) + ALIGN))
    layout.pack(arrays, memory, 0)
    base = np.frombuffer(memory, np.uint8).ctypes.data
    starts = [a.ctypes.data - base for a in layout.unpack(memory, 0, rows) if a.dtype != object and a.size]
    assert all(start % ALIGN == 0 for start in starts)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_single_fixed_array_is_its_own_bytes(rows: int) -> None:
    layout = Layout([TensorSpec("x", "float32", (3,))], True)
    array = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    memory = memoryview(bytearray(1024))
    assert layout.single and layout.row_bytes == layout.fixed_bytes(1) - 52 == 12
    assert layout.pack([array], memory, 0) == 12 * rows
    assert bytes(memory[: 12 * rows]) == array.tobytes()


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_fixed_room_counts_each_array_on_its_own_lines(rows: int) -> None:
    layout = Layout([TensorSpec("a", "float32", (3,)), TensorSpec("b", "int64", ())], True)
    assert layout.fixed_bytes(rows) == aligned(12 * rows) + aligned(8 * rows)


def test_a_large_single_array_is_packed_as_a_small_one() -> None:
    layout = Layout([TensorSpec("x", "float64", (1024,))], True)
    array = np.arange(1024, dtype=np.float64)[None]
    memory = memoryview(bytearray(8192))
    layout.pack([array], memory, 0)
    assert np.array_equal(layout.unpack(memory, 0, 1)[0], array)


def test_an_array_that_is_not_contiguous_is_packed_in_c_order() -> None:
    layout = Layout([TensorSpec("x", "int16", (2,))], True)
    turned = np.array([[1, 2], [3, 4]], np.int16).T
    memory = memoryview(bytearray(64))
    layout.pack([turned], memory, 0)
    assert layout.unpack(memory, 0, 2)[0].tolist() == [[1, 3], [2, 4]]


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_strings_come_back_as_they_were(texts: list[str]) -> None:
    layout = Layout([TensorSpec("s", "string", ())], True)
    array = np.empty(len(texts), object)
    array[:] = texts
    memory = memoryview(bytearray(aligned(layout.bytes_of([array], len(texts)))))
    layout.pack([array], memory, 0)
    assert layout.unpack(memory, 0, len(texts))[0].tolist() == texts


@pytest.mark.parametrize("bad", [3.5, None, b"bytes", "\ud800"])
def test_what_is_no_text_is_refused_before_anything_is_written(bad: object) -> None:
    layout = Layout([TensorSpec("s", "string", ())], True)
    array = np.array([bad], object)
    with pytest.raises(BadShape):
        layout.bytes_of([array], 1)
        layout.pack([array], memoryview(bytearray(1024)), 0)


@given(tensors())
def test_the_same_arrays_are_the_same_bytes_whatever_lay_there_before(
    made: tuple[list[TensorSpec], bool, int, list[Array]],
) -> None:
    specs, rows_axis, rows, arrays = made
    layout, packed = Layout(specs, rows_axis), []
    for before in (0, 255):
        memory = memoryview(bytearray([before]) * (AT + layout.bytes_of(arrays, rows)))
        used = layout.pack(arrays, memory, AT)
        packed.append(bytes(memory[AT : AT + used]))
    assert packed[0] == packed[1]
