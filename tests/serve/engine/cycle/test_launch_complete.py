"""Batches that fly, by a device that runs by the test's clock: launched, and completed later. The failure paths come first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from evenkeel.container.watch.stuck import StuckLimits, StuckView, stuck
from evenkeel.serve.contract.status_page import RUN_SPANS, Engine, read_engine, run_spans
from evenkeel.serve.engine.cycle.launch_complete import LaunchAndComplete
from evenkeel.serve.engine.cycle.run_now import RunNow
from evenkeel.serve.engine.failures import DeviceLost
from evenkeel.serve.engine.models import fault_injection
from evenkeel.serve.transport.descriptor import SUSPECT
from tests.support.clock import ManualClock
from tests.support.engine_bench import Answer, Bench, Fault, FrontEnd, answer, only
from tests.support.models import Array, Run, ScriptedDevice, replica, signature, spec, twice_plus_one

PAIR = signature([spec("x", 2)], [spec("y", 2)])
TAKES_S = 0.01


@contextmanager
def flying(run: Run = twice_plus_one, rows_max: int = 4, expected_s: float = TAKES_S) -> Iterator[tuple[Bench, ScriptedDevice]]:
    clock = ManualClock()
    made = replica(PAIR, run, rows_max=rows_max)
    made.cost.learn(((2,),), [(1, expected_s), (rows_max, expected_s)])
    device = made.tensors = ScriptedDevice(PAIR, run, clock, TAKES_S)
    with Bench(made, clock=clock) as bench:
        yield bench, device


def refuses_negative(inputs: Sequence[Array]) -> list[Array]:
    if (inputs[0] < 0).any():
        raise ValueError("negative input")
    return twice_plus_one(inputs)


def turns(bench: Bench, times: int = 8) -> None:
    """Turns that sleep as long as the cycle wants, but for an idle one."""
    for _ in range(times):
        wait_s = bench.cycle.turn(0)
        if not bench.cycle.idle:
            bench.clock.advance(wait_s)


def submit(front: FrontEnd, count: int, first: float = 0.0) -> list[int]:
    return front.submit_all([([[first + i, 0.0]],) for i in range(count)])


# ---- one bad item, too little memory, a lost device ------------------------------------------------------------------


def test_a_batch_that_fails_is_halved_after_the_one_beside_it_has_been_answered() -> None:
    with flying(refuses_negative) as (bench, device):
        front = bench.front()
        ids = submit(front, 3)
        bad = front.submit([[-1.0, 0.0]])
        mates = submit(front, 4, 10.0)
        turns(bench)
        assert device.did[:4] == ["launch 4", "launch 4", "complete 4", "complete 4"]
        assert device.did[4] == "run 2", "and then the halves, with nothing beside them"
        replies = front.replies()
        assert replies[bad] == Fault("model_error", "the model raised ValueError: negative input")
        assert [answer(replies, id)[0][0, 0] for id in (*ids, *mates)] == [1, 3, 5, 21, 23, 25, 27]


def test_a_nan_fails_its_own_request_and_is_never_launched() -> None:
    with flying() as (bench, _):
        front = bench.front()
        first = submit(front, 4)
        bad, good = front.submit([[float("nan"), 0.0]]), front.submit([[5.0, 0.0]])
        turns(bench)
        replies = front.replies()
        assert isinstance(replies[bad], Fault) and replies[bad].code == "not_finite_input"
        assert answer(replies, good)[0][0, 0] == 11 and set(first) < set(replies)


def test_what_was_never_launched_is_not_taken_for_stuck() -> None:
    with flying() as (bench, device):
        front = bench.front()
        front.submit([[float("nan"), 0.0]])
        bench.cycle.turn(0)
        assert isinstance(only(front.replies()), Fault) and device.did == []
        assert bench.block.value[Engine.RUN_STARTED_S] == 0.0


def test_a_batch_that_does_not_fit_beside_another_runs_whole_once_that_is_done() -> None:
    with flying() as (bench, device):
        device.room = 6
        front = bench.front()
        submit(front, 12)
        turns(bench)
        assert device.did == ["launch 4", "launch 4", "complete 4", "run 4", "launch 4", "complete 4"]
        submit(front, 8)
        turns(bench)
        assert device.did[6:] == ["launch 4", "complete 4"] * 2, "and from then on one at a time"
        assert len(front.replies()) == 20
        assert bench.replica.rows_max == 4, "it was not too large"


def test_a_batch_that_does_not_fit_alone_is_halved_and_later_ones_are_smaller() -> None:
    with flying() as (bench, device):
        device.room = 3
        front = bench.front()
        submit(front, 4)
        turns(bench)
        assert device.did[:3] == ["launch 4", "run 2", "run 2"]
        assert len(front.replies()) == 4 and bench.replica.rows_max == 2


def test_memory_that_is_short_at_the_end_of_a_batch_is_tried_again_alone() -> None:
    with flying() as (bench, device):
        front = bench.front()

        def short() -> None:
            device.on_complete = lambda: None
            device._flying.pop(0)
            raise MemoryError

        submit(front, 8)
        device.on_complete = short
        turns(bench)
        assert device.did == ["launch 4", "launch 4", "complete 4", "complete 4", "run 4"]
        assert len(front.replies()) == 8 and bench.replica.rows_max == 4


def test_a_lost_device_leaves_everybody_in_flight_named() -> None:
    with flying() as (bench, device):
        front = bench.front()
        ids = submit(front, 8)

        def lost() -> None:
            raise RuntimeError("CUDA error: device-side assert triggered")

        device.on_complete = lost
        with pytest.raises(DeviceLost):
            turns(bench)
        assert named(bench) >= set(ids)
        assert front.replies() == {}


def test_answers_that_do_not_fit_the_signature_are_the_models_error() -> None:
    with flying(lambda inputs: [inputs[0][:-1]]) as (bench, _):
        front = bench.front()
        front.submit([[1.0, 2.0]])
        turns(bench)
        reply = only(front.replies())
        assert isinstance(reply, Fault) and reply.code == "model_error" and "for 1 rows" in reply.message


# ---- callers leave, deadlines pass, fronts die -------------------------------------------------------------------------


def test_what_has_been_launched_runs_whoever_cancels() -> None:
    with flying() as (bench, _):
        front = bench.front()
        id = front.submit([[1.0, 1.0]])
        bench.cycle.turn(0)
        front.cancel(id)
        bench.clock.advance(TAKES_S)
        turns(bench)
        assert answer(front.replies(), id)[0].tolist() == [[3.0, 3.0]]


def test_a_caller_who_leaves_before_the_launch_is_told_while_another_batch_flies() -> None:
    with flying(rows_max=1) as (bench, device):
        front = bench.front()
        front.submit([[1.0, 1.0]])
        bench.cycle.turn(0)
        second = front.submit([[2.0, 2.0]])
        front.cancel(second)
        turns(bench)
        assert front.replies()[second] == Fault("cancelled", "the caller has left")
        assert device.sizes == [1]


def test_who_waits_past_the_deadline_while_another_batch_flies_is_never_launched() -> None:
    with flying(rows_max=1) as (bench, device):
        front = bench.front()
        first = front.submit([[1.0, 1.0]])
        bench.cycle.turn(0)
        late = front.submit([[2.0, 2.0]], within_s=TAKES_S / 4)
        bench.clock.advance(TAKES_S / 2)
        turns(bench)
        replies = front.replies()
        assert isinstance(replies[first], Answer) and isinstance(replies[late], Fault)
        assert replies[late].code == "deadline_exceeded" and device.sizes == [1]


def test_who_has_been_launched_is_answered_after_the_deadline_too() -> None:
    with flying() as (bench, _):
        front = bench.front()
        id = front.submit([[1.0, 1.0]], within_s=TAKES_S / 4)
        bench.cycle.turn(0)
        bench.clock.advance(TAKES_S)
        turns(bench)
        assert isinstance(front.replies()[id], Answer)


def test_the_parts_of_a_large_request_never_fly_so_that_its_slot_can_go_back_between_them() -> None:
    with flying() as (bench, device):
        front = bench.front()
        submit(front, 4)
        large = front.submit([[float(i), 0.0] for i in range(9)])
        turns(bench)
        assert [d for d in device.did if d.startswith("launch")] == ["launch 4"], device.did
        assert [row[0] for row in answer(front.replies(), large)[0].tolist()] == [2 * i + 1 for i in range(9)]


def test_a_front_that_dies_is_not_answered_and_its_batch_mates_are() -> None:
    with flying() as (bench, _):
        dies, stays = bench.front(), bench.front()
        dies.submit([[1.0, 1.0]])
        id = stays.submit([[2.0, 2.0]])
        bench.cycle.turn(0)
        dies.channel.close()
        bench.clock.advance(TAKES_S)
        turns(bench)
        assert answer(stays.replies(), id)[0].tolist() == [[5.0, 5.0]]
        assert bench.cycle.idle


def test_a_table_of_rows_in_flight_outlives_its_front_and_answers_nobody() -> None:
    with flying(rows_max=8) as (bench, device):
        dies, stays = bench.front(), bench.front()
        submit(dies, 8)
        bench.cycle.turn(0)
        assert device.did == ["launch 8"]
        ids = submit(stays, 8, 10.0)
        dies.channel.close()
        turns(bench)
        assert sorted(stays.replies()) == ids and bench.cycle.idle


def test_of_a_batch_of_two_fronts_only_the_one_that_lives_is_answered() -> None:
    with flying(rows_max=16) as (bench, device):
        dies, stays = bench.front(), bench.front()
        submit(dies, 6)
        ids = submit(stays, 6)
        bench.cycle.turn(0)
        assert isinstance(bench.model.runner, LaunchAndComplete)
        gone = bench.model.runner._flights[0].segments[0].item.peer
        assert device.did == ["launch 12"]
        dies.channel.close()
        bench.clock.advance(TAKES_S)
        turns(bench)
        assert sorted(stays.replies()) == ids and not gone.outbox, "nothing is written for nobody"


def test_a_batch_of_a_dead_front_that_fails_is_not_run_again() -> None:
    with flying(refuses_negative) as (bench, device):
        front = bench.front()
        front.submit([[-1.0, 1.0]])
        front.submit([[-1.0, 1.0]])
        bench.cycle.turn(0)
        front.channel.close()
        turns(bench)
        assert device.did == ["launch 2", "complete 2"]


def test_an_engine_told_to_close_answers_what_flies() -> None:
    with flying() as (bench, _):
        front = bench.front()
        ids = submit(front, 2)
        bench.cycle.turn(0)
        assert not bench.cycle.idle and front.replies() == {}
        bench.cycle.closing = True
        bench.cycle.serve()
        assert sorted(front.replies()) == ids


# ---- the order of things -----------------------------------------------------------------------------------------------


def test_the_next_batch_is_launched_before_the_oldest_is_waited_for() -> None:
    with flying() as (bench, device):
        front = bench.front()
        submit(front, 12)
        turns(bench)
        assert device.did == ["launch 4", "launch 4", "complete 4", "launch 4", "complete 4", "complete 4"]
        assert len(front.replies()) == 12
        assert bench.clock() == pytest.approx(1000 + 3 * TAKES_S), "the device was never idle"


def test_a_batch_of_several_is_put_together_where_the_device_copies_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenkeel.serve.engine.cycle.tensors.COPIED_ALONE_FROM", 0)
    with flying() as (bench, device):
        launch, lent = device.launch, list[bool]()

        def watched(inputs: Sequence[Array]) -> list[Array]:
            lent.append(all(mine is place for mine, place in zip(inputs, device.lent, strict=False)) and bool(device.lent))
            return launch(inputs)

        device.launch = watched  # type: ignore[method-assign]
        front = bench.front()
        submit(front, 3)
        turns(bench)
        assert lent == [True] and len(front.replies()) == 3


def test_a_lone_request_is_waited_for_after_half_of_what_it_is_expected_to_take() -> None:
    with flying() as (bench, device):
        front = bench.front()
        front.submit([[1.0, 1.0]])
        assert bench.cycle.turn(0) == pytest.approx(TAKES_S / 2), "so long the engine sleeps in its sockets"
        assert device.did == ["launch 1"]
        bench.clock.advance(TAKES_S / 2)
        bench.cycle.turn(0)
        assert isinstance(only(front.replies()), Answer) and bench.clock() == pytest.approx(1000 + TAKES_S)


def test_who_comes_while_a_batch_runs_shares_the_next_one() -> None:
    with flying() as (bench, device):
        front = bench.front()
        front.submit([[1.0, 1.0]])
        bench.cycle.turn(0)
        for _ in range(3):
            front.submit([[2.0, 2.0]])
            bench.cycle.turn(0)
        bench.clock.advance(TAKES_S / 2)
        bench.cycle.turn(0)
        assert device.did == ["launch 1", "launch 3", "complete 1"]


def test_a_full_batch_is_launched_without_waiting() -> None:
    with flying() as (bench, device):
        front = bench.front()
        front.submit([[1.0, 1.0]])
        bench.cycle.turn(0)
        submit(front, 4)
        bench.cycle.turn(0)
        assert device.did == ["launch 1", "launch 4", "complete 1"]


def test_a_batch_that_the_policy_holds_back_is_not_launched_beside_another() -> None:
    with flying(expected_s=10 * TAKES_S) as (bench, device):
        device.takes_s = 10 * TAKES_S
        front = bench.front()
        submit(front, 7)
        turns(bench)
        bench.clock.advance(1.0)
        turns(bench)
        assert device.did == ["launch 4", "complete 4", "launch 3", "complete 3"], "four cost as much as three, and may come back"
        assert len(front.replies()) == 7


def test_a_batch_of_unknown_cost_is_waited_for_at_once() -> None:
    with flying() as (bench, device):
        bench.replica.cost.curve(((2,),)).seen = False
        front = bench.front()
        front.submit([[1.0, 1.0]])
        turns(bench)
        assert device.did == ["launch 1", "complete 1"]


def test_a_suspect_runs_with_nothing_beside_it() -> None:
    with flying() as (bench, device):
        front = bench.front()
        submit(front, 2)
        bench.cycle.turn(0)
        bench.clock.advance(0.001)
        slot = front.claim(64)
        layout = bench.replica.inputs
        assert layout is not None
        used = layout.pack([np.array([[7.0, 7.0]], np.float32)], front.arena.memory, slot.offset)
        id, record = front._record(slot, used, 1, 60.0)
        front.channel.send(record[:1] + bytes((SUSPECT,)) + record[2:])
        bench.take()
        bench.clock.advance(0.001)
        submit(front, 4)
        turns(bench)
        assert device.did[:3] == ["launch 2", "complete 2", "run 1"], device.did
        assert answer(front.replies(), id)[0].tolist() == [[15.0, 15.0]]


def test_a_model_that_cannot_launch_runs_at_once() -> None:
    with Bench(replica(PAIR)) as plain, flying() as (bench, _):
        assert isinstance(plain.model.runner, RunNow) and isinstance(bench.model.runner, LaunchAndComplete)


# ---- what is learned, counted and stamped ----------------------------------------------------------------------------------


def test_a_batch_costs_the_time_between_two_completions_while_the_device_is_never_idle() -> None:
    with flying(expected_s=5 * TAKES_S) as (bench, _):
        front = bench.front()
        for _ in range(40):
            submit(front, 8)
            turns(bench)
            front.replies()
        assert bench.replica.cost.curve(((2,),)).predict(4) == pytest.approx(TAKES_S, rel=0.2)
        spent_s = bench.clock() - 1000
        assert bench.block.value[Engine.BUSY_SUM_S] <= spent_s + 1e-9, "no moment counts twice"


def test_a_batch_alone_costs_the_time_from_launch_to_completion() -> None:
    with flying(expected_s=0.0001) as (bench, _):
        front = bench.front()
        for _ in range(60):
            front.submit([[1.0, 1.0]])
            turns(bench)
            bench.clock.advance(1.0)
            front.replies()
        assert bench.replica.cost.curve(((2,),)).predict(1) == pytest.approx(TAKES_S, rel=0.2)


def test_everybody_in_flight_is_named_and_who_has_landed_is_not() -> None:
    with flying() as (bench, device):
        front = bench.front()
        ids = submit(front, 8)
        seen = []
        device.on_complete = lambda: seen.append(named(bench))
        turns(bench)
        assert seen[0] >= set(ids), "while the first is waited for, either may end the process"
        assert seen[1] >= set(ids[4:]) and not seen[1] & set(ids[:4])


def test_being_stuck_is_judged_by_the_oldest_since_it_became_the_oldest() -> None:
    with flying(expected_s=1.0) as (bench, device):
        front, value = bench.front(), bench.block.value
        device.takes_s = 1.0
        starts: list[tuple[float, float]] = []
        device.on_complete = lambda: starts.append((value[Engine.RUN_STARTED_S], value[Engine.RUN_DEADLINE_S]))
        submit(front, 4)
        bench.cycle.turn(0)
        bench.clock.advance(0.2)
        front.submit_all([([[0.0, 0.0]],)] * 4, within_s=600.0)
        bench.cycle.turn(0)
        turns(bench)
        assert device.did[:3] == ["launch 4", "launch 4", "complete 4"]
        assert starts == [(1000.0, 1060.0), (1001.0, 1600.2)], "each with its own deadline"
        assert value[Engine.RUN_STARTED_S] == 0.0, "nothing flies"


def test_a_batch_that_never_completes_is_found_stuck() -> None:
    with flying() as (bench, _):
        front = bench.front()
        submit(front, 8)
        bench.cycle.turn(0)
        at_s = bench.block.value[Engine.RUN_STARTED_S]
        view = read_engine(bench.page, 0)
        assert not stuck(view, StuckView(at_s + 1), StuckLimits()) and "predicted" in stuck(
            view, StuckView(at_s + 60), StuckLimits()
        )


def test_faults_on_purpose_happen_where_batches_fly() -> None:
    with flying() as (bench, device):
        fault_injection.apply(bench.replica, "nan:every=1")
        front = bench.front()
        front.submit([[1.0, 1.0]])
        turns(bench)
        reply = only(front.replies())
        assert isinstance(reply, Answer) and not reply.finite and device.did == ["launch 1", "complete 1"]


def named(bench: Bench) -> set[int]:
    assert bench.block.count[RUN_SPANS] > 0
    return {id for first, last in run_spans(bench.block) for id in range(first, last + 1)}
