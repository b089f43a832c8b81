"""Gather and scatter: the fast path must be exact, not only fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.serve.batching.item import Item, Segment
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.cycle.tensors import COPIED_ALONE_FROM, Gather, Scatter, finite, single_rows
from evenkeel.serve.errors import NotFinite
from evenkeel.serve.transport.layout import Layout, aligned
from evenkeel.serve.transport.rows import SharedRows
from tests.support.models import Array, signature, spec

ARENA = 64 * 1024
DTYPES = ["float32", "float64", "int64", "uint8", "bool", "float16", "bfloat16", "int16"]


@dataclass(eq=False)
class FakePeer:
    memory: memoryview = field(default_factory=lambda: memoryview(bytearray(ARENA)))

    def __post_init__(self) -> None:
        self.rows = SharedRows(self.memory)


def put(peer: FakePeer, layout: Layout, arrays: list[Array], offset: int, rows: int, capacity: int = 1024) -> Item:
    used = layout.pack(arrays, peer.memory, offset)
    return Item(offset, rows, (), 0.0, 0.0, peer, offset, capacity, used)


def batch_of(gather: Gather, segments: list[Segment], key: Any) -> Sequence[Array]:
    """As the cycle does it: by columns only where each row is one fixed array."""
    plain = gather.layout.single and gather.signature.rows_axis
    return gather.batch(segments, key, single_rows(segments, 1) if plain else None)


def whole(items: list[Item]) -> list[Segment]:
    return [Segment(i, 0, i.rows) for i in items]


def gather_for(sig: Signature, waste: float = 0.25) -> Gather:
    return Gather(sig, Layout(sig.inputs, sig.rows_axis), waste)


def random_rows(rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    return rng.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)


@given(st.integers(0, 2**32 - 1), st.sampled_from(DTYPES), st.integers(1, 6), st.integers(1, 4), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_one_vectorised_copy_gathers_what_copying_one_by_one_would(seed: int, dtype: str, a: int, b: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    sig = signature([spec("x", a, b, dtype=dtype)], [spec("y", 1)])
    layout, gather, peer = Layout(sig.inputs, True), gather_for(sig), FakePeer()
    offsets = rng.permutation(ARENA // 1024)[:count] * 1024
    rows = [random_rows(rng, layout.dtypes[0], (1, a, b)) for _ in range(count)]
    items = [put(peer, layout, [r], int(o), 1) for r, o in zip(rows, offsets, strict=True)]
    segments = whole(items)
    fast = batch_of(gather, segments, ((a, b),))
    slow = gather._by_request(segments, ((a, b),), None)
    assert np.array_equal(fast[0], np.concatenate(rows))
    assert np.array_equal(fast[0], slow[0]) and fast[0].dtype == slow[0].dtype


class Places:
    """A backend's memory, full of what a batch before has left there."""

    def __init__(self, layout: Layout) -> None:
        self._dtypes, self.lent = layout.dtypes, list[Array]()

    def __call__(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        self.lent = [np.full(shape, 1, dtype) for shape, dtype in zip(shapes, self._dtypes, strict=True)]
        return self.lent


@pytest.mark.parametrize("dim", [3, 1024, 1500])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_a_batch_in_lent_places_is_the_same_batch(dim: int, dtype: str) -> None:
    rng = np.random.default_rng(dim)
    sig = signature([spec("x", dim, dtype=dtype)], [spec("y", 1)])
    layout, gather, peer = Layout(sig.inputs, True), gather_for(sig), FakePeer()
    rows = [random_rows(rng, layout.dtypes[0], (1, dim)) for _ in range(5)]
    items = [put(peer, layout, [r], 12288 * ((3 * i) % 5), 1, 12288) for i, r in enumerate(rows)]
    segments, places = whole(items), Places(layout)
    batch = gather.batch(segments, ((dim,),), single_rows(segments, 1), places)
    assert np.array_equal(batch[0], np.concatenate(rows)) and batch[0].dtype == rows[0].dtype
    large = layout.row_bytes >= COPIED_ALONE_FROM
    assert (batch is places.lent) is large, "small rows are copied once more, by one call"


def test_padded_rows_in_lent_places_hold_nothing_of_the_batch_before() -> None:
    sig = signature([spec("x", "n", pad=-1.0), spec("b", "n", dtype="bfloat16", pad=-1.0)], [spec("y", 1)])
    layout, gather, peer = Layout(sig.inputs, True), gather_for(sig), FakePeer()
    arrays = [(np.full((2, n), n, np.float32), np.full((2, n), n, np.uint16)) for n in (9, 10)]
    items = [put(peer, layout, list(a), 4096 * i, 2, 4096) for i, a in enumerate(arrays)]
    key = gather.key(((9,), (9,)))
    assert key == gather.key(((10,), (10,)))
    places = Places(layout)
    batch = gather.batch(whole(items), key, None, places)
    fresh = gather.batch(whole(items), key, None)
    assert all(mine is lent for mine, lent in zip(batch, places.lent, strict=True))
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(batch, fresh, strict=True))


def test_a_request_alone_is_handed_over_as_it_lies_and_nothing_is_lent() -> None:
    sig = signature([spec("x", 3)], [spec("y", 1)])
    layout, gather, peer = Layout(sig.inputs, True), gather_for(sig), FakePeer()
    segments = whole([put(peer, layout, [np.ones((2, 3), np.float32)], 0, 2)])
    places = Places(layout)
    assert gather.batch(segments, ((3,),), None, places)[0].base is not None and not places.lent


@given(st.integers(0, 2**32 - 1), st.sampled_from(DTYPES), st.integers(1, 6), st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_one_vectorised_copy_scatters_what_packing_one_by_one_would(seed: int, dtype: str, dim: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    sig = signature([spec("x", 3)], [spec("y", dim, dtype=dtype)])
    inputs, outputs, peer = Layout(sig.inputs, True), Layout(sig.outputs, True), FakePeer()
    offsets = rng.permutation(ARENA // 1024)[:count] * 1024
    items = [put(peer, inputs, [np.ones((1, 3), np.float32)], int(o), 1) for o in offsets]
    result = random_rows(rng, outputs.dtypes[0], (count, dim))
    before = bytes(peer.memory)
    rows = single_rows(whole(items), 1)
    assert rows is not None
    Scatter(sig, outputs).singles(items[0], result, rows)
    expected = memoryview(bytearray(before))
    for i, item in enumerate(items):
        outputs.pack([result[i : i + 1]], expected, item.offset + aligned(item.used))
    assert bytes(peer.memory) == bytes(expected)


def test_the_fast_path_is_for_single_rows_of_one_front_only() -> None:
    left, right = FakePeer(), FakePeer()
    one, two = Item(1, 1, (), 0, 0, left, 0, 1024, 4), Item(2, 1, (), 0, 0, right, 1024, 1024, 4)
    many, longer = Item(3, 2, (), 0, 0, left, 2048, 1024, 4), Item(4, 1, (), 0, 0, left, 3072, 1024, 8)
    same = Item(5, 1, (), 0, 0, left, 4096, 1024, 4)
    rows = single_rows(whole([one, same]), 1)
    assert rows is not None and rows.tolist() == [0, 4]
    assert single_rows(whole([one]), 1) is None
    assert single_rows(whole([one, longer]), 1) is None
    assert single_rows(whole([one, two]), 1) is None
    assert single_rows(whole([one, many]), 1) is None
    assert single_rows([Segment(many, 1, 1)], 1) is None


def test_the_last_slot_of_an_arena_is_within_the_strided_view() -> None:
    peer = FakePeer()
    view = peer.rows.view(512, 128, np.dtype("float32"))
    assert view.shape == (ARENA // 1024, 128)
    view[-1] = 1.0
    assert bytes(peer.memory[-4:]) == np.float32(1.0).tobytes()


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(9, 10)), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_padding_and_cropping_give_each_request_its_own_numbers_back(shapes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sig = signature([spec("x", "n", pad=-1.0)], [spec("y", "n"), spec("z", 1)])
    layout, gather, peer = Layout(sig.inputs, True), gather_for(sig), FakePeer()
    scatter = Scatter(sig, Layout(sig.outputs, True))
    arrays = [rng.random((rows, n)).astype(np.float32) for rows, n in shapes]
    items = [put(peer, layout, [a], 4096 * i, len(a), 4096) for i, a in enumerate(arrays)]
    keys = {gather.key(((n,),)) for _, n in shapes}
    assert len(keys) == 1
    key = keys.pop()
    batch = batch_of(gather, whole(items), key)[0]
    at = 0
    for array in arrays:
        mine = batch[at : at + len(array)]
        assert np.array_equal(mine[:, : array.shape[1]], array)
        assert (mine[:, array.shape[1] :] == -1.0).all()
        cropped = scatter.crop([mine * 2, mine[:, :1]], ((array.shape[1],),), key)
        assert np.array_equal(cropped[0], array * 2) and cropped[1].shape == (len(array), 1)
        at += len(array)


def test_an_output_dim_of_another_size_than_the_padded_input_is_not_cropped() -> None:
    sig = signature([spec("x", "n", pad=0.0)], [spec("y", "n")])
    scatter = Scatter(sig, Layout(sig.outputs, True))
    pooled = np.ones((1, 3), np.float32)
    assert scatter.crop([pooled], ((9,),), ((12,),))[0].shape == (1, 3)


def test_a_free_dim_that_one_of_its_inputs_cannot_pad_is_not_padded_at_all() -> None:
    sig = signature([spec("ids", "n", pad=0.0), spec("mask", "n")], [spec("y", 1)])
    assert gather_for(sig).key(((9,), (9,))) == ((9,), (9,))


def test_an_item_without_rows_axis_is_padded_and_cropped_alone() -> None:
    sig = signature([spec("x", "n", pad=0.0)], [spec("y", "n")], rows_axis=False)
    layout, gather, peer = Layout(sig.inputs, False), gather_for(sig), FakePeer()
    item = put(peer, layout, [np.ones(9, np.float32)], 0, 1)
    batch = batch_of(gather, whole([item]), gather.key(((9,),)))
    assert batch[0].tolist() == [1.0] * 9 + [0.0]


def test_strings_of_several_requests_are_gathered() -> None:
    sig = signature([spec("s", 2, dtype="string")], [spec("y", 1)])
    layout, gather, peer = Layout(sig.inputs, True), gather_for(sig), FakePeer()
    items = [put(peer, layout, [np.array([t], object)], 1024 * i, 1) for i, t in enumerate([["a", "é"], ["", "日本"]])]
    assert batch_of(gather, whole(items), ((2,),))[0].tolist() == [["a", "é"], ["", "日本"]]


def test_parts_of_a_request_are_gathered_from_their_start() -> None:
    sig = signature([spec("x", 1)], [spec("y", 1)])
    layout, gather, peer = Layout(sig.inputs, True), gather_for(sig), FakePeer()
    first = put(peer, layout, [np.arange(5, dtype=np.float32).reshape(5, 1)], 0, 5)
    second = put(peer, layout, [np.full((2, 1), 9, np.float32)], 1024, 2)
    batch = batch_of(gather, [Segment(first, 3, 2), Segment(second, 0, 1)], ((1,),))
    assert batch[0].tolist() == [[3.0], [4.0], [9.0]]


@pytest.mark.parametrize("pad", [float("-inf"), float("inf")])
def test_infinite_padding_is_not_taken_for_a_bad_input(pad: float) -> None:
    """An attention bias is padded with minus infinity."""
    sig = signature([spec("bias", "n", pad=pad)], [spec("y", 1)])
    layout, gather, peer = Layout(sig.inputs, True), gather_for(sig), FakePeer()
    item = put(peer, layout, [np.ones((1, 9), np.float32)], 0, 1)
    gather.refuse_not_finite(batch_of(gather, whole([item]), gather.key(((9,),))))


def test_bfloat16_is_padded_with_the_number_and_not_with_its_bits() -> None:
    sig = signature([spec("x", "n", dtype="bfloat16", pad=1.0)], [spec("y", 1)])
    layout, gather, peer = Layout(sig.inputs, True), gather_for(sig), FakePeer()
    item = put(peer, layout, [np.zeros((1, 9), np.uint16)], 0, 1)
    assert batch_of(gather, whole([item]), gather.key(((9,),)))[0][0, 9] == 0x3F80


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 0.6))
def test_padding_of_two_free_dims_together_stays_within_the_waste(a: int, b: int, waste: float) -> None:
    sig = signature([spec("x", "h", "w", pad=0.0)], [spec("y", 1)])
    ((high, wide),) = gather_for(sig, waste).key(((a, b),))
    assert high >= a and wide >= b
    assert 1 - (a * b) / (high * wide) <= waste + 1e-9


def test_the_first_input_that_is_not_finite_is_named() -> None:
    sig = signature([spec("a", 1), spec("n", 1, dtype="int64"), spec("b", 1), spec("c", 1, allow_nan=True)], [spec("y", 1)])
    good, bad = np.ones((2, 1), np.float32), np.array([[1], [np.inf]], np.float32)
    ints = np.ones((2, 1), np.int64)
    gather_for(sig).refuse_not_finite([good, ints, good, bad])
    with pytest.raises(NotFinite, match="input 'b' holds NaN"):
        gather_for(sig).refuse_not_finite([good, ints, bad, good])
    with pytest.raises(NotFinite, match="input 'a' holds NaN"):
        gather_for(sig).refuse_not_finite([bad, ints, bad, good])


def test_outputs_are_made_contiguous_and_of_their_dtype_only_when_they_are_not() -> None:
    sig = signature([spec("x", 1)], [spec("y", 2)])
    scatter = Scatter(sig, Layout(sig.outputs, True))
    right = np.ones((3, 2), np.float32)
    assert scatter.checked([right], 3)[0] is right
    turned = scatter.checked([np.ones((2, 3), np.float64).T], 3)[0]
    assert isinstance(turned, np.ndarray)
    assert turned.flags.c_contiguous and turned.dtype == np.float32 and turned.shape == (3, 2)


@given(st.lists(st.floats(width=32), max_size=8), st.sampled_from(["float16", "float32", "float64"]))
def test_finite_says_what_looking_at_every_element_says(values: list[float], dtype: str) -> None:
    with np.errstate(over="ignore"):
        array = np.array(values, dtype)
    assert finite(array) == bool(np.isfinite(array).all())


def test_large_finite_numbers_whose_sum_is_not_are_finite() -> None:
    assert finite(np.full(4, np.finfo(np.float32).max, np.float32))
    assert finite(np.zeros((0, 3), np.float32))
    assert not finite(np.array([np.inf, -np.inf], np.float32))


def test_whether_all_outputs_are_finite_leaves_bfloat16_to_the_front() -> None:
    sig = signature([spec("x", 1)], [spec("a", 1), spec("b", 1, dtype="int32")])
    outputs = Scatter(sig, Layout(sig.outputs, sig.rows_axis))
    assert outputs.finite([np.ones((1, 1), np.float32), np.ones((1, 1), np.int32)])
    assert not outputs.finite([np.full((1, 1), np.nan, np.float32), np.ones((1, 1), np.int32)])
    half = signature([spec("x", 1)], [spec("a", 1, dtype="bfloat16")])
    assert not Scatter(half, Layout(half.outputs, half.rows_axis)).finite([np.ones((1, 1), np.uint16)])
