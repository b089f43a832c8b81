"""A front between two versions: it follows one cell, and every reply names who gave it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from evenkeel.serve.contract.status_page import Front, Main
from evenkeel.serve.engine.backends.base import RawStream
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.front.routing.model_header import AnswerHeads
from tests.support.front_bench import Caller, FrontBench, codes
from tests.support.models import raw_replica, replica, signature, spec


def body(*rows: Sequence[float]) -> bytes:
    return json.dumps({"instances": rows}).encode()


def revision(number: int, columns: int = 2) -> Callable[[], Replica]:
    def make() -> Replica:
        made = replica(signature([spec("x", columns)], [spec("y", columns)]))
        made.revision, made.counters = number, number - 1
        return made

    return make


@contextmanager
def two_versions(columns: int = 2) -> Iterator[FrontBench]:
    """Revisions 1 and 2 are both up, and 1 serves."""
    with FrontBench(revision(1), revision(2, columns)) as bench:
        switch(bench, 1)
        yield bench


def switch(bench: FrontBench, number: int) -> None:
    bench.page.main.count[Main.SERVING] = number
    bench.front.sweep()


def revisions(callers: Sequence[Caller], bench: FrontBench) -> list[int]:
    """Which version has counted an answer for each of them is told by the counters."""
    assert codes(callers) == ["ok"] * len(callers)
    return [bench.page.counters(0, i).count[Front.OK] for i in range(2)]


def test_requests_go_to_the_version_that_is_named_and_to_no_other() -> None:
    with two_versions() as bench:
        callers = [bench.ask(body([1, 2])) for _ in range(20)]
        bench.settle()
        assert revisions(callers, bench) == [20, 0]
        switch(bench, 2)
        callers += [bench.ask(body([1, 2])) for _ in range(10)]
        bench.settle()
        assert revisions(callers, bench) == [20, 10] and bench.page.front(0).count[Front.FOLLOWS] == 2
        bench.assert_clean()


def test_many_at_once_are_counted_for_the_version_that_answered_them() -> None:
    with two_versions() as bench:
        callers = [bench.arrive(body([1, 2]))[0] for _ in range(30)]
        bench.step_front()
        switch(bench, 2)
        callers += [bench.arrive(body([1, 2]))[0] for _ in range(20)]
        bench.settle()
        assert revisions(callers, bench) == [30, 20]
        bench.assert_clean()


def test_a_front_does_not_follow_to_a_version_that_has_not_greeted_it() -> None:
    with two_versions() as bench:
        bench.engines[1].crash()
        bench.settle()
        switch(bench, 2)
        caller = bench.ask(body([1, 2]))
        bench.settle()
        assert revisions([caller], bench) == [1, 0]
        bench.engines[1].start()
        bench.settle()
        callers = [caller, bench.ask(body([1, 2]))]
        bench.settle()
        assert revisions(callers, bench) == [1, 1]


def test_what_the_old_version_held_when_it_ended_runs_on_the_one_that_serves() -> None:
    with two_versions() as bench:
        callers = [bench.ask(body([1, 2])) for _ in range(3)]
        bench.step_front()
        switch(bench, 2)
        bench.engines[0].crash()
        bench.settle()
        assert revisions(callers, bench) == [0, 3]
        bench.assert_clean()


def test_while_only_another_version_is_up_requests_wait_for_their_own() -> None:
    with two_versions() as bench:
        bench.engines[0].crash()
        bench.settle()
        caller = bench.ask(body([1, 2]))
        bench.settle()
        assert caller.code == "waits", "revision 2 may not be ready, and was not named"
        bench.engines[0].start()
        bench.settle()
        assert revisions([caller], bench) == [1, 0]


def test_a_request_whose_version_has_gone_is_refused_where_inputs_are_others() -> None:
    with two_versions(columns=3) as bench:
        caller = bench.ask(body([1, 2]))
        bench.step_front()
        switch(bench, 2)
        bench.engines[0].crash()
        bench.settle()
        assert caller.code == "engine_lost" and "other inputs" in str(caller.error)
        bench.assert_clean()


def test_the_name_stands_in_every_head_and_the_sum_once_it_is_known() -> None:
    starts, plain = AnswerHeads("digits", "7"), b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ncontent-length: "
    assert starts[plain] == b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\nx-evenkeel-model: digits/7\r\ncontent-length: "
    starts.know("0123456789abcdef")
    assert b"\r\nx-evenkeel-model: digits/7@0123456789ab\r\n" in starts[plain]


def test_a_name_can_add_no_line_to_a_head() -> None:
    assert AnswerHeads("a\r\nb: c", "é" * 300).line == b"x-evenkeel-model: a??b:?c/" + b"?" * 128 + b"\r\n"


def test_replies_and_refusals_of_a_version_name_it() -> None:
    with two_versions() as bench:
        caller = bench.ask(body([1, 2]))
        bench.settle()
        assert b"\r\nx-evenkeel-model: " in caller.start


def test_in_place_everything_waits_for_the_version_that_is_named_next() -> None:
    with FrontBench(revision(1), revision(2), started=False) as bench:
        bench.engines[0].start()
        bench.settle()
        switch(bench, 1)
        callers = [bench.arrive(body([1, 2]))[0] for _ in range(30)]
        bench.step_front()
        bench.engines[0].crash()
        bench.settle()
        callers += [bench.arrive(body([1, 2]))[0] for _ in range(30)]
        bench.settle()
        bench.engines[1].start()
        bench.settle()
        assert codes(callers) == ["waits"] * 60, "it was not named yet"
        switch(bench, 2)
        bench.settle(20)
        assert revisions(callers, bench) == [0, 60]
        bench.assert_clean()


def test_who_leaves_the_queue_of_an_engine_that_is_leaving_becomes_no_stream_that_nobody_reads() -> None:
    def handle(requests: Sequence[Any]) -> list[RawStream]:
        return [RawStream((b"x" * 30_000 for _ in range(100)), "text/plain") for _ in requests]

    with FrontBench(lambda: raw_replica(handle)) as bench:
        (_, first), (_, second) = bench.begin(b"1"), bench.begin(b"2")
        bench.step_front()
        bench.engines[0].turn()
        bench.engines[0].leave()
        bench.front.cancellation.abandon(first)
        bench.front.cancellation.abandon(second)
        bench.settle(20)
        assert bench.engines[0].cycle is None, "it has nothing more to do"
        bench.assert_clean()
