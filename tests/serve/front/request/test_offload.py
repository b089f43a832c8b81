"""Large bodies are decoded in a thread. Their time runs meanwhile, and no body is decoded whose caller has left."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from evenkeel.serve.contract.status_page import Front
from evenkeel.serve.errors import NUMBER, DeadlineExceeded
from evenkeel.serve.front.http.request_head import Head, Route, build
from evenkeel.serve.front.request.decoding import OFFLOADED_FROM
from evenkeel.serve.settings import Limits
from tests.support.front_bench import Caller, FrontBench
from tests.support.models import replica, signature, spec

TIMEOUT_S = 2.0
WITHIN_S = 10.0
LARGE = b'{"instances": [' + b", ".join([b"[1.5, 2.5]"] * (OFFLOADED_FROM // 10)) + b"]}"


@pytest.fixture
def bench() -> Iterator[FrontBench]:
    sig = signature([spec("x", 2)], [spec("y", 2)])
    limits = Limits(request_timeout_s=TIMEOUT_S)
    with FrontBench(lambda: replica(sig, lambda inputs: [inputs[0] + np.float32(1)], rows_max=1 << 20), limits=limits) as made:
        yield made
        _until(made, lambda: made.front.idle)
        made.assert_clean()


@contextlib.contextmanager
def busy_thread(bench: FrontBench) -> Iterator[None]:
    """Somebody else's body is being decoded for as long as this lasts."""
    done = threading.Event()
    bench.front.offload._thread.submit(done.wait, WITHIN_S)
    try:
        yield
    finally:
        done.set()


def _until(bench: FrontBench, done: object) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not done():  # type: ignore[operator]
        assert time.monotonic() < end_s
        bench.settle(1)
        bench.clock.advance(0.001)  # the engine may wait a moment for more rows


def answered(*callers: Caller) -> object:
    return lambda: all(c.answered for c in callers)


def test_a_large_body_is_decoded_aside_and_answered(bench: FrontBench) -> None:
    caller = bench.ask(LARGE)
    assert not bench.front.idle and not bench.front.in_flight.pending
    _until(bench, answered(caller))
    assert caller.code == "ok" and caller.body is not None and caller.body.count(b"[2.5,3.5]") == OFFLOADED_FROM // 10


def test_who_waits_to_be_decoded_is_told_at_the_deadline(bench: FrontBench) -> None:
    with busy_thread(bench):
        caller = bench.ask(LARGE)
        bench.clock.advance(TIMEOUT_S - 0.1)
        bench.front.sweep()
        assert caller.code == "waits"
        bench.clock.advance(0.1)
        bench.front.sweep()
    assert caller.code == "deadline_exceeded"
    assert bench.page.front(0).count[Front.ERRORS + NUMBER[DeadlineExceeded]] == 1


def test_the_deadline_counts_from_when_the_request_was_here_not_from_when_it_was_decoded(bench: FrontBench) -> None:
    with busy_thread(bench):
        caller, invocation = bench.begin(LARGE)
        came_s = bench.clock()
        bench.clock.advance(TIMEOUT_S / 2)
    _until(bench, lambda: caller.answered or bench.front.in_flight.pending)
    assert invocation.deadline_s == came_s + TIMEOUT_S


@pytest.mark.parametrize("late", [False, True])
def test_the_body_of_one_who_does_not_wait_any_more_is_not_decoded(
    bench: FrontBench, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with busy_thread(bench):
        caller, invocation = bench.begin(LARGE)
        monkeypatch.setattr(type(invocation.head.formats.decoder), "decode", lambda *_: pytest.fail("it was decoded"))
        if late:
            bench.clock.advance(TIMEOUT_S)
            bench.front.sweep()
        else:
            bench.front.cancellation.abandon(invocation)
    _until(bench, lambda: bench.front.idle)
    assert bench.front.offload.bytes == 0
    assert caller.code == ("deadline_exceeded" if late else "waits")
    assert bench.page.front(0).count[Front.ABANDONED] == (not late)


ROWS = 40_000  # so many rows are quick to decode as they lie in memory, and not quick to encode as text
RAW = np.tile(np.array([1.5, 2.5], np.float32), (ROWS, 1)).tobytes()


def wide() -> Head:
    headers = [(b"content-type", b"application/octet-stream"), (b"accept", b"application/json")]
    return build(Route.INVOKE, b"POST", dict(headers), True, None)


def test_a_large_answer_is_encoded_in_the_thread_and_its_slot_is_free_then(bench: FrontBench) -> None:
    with busy_thread(bench):
        caller = bench.ask(RAW, wide())
        _until(bench, lambda: not bench.front.in_flight.pending)
        assert not caller.answered and bench.front.slot_writer.slots.held == 1
    _until(bench, answered(caller))
    assert caller.code == "ok" and caller.body is not None and caller.body.count(b"[2.5,3.5]") == ROWS


def test_who_leaves_while_the_answer_is_encoded_strands_nothing(bench: FrontBench) -> None:
    with busy_thread(bench):
        caller, invocation = bench.begin(RAW, wide())
        _until(bench, lambda: not bench.front.in_flight.pending)
        assert not caller.answered
        bench.front.cancellation.abandon(invocation)
    _until(bench, lambda: bench.front.idle)


def test_an_answer_that_waits_to_be_encoded_is_refused_at_its_deadline(bench: FrontBench) -> None:
    with busy_thread(bench):
        caller, _ = bench.begin(RAW, wide())
        _until(bench, lambda: not bench.front.in_flight.pending)
        bench.clock.advance(TIMEOUT_S)
        bench.front.sweep()
    assert caller.code == "deadline_exceeded"
    _until(bench, lambda: bench.front.idle)


def test_what_may_unfold_is_decoded_in_the_thread_however_small_it_is(bench: FrontBench) -> None:
    with busy_thread(bench):
        caller = bench.ask(b'{"instances": [{"keys": [], "shape": [99999999], "values": []}]}')
        assert caller.code == "waits"
    _until(bench, answered(caller))
    assert caller.code == "bad_shape"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug")])
def test_an_error_that_nobody_expected_is_answered_all_the_same(
    bench: FrontBench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def decode(*_: object) -> None:
        raise error

    small, large = b'{"instances": [[1, 2], [3, 4]]}', LARGE
    monkeypatch.setattr(type(bench.begin(small)[1].head.formats.decoder), "decode", decode)
    for body in (small, large):
        caller = bench.ask(body)
        _until(bench, answered(caller))
        assert caller.code == ("out_of_memory" if isinstance(error, MemoryError) else "internal")


def test_who_waits_for_the_thread_when_the_worker_stops_is_told(bench: FrontBench) -> None:
    with busy_thread(bench):
        caller = bench.ask(LARGE)
        bench.front.end_all()
        assert caller.code == "not_ready"
    _until(bench, lambda: bench.front.idle)
