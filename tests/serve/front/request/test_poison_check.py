"""The same bytes that ended engines end no other, and whoever sends other bytes never learns of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from evenkeel.serve.contract import poison_page
from evenkeel.serve.contract.poison_page import REMEMBERED_MAX, REMEMBERED_S, Fingerprint, Poison
from evenkeel.serve.contract.status_page import Front, Main, StatusPage
from evenkeel.serve.engine.backends.base import RawReply, RawRequest
from evenkeel.serve.front.request.invocation import Invocation
from evenkeel.serve.front.request.poison_check import BYTES_MAX, PIECE
from evenkeel.serve.transport.slots import Slot
from tests.serve.front.request.test_invocations import CROWD, Dead, body, live_through, mortal, npy
from tests.support.front_bench import FrontBench, codes, head
from tests.support.models import raw_replica


def poison(n: int, found_s: float = 100.0, revision: int = 1) -> Poison:
    return Poison(found_s, revision, Fingerprint(n, n.to_bytes(16, "little")))


# ---- on the page -----------------------------------------------------------------------------------------------------------


def test_what_one_front_writes_all_read_the_newest_first() -> None:
    page = StatusPage.create()
    poison_page.write(page, 0, poison(1, 100.0))
    poison_page.write(page, 3, poison(2, 101.0))
    found = poison_page.remembered(page, range(16), 1, 102.0)
    assert found == [poison(2, 101.0), poison(1, 100.0)]


def test_they_are_forgotten_after_ten_minutes_with_the_version_and_when_there_are_too_many() -> None:
    page = StatusPage.create()
    for n in range(REMEMBERED_MAX + 3):
        poison_page.write(page, 0, poison(n, 100.0 + n))
    poison_page.write(page, 1, poison(999, 50.0))
    found = poison_page.remembered(page, range(16), 1, 360.0)
    assert len(found) == REMEMBERED_MAX and found[0] == poison(258, 358.0) and found[-1] == poison(3, 103.0)
    assert len(poison_page.remembered(page, range(16), 1, 358.0 + REMEMBERED_S - 0.5)) == 1
    assert poison_page.remembered(page, range(16), 2, 360.0) == []


# ---- in a front ------------------------------------------------------------------------------------------------------------


def test_the_same_bytes_again_are_refused_at_once_and_end_nothing() -> None:
    batches: list[list[float]] = []
    with FrontBench(mortal(batches)) as bench:
        first = bench.ask(body([-1, 2]))
        assert live_through(bench) == 2 and first.code == "poisoned_request"
        again = bench.ask(body([-1, 2]))
        assert again.error is not None and (again.code, again.error.status) == ("poisoned_request", 500)
        assert bench.ask(npy([[-1, 2]]), head("application/x-npy")).code == "poisoned_request", "the model would see the same"
        other = bench.ask(body([1, 2]))
        assert live_through(bench) == 0 and other.code == "ok" and batches.count([-1.0]) == 2
        bench.assert_clean()


def test_many_of_the_same_at_once_cost_two_ends_as_well() -> None:
    batches: list[list[float]] = []
    with FrontBench(mortal(batches)) as bench:
        same = [bench.begin(body([-1, 2]))[0] for _ in range(10)]
        good = [bench.begin(body([i, i]))[0] for i in range(10)]
        assert live_through(bench) == 2
        assert codes(same) == ["poisoned_request"] * 10 and codes(good) == ["ok"] * 10
        bench.assert_clean()


def test_a_crowd_is_looked_at_one_by_one_while_something_is_remembered() -> None:
    with FrontBench(mortal([])) as bench:
        bench.ask(body([-1, 2]))
        live_through(bench)
        callers = [bench.arrive(body([-1 if i == 3 else i, 2]))[0] for i in range(CROWD)]
        bench.settle()
        assert codes(callers) == ["poisoned_request" if i == 3 else "ok" for i in range(CROWD)]
        bench.assert_clean()


def test_after_ten_minutes_and_after_a_swap_they_may_run_again() -> None:
    with FrontBench(mortal([])) as bench:
        bench.ask(body([-1, 2]))
        live_through(bench)
        assert bench.front.failover.poisons.count == 1
        bench.front.failover.poisons.look(7, bench.clock())
        assert bench.front.failover.poisons.count == 0, "another revision"
        bench.front.sweep()
        assert bench.front.failover.poisons.count == 1
        bench.clock.advance(REMEMBERED_S)
        bench.front.sweep()
        assert bench.front.failover.poisons.count == 0
        bench.ask(body([-1, 2]))
        assert live_through(bench) == 2


def test_a_new_front_worker_and_another_one_know_them_too() -> None:
    with FrontBench(mortal([])) as bench:
        bench.ask(body([-1, 2]))
        live_through(bench)
        bench.kill_front()
        bench.settle()
        bench.front.sweep()
        assert bench.ask(body([-1, 2])).code == "poisoned_request"
        assert bench.page.front(0).count[Front.QUEUE_ROWS] == 0
        poison_page.write(bench.page, 5, poison(9, bench.clock(), bench.page.main.count[Main.SERVING]))
        bench.front.sweep()
        assert bench.front.failover.poisons.count == 2
        bench.assert_clean()


def handler_dies_of(word: bytes) -> Any:
    def handle(requests: Sequence[RawRequest]) -> list[Any]:
        if any(r.body == word for r in requests):
            raise Dead
        return [RawReply(b"fine", "text/plain", "") for _ in requests]

    return lambda: raw_replica(handle)


def test_of_a_handlers_request_what_a_client_sends_again_counts_and_not_its_id() -> None:
    with FrontBench(handler_dies_of(b"boom")) as bench:
        bench.ask(b"boom", head("text/plain"), b"\r\nX-Amzn-SageMaker-Inference-Id: 1\r\n")
        assert live_through(bench) == 2
        assert bench.ask(b"boom", head("text/plain"), b"\r\nX-Amzn-SageMaker-Inference-Id: 2\r\n").code == "poisoned_request"
        other = bench.ask(b"boomer", head("text/plain"))
        bench.settle()
        assert other.code == "ok"


@pytest.mark.parametrize("at", [0, PIECE + 5, 5 * PIECE, 10 * PIECE - 1])
def test_a_large_request_that_differs_anywhere_is_another_one(at: int) -> None:
    bad = bytearray(10 * PIECE)
    with FrontBench(handler_dies_of(bytes(bad))) as bench:
        bench.ask(bytes(bad), head("text/plain"))
        assert live_through(bench) == 2
        other = bytearray(bad)
        other[at] = 1
        caller = bench.ask(bytes(other), head("text/plain"))
        bench.settle()
        assert caller.code == "ok"
        assert bench.ask(bytes(bad), head("text/plain")).code == "poisoned_request"


def test_one_too_large_to_be_looked_at_in_one_go_is_not_remembered() -> None:
    with FrontBench(mortal([])) as bench:
        huge = Invocation(None, head())  # type: ignore[arg-type]
        huge.used, huge.slot = BYTES_MAX + 1, Slot.__new__(Slot)
        model = bench.front.engines.serving.model
        assert model is not None
        huge.model = model
        bench.front.failover.poisons.remember(huge, bench.clock())
        assert bench.front.failover.poisons.count == 0
