"""Who runs now, told in one place, whatever way a batch runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from evenkeel.serve.batching.item import Item, Segment
from evenkeel.serve.contract.status_page import RUN_EPOCH, RUN_SPANS_MAX, Engine, StatusBlock, StatusPage, run_spans
from evenkeel.serve.engine.cycle.run_stamp import RunStamp
from tests.support.clock import ManualClock


@dataclass
class FakeBatch:
    segments: list[Segment]
    began_s: float
    predicted_s: float = 0.5
    rows: int = 1


@pytest.fixture
def block() -> Iterator[StatusBlock]:
    yield StatusPage.create().engine(0)


@pytest.fixture
def stamp(block: StatusBlock) -> RunStamp:
    return RunStamp(block, 7, ManualClock(100.0))


def segment(id: int, deadline_s: float = 200.0) -> Segment:
    return Segment(Item(id, 1, (), deadline_s, 0.0), 0, 1)


def ids(block: StatusBlock) -> list[int]:
    return [first for first, _ in run_spans(block)]


def test_a_batch_is_named_with_its_last_deadline_until_it_is_over(block: StatusBlock, stamp: RunStamp) -> None:
    assert stamp.batch([segment(1, 150.0), segment(2, 160.0)], 2, 0.25) == 100.0
    value, count = block.value, block.count
    assert (value[Engine.RUN_STARTED_S], value[Engine.RUN_DEADLINE_S], value[Engine.RUN_PREDICTED_S]) == (100.0, 160.0, 0.25)
    assert (count[Engine.RUN_ROWS], count[RUN_EPOCH], ids(block)) == (2, 7, [1, 2])
    stamp.over()
    assert value[Engine.RUN_STARTED_S] == 0.0 and ids(block) == [1, 2], "they are the last that ran"
    stamp.leave()
    assert ids(block) == [], "nobody ended this process"


def test_the_short_way_of_one_request_says_the_same(block: StatusBlock, stamp: RunStamp) -> None:
    stamp.batch([segment(5, 150.0)], 1, 0.25)
    long = list(block.count)
    stamp.batch([segment(9)], 3, 0.0)
    stamp.single(5, 150.0, 0.25, 100.0)
    assert list(block.count) == long


def test_all_who_are_in_flight_are_named_and_the_oldest_is_timed(block: StatusBlock, stamp: RunStamp) -> None:
    older, newer = FakeBatch([segment(1, 150.0)], 90.0), FakeBatch([segment(2, 170.0), segment(3)], 95.0)
    stamp.in_flight([older, newer])
    assert ids(block) == [1, 2, 3]
    assert (block.value[Engine.RUN_STARTED_S], block.value[Engine.RUN_DEADLINE_S]) == (90.0, 150.0)
    stamp.in_flight([newer])
    assert ids(block) == [2, 3] and block.value[Engine.RUN_STARTED_S] == 95.0
    stamp.in_flight([])
    assert ids(block) == [2, 3] and block.value[Engine.RUN_STARTED_S] == 0.0


def test_a_batch_that_runs_while_others_are_in_flight_is_named_with_them(block: StatusBlock, stamp: RunStamp) -> None:
    """Two models of one engine: after a crash each of them may have been the cause."""
    stamp.in_flight([FakeBatch([segment(1)], 90.0)])
    stamp.batch([segment(4)], 1, 0.0)
    assert ids(block) == [1, 4]
    stamp.over()
    assert ids(block) == [1] and block.value[Engine.RUN_STARTED_S] == 90.0


def test_where_they_are_too_many_a_span_holds_all_of_them(block: StatusBlock, stamp: RunStamp) -> None:
    stamp.batch([segment(id) for id in range(1, RUN_SPANS_MAX + 2)], RUN_SPANS_MAX + 1, 0.0)
    assert run_spans(block) == [(1, RUN_SPANS_MAX + 1)]
