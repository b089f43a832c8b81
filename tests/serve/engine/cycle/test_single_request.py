"""A request that is alone takes a path of its own. Nobody may be able to tell, but for the time."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from evenkeel.serve.batching.arrivals import Arrivals
from evenkeel.serve.contract.status_page import TIME_CELLS, Engine, run_spans
from evenkeel.serve.engine.cycle.single_request import SingleRequest
from evenkeel.serve.engine.failures import DeviceLost
from evenkeel.serve.transport import descriptor
from tests.support.engine_bench import Answer, Bench, Fault, FrontEnd, answer, only
from tests.support.models import Array, Run, replica, signature, spec, twice_plus_one
from tests.support.stubborn import sends_fail

PAIR = signature([spec("x", 2)], [spec("y", 2)])


def raises(inputs: Sequence[Array]) -> list[Array]:
    raise ValueError("no")


def out_of_memory(inputs: Sequence[Array]) -> list[Array]:
    raise MemoryError("1 row")


def writes_into_its_input(inputs: Sequence[Array]) -> list[Array]:
    inputs[0][:] = 0
    return twice_plus_one(inputs)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One True for each request that took the path."""
    found: list[bool] = []
    serve = SingleRequest.serve

    def watched(self: SingleRequest, *args: Any) -> bool:
        found.extend([True] if (it_did := serve(self, *args)) else [])
        return it_did

    monkeypatch.setattr(SingleRequest, "serve", watched)
    return found


@pytest.mark.parametrize(
    ("run", "row"),
    [
        (twice_plus_one, [1.0, 2.0]),
        (twice_plus_one, [float("nan"), 2.0]),
        (lambda inputs: [inputs[0] * np.inf], [1.0, 2.0]),
        (lambda inputs: [inputs[0].astype("f8")], [1.0, 2.0]),
        (lambda inputs: [np.asfortranarray(inputs[0])], [1.0, 2.0]),
        (lambda inputs: [inputs[0][:, :1]], [1.0, 2.0]),
        (lambda inputs: [], [1.0, 2.0]),
        (raises, [1.0, 2.0]),
        (out_of_memory, [1.0, 2.0]),
        (writes_into_its_input, [1.0, 2.0]),
    ],
)
def test_it_is_answered_as_by_the_cycle(run: Run, row: list[float], taken: list[bool]) -> None:
    def asked(alone: bool) -> tuple[Answer | Fault, list[int]]:
        with Bench(replica(PAIR, run)) as bench:
            if not alone:
                bench.model.single_request = None
            front = bench.front()
            front.submit([row])
            bench.turn()
            assert bench.cycle.idle
            assert front.slots.held == len(front.held)
            return only(front.replies()), list(bench.block.count)

    (short, short_counts), (long, long_counts) = asked(True), asked(False)
    assert taken == [True]
    assert repr(short) == repr(long)
    assert (short_counts[Engine.TAKEN_SINGLE], long_counts[Engine.TAKEN_QUEUE]) == (1, 1)
    short_counts[Engine.TAKEN_SINGLE] = long_counts[Engine.TAKEN_QUEUE] = 0
    assert short_counts == long_counts


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "uint8", "bool", "bfloat16"])
def test_rows_of_any_dtype_are_answered_as_by_the_cycle(dtype: str, taken: list[bool]) -> None:
    sig = signature([spec("x", 3, 2, dtype=dtype)], [spec("y", 3, 2, dtype=dtype)])
    found = []
    for alone in (True, False):
        with Bench(replica(sig, lambda inputs: [inputs[0][:, ::-1]])) as bench:
            bench.model.single_request = bench.model.single_request if alone else None
            front = bench.front()
            front.submit([[[0, 1], [1, 1], [1, 0]]])
            bench.turn()
            found.append(repr(only(front.replies())))
    assert taken == [True]
    assert found[0] == found[1]


def test_while_it_runs_the_page_says_so_and_names_it(taken: list[bool]) -> None:
    seen = []

    def run(inputs: Sequence[Array]) -> list[Array]:
        cells = bench.block
        seen.append((cells.value[Engine.RUN_STARTED_S], cells.value[Engine.RUN_DEADLINE_S], cells.count[Engine.RUN_ROWS],
                     cells.count[Engine.QUEUE_ROWS], run_spans(cells), cells.value[Engine.BEAT_S]))  # fmt: skip
        return twice_plus_one(inputs)

    with Bench(replica(PAIR, run), epoch=7) as bench:
        bench.clock.now_s = 5.0
        front = bench.front()
        id = front.submit([[1.0, 2.0]], within_s=3.0)
        bench.turn()
        assert taken == [True]
        assert seen == [(5.0, 8.0, 1, 1, [(id, id)], 5.0)]
        assert bench.block.value[Engine.RUN_STARTED_S] == 0.0
        assert bench.block.count[Engine.QUEUE_ROWS] == 0


def test_it_is_counted_and_learned_from(taken: list[bool]) -> None:
    def run(inputs: Sequence[Array]) -> list[Array]:
        bench.clock.advance(0.004)
        return twice_plus_one(inputs)

    with Bench(replica(PAIR, run)) as bench:
        front = bench.front()
        before_s = bench.replica.cost.curve(bench.model.queue.only_key).predict(1)
        for _ in range(3):
            front.submit([[1.0, 2.0]])
            bench.turn(1)
        count = bench.block.count
        assert taken == [True] * 3
        assert (count[Engine.BATCHES], count[Engine.ROWS], count[Engine.QUEUE_TIME]) == (3, 3, 3)
        assert sum(count[Engine.RUN_TIME : Engine.RUN_TIME + TIME_CELLS]) == 3
        assert bench.block.value[Engine.RUN_SUM_S] == pytest.approx(0.012)
        assert bench.replica.cost.curve(bench.model.queue.only_key).predict(1) > before_s


def test_a_lost_device_ends_the_engine_with_the_request_named(taken: list[bool]) -> None:
    def run(inputs: Sequence[Array]) -> list[Array]:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with Bench(replica(PAIR, run)) as bench:
        front = bench.front()
        id = front.submit([[1.0, 2.0]])
        with pytest.raises(DeviceLost):
            bench.turn()
        assert run_spans(bench.block) == [(id, id)]
        assert front.replies() == {}


# ---- who is not alone, or not plain -----------------------------------------------------------------------------------


def two_at_once(front: FrontEnd) -> None:
    front.submit_all([([[1.0, 2.0]],), ([[3.0, 4.0]],)])


def several_rows(front: FrontEnd) -> None:
    front.submit([[1.0, 2.0], [3.0, 4.0]])


def too_late(front: FrontEnd) -> None:
    front.submit([[1.0, 2.0]], within_s=0.0)


def suspected(front: FrontEnd) -> None:
    _, record = front._place([[1.0, 2.0]], within_s=60.0)
    front.channel.send(record[:1] + bytes([descriptor.SUSPECT]) + record[2:])


@pytest.mark.parametrize("submit", [two_at_once, several_rows, too_late, suspected])
def test_what_is_not_alone_or_not_plain_is_left_to_the_cycle(submit: Callable[[FrontEnd], None], taken: list[bool]) -> None:
    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        submit(front)
        bench.turn()
        assert front.replies() and not front.held
        assert taken == []


def test_two_fronts_that_ask_at_once_share_a_batch(taken: list[bool]) -> None:
    with Bench(replica(PAIR)) as bench:
        one, other = bench.front(), bench.front()
        a, b = one.submit([[1.0, 2.0]]), other.submit([[3.0, 4.0]])
        bench.turn(1)
        assert bench.replica.backend.sizes == [2]
        assert answer(one.replies(), a)[0].tolist() == [[3.0, 5.0]]
        assert answer(other.replies(), b)[0].tolist() == [[7.0, 9.0]]


def test_who_came_in_company_lately_may_have_to_wait_for_it(taken: list[bool]) -> None:
    """Whether waiting pays is the policy's to say, so the cycle takes a request whose mates are expected back."""
    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        two_at_once(front)
        bench.turn()
        front.submit([[1.0, 2.0]])
        bench.turn(1)
        assert taken == []
        bench.clock.advance(1.0)  # they have not come back
        for expected in (0, 1):
            front.submit([[1.0, 2.0]])
            bench.turn(1)
            assert len(taken) == expected


def test_an_answer_that_finds_the_socket_full_is_sent_when_it_has_room(taken: list[bool]) -> None:
    with Bench(replica(PAIR)) as bench:
        front = bench.front()
        peer = next(iter(bench.cycle._peers._by_fd.values()))
        id = front.submit([[1.0, 2.0]])
        sends_fail(peer.channel, errno.EAGAIN)
        bench.turn(1)
        assert taken == [True] and front.replies() == {} and not bench.cycle.idle
        bench.turn(1)
        assert answer(front.replies(), id)[0].tolist() == [[3.0, 5.0]]
        assert bench.cycle.idle


def test_its_arrival_is_noted_as_that_of_any_other(taken: list[bool]) -> None:
    with Bench(replica(PAIR)) as bench:
        front, expected = bench.front(), Arrivals()
        for wait_s in (1.0, 0.01, 0.3, 0.0):
            bench.clock.advance(wait_s)
            front.submit([[1.0, 2.0]])
            bench.turn(1)
            expected.note(1, 1, bench.clock())
        assert len(taken) == 4 and bench.model.queue.arrivals == expected
