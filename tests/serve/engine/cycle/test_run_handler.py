"""Replies of a quick handler wait for each other, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evenkeel.serve.contract.status_page import run_spans
from evenkeel.serve.engine.backends.base import RawReply, RawRequest
from evenkeel.serve.engine.cycle.run_handler import TOLD_WITHIN_S
from tests.support.clock import ManualClock
from tests.support.engine_bench import Bench
from tests.support.models import raw_replica


def taking(clock: ManualClock, seconds: Callable[[RawRequest], float]) -> Callable[[Sequence[RawRequest]], list[Any]]:
    """A handler that takes so long for each request."""

    def handle(requests: Sequence[RawRequest]) -> list[Any]:
        for request in requests:
            clock.advance(seconds(request))
        return [RawReply(request.body, "text/plain") for request in requests]

    return handle


def told_by_turn(takes_s: Callable[[RawRequest], float], bodies: Sequence[bytes]) -> list[int]:
    """How many are told at the end of each turn, until all are."""
    clock, told = ManualClock(), list[int]()
    with Bench(raw_replica(taking(clock, takes_s)), clock=clock) as bench:
        front = bench.front(slot_bytes=8192)
        bench.turn()
        for body in bodies:
            front.submit_raw(body)
        while sum(told) < len(bodies):
            bench.turn(1)
            told.append(len(front.replies()))
            assert len(told) <= len(bodies), "each turn runs one at least"
    return told


def test_those_who_are_told_together_are_no_more_than_still_wait() -> None:
    assert told_by_turn(lambda _: 0.0, [b"x"] * 8) == [4, 2, 1, 1]


def test_a_request_that_is_alone_is_told_at_once() -> None:
    assert told_by_turn(lambda _: 0.0, [b"x"]) == [1]


def test_nobody_waits_for_more_than_a_moment_of_others() -> None:
    told = told_by_turn(lambda _: TOLD_WITHIN_S / 4, [b"x"] * 20)
    assert told[0] == max(told) == 4, told


def test_replies_of_a_handler_that_takes_its_time_go_one_by_one() -> None:
    assert told_by_turn(lambda _: TOLD_WITHIN_S, [b"x"] * 10) == [1] * 10


def test_after_one_that_was_slow_each_is_told_at_once_for_a_while() -> None:
    told = told_by_turn(lambda request: 0.1 if request.body == b"slow" else 0.0, [b"slow", *[b"quick"] * 30])
    assert told[:21] == [1] * 21 and max(told) > 1, told


def test_each_request_of_a_turn_has_a_result_of_its_own_and_is_named_while_it_runs() -> None:
    clock, named = ManualClock(), list[tuple[int, bytes]]()
    with Bench(raw_replica(lambda requests: [handle(r) for r in requests]), clock=clock) as bench:

        def handle(request: RawRequest) -> Any:
            ((first, last),) = run_spans(bench.block)
            assert first == last
            named.append((first, request.body))
            return ValueError("bad") if request.body == b"1" else RawReply(request.body, "text/plain")

        front = bench.front(slot_bytes=8192)
        bench.turn()
        ids = {front.submit_raw(str(i).encode()): str(i).encode() for i in range(6)}
        bench.turn(6)
        replies = front.replies()
    assert named == list(ids.items())
    assert [getattr(replies[id], "raw", b"")[-1:] for id in ids] == [b"0", b"", b"2", b"3", b"4", b"5"]
