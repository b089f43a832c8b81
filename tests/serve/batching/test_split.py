"""Cutting a batch out of the queue, and the buckets of free dims."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.batching.item import Item, Segment
from evenkeel.serve.batching.pending import Pending
from evenkeel.serve.batching.split import BUCKET_MIN, bucket_edge, place


def item(id: int, rows: int, deadline_s: float = 100.0) -> Item:
    return Item(id, rows, "k", deadline_s, 0.0)


def cut(queue: deque[Item], rows: int, now_s: float = 0.0) -> list[tuple[int, int, int]]:
    return [(s.item.id, s.start, s.rows) for s in place(queue, rows, now_s)]


def test_whole_requests_are_taken_in_order_of_arrival() -> None:
    queue = deque([item(1, 2), item(2, 3), item(3, 1)])
    assert cut(queue, 5) == [(1, 0, 2), (2, 0, 3)]
    assert [i.id for i in queue] == [3]


def test_a_request_that_does_not_fit_is_split_and_stays_at_the_head() -> None:
    queue = deque([item(1, 2), item(2, 5)])
    assert cut(queue, 4) == [(1, 0, 2), (2, 0, 2)]
    assert queue[0].id == 2 and queue[0].placed == 2
    assert cut(queue, 4) == [(2, 2, 3)]
    assert not queue


def test_a_request_larger_than_any_batch_takes_as_many_as_it_needs() -> None:
    queue = deque([item(1, 10)])
    assert [cut(queue, 4) for _ in range(4)] == [[(1, 0, 4)], [(1, 4, 4)], [(1, 8, 2)], []]


def test_a_request_past_its_deadline_is_left_out() -> None:
    queue = deque([item(1, 1, deadline_s=5.0), item(2, 1)])
    assert cut(queue, 4, now_s=5.0) == [(2, 0, 1)]


def test_a_request_that_has_gone_is_left_out() -> None:
    queue = deque([item(1, 1), item(2, 1)])
    queue[0].gone = True
    assert cut(queue, 4) == [(2, 0, 1)]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=20), st.lists(st.integers(1, 16), min_size=400, max_size=400))
def test_every_row_is_placed_exactly_once_and_in_order(sizes: list[int], batches: list[int]) -> None:
    queue = deque(item(i, rows) for i, rows in enumerate(sizes))
    placed: list[tuple[int, int]] = []
    for rows in batches:
        segments = cut(queue, rows)
        assert sum(s[2] for s in segments) <= rows
        assert sum(s[2] for s in segments) == rows or not queue, "a batch is only short when the queue is empty"
        placed += [(id, start + i) for id, start, count in segments for i in range(count)]
    assert placed == [(i, row) for i, rows in enumerate(sizes) for row in range(rows)]


def take(pending: Pending, rows: int) -> list[Segment]:
    """What an engine does: place a batch from the oldest queue, and say so."""
    chosen = pending.oldest()
    assert chosen is not None
    segments = place(chosen[1], rows, 0.0)
    pending.placed(segments)
    return segments


# ---- the queue -----------------------------------------------------------------------------------------------------------


def test_the_queue_counts_rows_that_wait() -> None:
    pending = Pending()
    pending.add(item(1, 3))
    pending.add(item(2, 2))
    assert (pending.rows, len(pending)) == (5, 2)


def test_dropping_a_partly_placed_request_gives_back_only_what_still_waited() -> None:
    pending = Pending()
    one = item(1, 10)
    pending.add(one)
    take(pending, 4)
    assert pending.drop(1) is one and one.gone
    assert (pending.rows, len(pending)) == (0, 0)
    assert pending.oldest() is None


def test_dropping_twice_or_a_stranger_does_nothing() -> None:
    pending = Pending()
    pending.add(item(1, 1))
    assert pending.drop(7) is None
    assert pending.drop(1) is not None
    assert pending.drop(1) is None
    assert pending.rows == 0


def test_a_request_wholly_placed_and_answered_cannot_be_dropped() -> None:
    pending = Pending()
    one = item(1, 1)
    pending.add(one)
    take(pending, 1)
    assert pending.drop(1) is None and pending.oldest() is None


def test_shapes_queue_apart_and_the_one_that_has_waited_longest_is_next() -> None:
    pending = Pending()
    for id, key, arrived_s in ((1, "b", 2.0), (2, "a", 1.0), (3, "b", 3.0)):
        pending.add(Item(id, 1, key, 9.0, arrived_s))
    assert [s.item.id for s in take(pending, 4)] == [2]
    assert [s.item.id for s in take(pending, 4)] == [1, 3]
    assert pending.oldest() is None


def test_a_front_that_has_gone_takes_its_requests_along() -> None:
    pending = Pending()
    for id, peer in ((1, "left"), (2, "right"), (3, "left")):
        pending.add(Item(id, 2, "k", 9.0, 0.0, peer))
    assert [i.id for i in pending.drop_peer("left")] == [1, 3]
    assert pending.rows == 2 and [s.item.id for s in take(pending, 9)] == [2]


def test_an_item_is_replaced_in_its_place_by_others_with_the_same_rows() -> None:
    pending = Pending()
    items = [item(1, 1), item(2, 3), item(5, 1)]
    for each in items:
        pending.add(each)
    pending.replace(items[1], [item(2, 1), item(3, 1), item(4, 1)])
    assert pending.rows == 5 and len(pending) == 5
    assert [s.item.id for s in take(pending, 9)] == [1, 2, 3, 4, 5]
    assert (pending.rows, len(pending)) == (0, 0)


def test_what_expired_is_listed_and_the_rest_is_not() -> None:
    pending = Pending()
    pending.add(item(1, 1, deadline_s=5.0))
    pending.add(item(2, 1, deadline_s=6.0))
    assert [i.id for i in pending.expired(5.0)] == [1]
    assert Pending().expired(5.0) == []


def test_failing_a_request_keeps_its_other_rows_from_running() -> None:
    pending = Pending()
    one = item(1, 10)
    pending.add(one)
    take(pending, 4)
    pending.fail(one)
    assert (pending.rows, len(pending)) == (0, 0) and pending.oldest() is None


# ---- large requests take turns -------------------------------------------------------------------------------------------


def turns(pending: Pending, batches: int, rows: int = 4) -> list[list[tuple[int, int]]]:
    """Who is in each of the next batches, with how many rows."""
    return [[(s.item.id, s.rows) for s in take(pending, rows)] for _ in range(batches)]


def test_a_request_of_many_batches_lets_those_who_came_later_go_between() -> None:
    pending = Pending(turn_rows=4)
    pending.add(item(1, 13))
    assert turns(pending, 1) == [[(1, 4)]]
    pending.add(item(2, 1))
    pending.add(item(3, 2))
    assert turns(pending, 3) == [[(1, 4)], [(2, 1), (3, 2), (1, 1)], [(1, 4)]]
    assert (pending.rows, pending.large, pending.beyond, len(pending)) == (0, 0, 0, 0) and pending.oldest() is None


def test_two_large_requests_alternate() -> None:
    pending = Pending(turn_rows=4)
    pending.add(item(1, 8))
    pending.add(item(2, 12))
    assert turns(pending, 5) == [[(1, 4)], [(2, 4)], [(1, 4)], [(2, 4)], [(2, 4)]]


def test_a_request_of_one_batch_is_not_cut_up_for_others() -> None:
    """Where small batches are best, taking turns would only make everybody finish late."""
    pending = Pending(turn_rows=8)
    pending.add(item(1, 8))
    pending.add(item(2, 8))
    assert turns(pending, 4) == [[(1, 4)], [(1, 4)], [(2, 4)], [(2, 4)]]


def test_a_large_request_does_not_keep_other_shapes_waiting() -> None:
    pending = Pending(turn_rows=4)
    pending.add(Item(1, 100, "a", 99.0, 1.0))
    pending.add(Item(2, 1, "b", 99.0, 2.0))
    for now_s, id in ((3.0, 1), (4.0, 2)):
        chosen = pending.oldest()
        assert chosen is not None and chosen[1][0].id == id
        pending.placed(place(chosen[1], 4, now_s), now_s)


def test_a_large_suspect_that_runs_alone_takes_turns_too() -> None:
    pending = Pending(turn_rows=4)
    suspect = Item(1, 9, "k", 99.0, 0.0, alone=True)
    pending.add(suspect)
    pending.add(Item(2, 1, "k", 99.0, 1.0))
    pending.placed(place(deque((suspect,)), 4, 2.0), 2.0)
    assert turns(pending, 1) == [[(2, 1)]]


def test_of_a_large_request_one_batch_counts_for_those_behind_it() -> None:
    pending = Pending(turn_rows=4)
    pending.add(item(1, 10))
    pending.add(item(2, 4))
    assert (pending.rows, pending.large, pending.beyond) == (14, 1, 6)
    take(pending, 3)
    assert (pending.rows, pending.large, pending.beyond) == (11, 1, 3)
    take(pending, 4)  # the other goes first
    pending.drop(1)
    assert (pending.rows, pending.large, pending.beyond) == (0, 0, 0)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.lists(st.integers(1, 8), min_size=200, max_size=200),
       st.integers(0, 11))  # fmt: skip
def test_every_row_of_a_queue_with_large_requests_is_placed_once(sizes: list[int], batches: list[int], leaves: int) -> None:
    pending, placed = Pending(turn_rows=8), [0] * len(sizes)
    for id, many in enumerate(sizes):
        pending.add(item(id, many))
    for n, rows in enumerate(batches):
        if n == 3:
            pending.drop(leaves)
        if pending.oldest() is None:
            break
        for s in take(pending, rows):
            assert s.start == placed[s.item.id]
            placed[s.item.id] += s.rows
    assert [n for id, n in enumerate(placed) if id != leaves] == [n for id, n in enumerate(sizes) if id != leaves]
    assert (pending.rows, pending.large, pending.beyond, len(pending)) == (0, 0, 0, 0)


# ---- buckets --------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 100_000), st.floats(0, 0.9))
def test_padding_to_a_bucket_wastes_at_most_what_is_allowed(size: int, waste: float) -> None:
    edge = bucket_edge(size, waste)
    assert edge >= size
    assert edge == size or (edge - size) / edge <= waste


@given(st.integers(1, 5000), st.floats(0.01, 0.9))
def test_a_bucket_edge_is_its_own_bucket_and_edges_rise_with_size(size: int, waste: float) -> None:
    edge = bucket_edge(size, waste)
    assert bucket_edge(edge, waste) == edge
    assert bucket_edge(size + 1, waste) >= edge


def test_small_sizes_are_not_padded_at_all() -> None:
    assert [bucket_edge(n, 0.5) for n in range(BUCKET_MIN + 1)] == list(range(BUCKET_MIN + 1))


def test_no_waste_means_no_padding() -> None:
    assert [bucket_edge(n, 0.0) for n in (9, 100, 1000)] == [9, 100, 1000]


def test_buckets_are_few() -> None:
    assert len({bucket_edge(n, 0.25) for n in range(1, 4097)}) < 40
