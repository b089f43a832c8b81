"""Who is to blame when an engine ends: the one request that ended two, and nobody for what came from outside."""

from __future__ import annotations

import signal

import pytest

from evenkeel.serve.contract import engine_ends
from evenkeel.serve.contract.engine_ends import Ended
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.errors import FAMILIES, EvenkeelError
from evenkeel.serve.front.request.suspects import (
    CRASHES_MAX,
    JUDGED_WITHIN_S,
    KILLS_MAX,
    SUBMITS_MAX,
    SuspectRecord,
    blames,
    no_more,
)
from evenkeel.serve.settings import Limits
from tests.serve.front.request.test_invocations import Dead, body, live_through, mortal, plain
from tests.support.front_bench import Caller, FrontBench, codes

# ---- pure ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "ended"),
    [
        (-signal.SIGABRT, "signal", Ended.BY_ITSELF),
        (7, "exit", Ended.BY_ITSELF),
        (0, "exit", Ended.BY_ITSELF),
        (-signal.SIGKILL, "signal", Ended.KILLED),
        (-signal.SIGTERM, "signal", Ended.KILLED),
        (-signal.SIGKILL, "stuck", Ended.STUCK),
        (-signal.SIGKILL, "out_of_memory", Ended.OUT_OF_MEMORY),
        (0, "leak", Ended.ASKED),
        (-signal.SIGKILL, "leak", Ended.ASKED),
    ],
)
def test_a_signal_that_nobody_we_know_sent_is_told_from_what_an_engine_did_itself(code: int, reason: str, ended: Ended) -> None:
    assert engine_ends.how(code, reason) is ended


@pytest.mark.parametrize("ended", Ended)
def test_only_ends_that_what_ran_can_have_caused_blame_it(ended: Ended) -> None:
    its_own, with_memory = (Ended.BY_ITSELF, Ended.STUCK), (Ended.BY_ITSELF, Ended.STUCK, Ended.OUT_OF_MEMORY)
    assert blames(ended, answered=False, alone=False) is (ended in with_memory)
    assert blames(ended, answered=True, alone=False) is (ended in its_own), "memory ran short over many batches"
    assert blames(ended, answered=True, alone=True) is (ended in with_memory), "twice in a row it is the request"


def test_how_an_engine_ended_is_not_known_until_it_is_said_and_not_any_more_when_the_next_has_ended() -> None:
    block = StatusPage.create().engine(0)
    assert engine_ends.read(block, 1) is None
    engine_ends.write(block, 1, Ended.STUCK)
    assert (engine_ends.read(block, 1), engine_ends.read(block, 2)) == (Ended.STUCK, None)
    engine_ends.write(block, 2, Ended.KILLED)
    assert engine_ends.read(block, 1) is Ended.UNKNOWN


def test_only_the_second_blame_alone_is_poison_and_too_many_ends_of_any_kind_are_a_503_with_a_hint() -> None:
    assert no_more(SuspectRecord(2, CRASHES_MAX), alone=False) is None
    poison = no_more(SuspectRecord(2, CRASHES_MAX), alone=True)
    assert poison is not None and (poison.status, poison.retry_after_s) == (500, None)
    for lost in (no_more(SuspectRecord(1, 0, KILLS_MAX)), no_more(SuspectRecord(SUBMITS_MAX))):
        assert lost is not None and (lost.code, lost.status, lost.retry_after_s) == ("engine_lost", 503, 1.0)


def test_every_503_and_504_says_when_to_come_back() -> None:
    for family in FAMILIES:
        if family.status in (503, 504):
            assert family("…").retry_after_s, family
    assert EvenkeelError("…").retry_after_s is None


# ---- against a Cycle -------------------------------------------------------------------------------------------------------


def dies_while_it_runs(bench: FrontBench, place: int, ended: Ended | None) -> None:
    """The engine takes what waits for it, begins a batch, and is ended before it can answer."""
    engine = bench.engines[place]
    for _ in range(6):
        bench.step_front()
        engine.take()
    assert engine.cycle is not None, "it lives still"
    (item,) = engine.model.queue.pending.items()
    engine.cycle._engine.stamp.part(item)
    engine.crash(ended)
    bench.step_front()


def test_a_request_whose_engines_are_killed_from_outside_is_not_called_poisoned() -> None:
    with FrontBench(plain) as bench:
        caller = bench.ask(body([1, 2]))
        for _ in range(KILLS_MAX - 1):
            dies_while_it_runs(bench, 0, Ended.KILLED)
            bench.engines[0].start()
        bench.settle()
        assert caller.code == "ok"
        bench.assert_clean()


def test_after_too_many_of_them_it_is_told_to_come_back() -> None:
    with FrontBench(plain) as bench:
        caller = bench.ask(body([1, 2]))
        for _ in range(KILLS_MAX):
            assert caller.code == "waits"
            dies_while_it_runs(bench, 0, Ended.KILLED)
            bench.engines[0].start()
        assert caller.error is not None and (caller.code, caller.error.retry_after_s) == ("engine_lost", 1.0)
        bench.assert_clean()


def test_a_request_that_twice_takes_more_memory_than_there_is_ends_no_third_engine() -> None:
    with FrontBench(plain) as bench:
        caller = bench.ask(body([1, 2]))
        for _ in range(2):
            assert caller.code == "waits"
            dies_while_it_runs(bench, 0, Ended.OUT_OF_MEMORY)
            bench.engines[0].start()
        assert caller.code == "poisoned_request"
        bench.assert_clean()


def test_one_crash_and_one_kill_are_no_two_crashes() -> None:
    for first, second in ((Ended.BY_ITSELF, Ended.KILLED), (Ended.KILLED, Ended.BY_ITSELF)):
        with FrontBench(plain) as bench:
            caller = bench.ask(body([1, 2]))
            for ended in (first, second):
                dies_while_it_runs(bench, 0, ended)
                bench.engines[0].start()
            bench.settle()
            assert caller.code == "ok"
            bench.assert_clean()


def test_a_request_waits_for_the_supervisors_word_before_it_is_blamed_but_not_for_ever() -> None:
    for word, code in ((Ended.BY_ITSELF, "poisoned_request"), (Ended.KILLED, "ok"), (None, "ok")):
        with FrontBench(plain) as bench:
            caller = bench.ask(body([1, 2]))
            dies_while_it_runs(bench, 0, Ended.BY_ITSELF)
            bench.engines[0].start()
            dies_while_it_runs(bench, 0, None)
            assert caller.code == "waits"
            if word is not None:
                bench.engines[0].tell(word)
            else:
                bench.clock.advance(JUDGED_WITHIN_S)
            bench.engines[0].start()
            bench.settle()
            assert caller.code == code
            bench.assert_clean()


# ---- replicas --------------------------------------------------------------------------------------------------------------


def test_a_suspect_never_runs_on_the_last_healthy_replica() -> None:
    batches: list[list[float]] = []
    with FrontBench(mortal(batches), mortal(batches)) as bench:
        poison = bench.ask(body([-1, 2]))
        first = next(e for e, link in zip(bench.engines, bench.front.engines.links, strict=True) if link.rows)
        bench.step_front()
        with pytest.raises(Dead):
            first.turn()
        first.crash()
        good = [bench.ask(body([i, i])) for i in range(5)]
        bench.settle()
        assert codes([poison, *good]) == ["waits"] + ["ok"] * 5, "the other replica goes on"
        first.start()
        assert live_through(bench) == 1
        assert poison.code == "poisoned_request"
        assert first.epoch == 3, "it ended the one that it had ended before"
        bench.assert_clean()


def test_a_suspect_that_finds_no_replica_to_risk_waits_until_its_deadline() -> None:
    batches: list[list[float]] = []
    with FrontBench(mortal(batches), mortal(batches), limits=Limits(request_timeout_s=2.0)) as bench:
        poison: Caller = bench.ask(body([-1, 2]))
        bench.step_front()
        for engine in bench.engines:
            try:
                engine.turn()
            except Dead:
                engine.crash()
        bench.settle()
        bench.clock.advance(2.0)
        bench.front.sweep()
        assert poison.error is not None and (poison.code, poison.error.retry_after_s) == ("deadline_exceeded", 1.0)
        bench.assert_clean()


def test_two_suspects_cannot_end_two_replicas_at_once() -> None:
    batches: list[list[float]] = []
    with FrontBench(mortal(batches), mortal(batches)) as bench:
        poison = [bench.begin(body([-1, i]))[0] for i in range(4)]
        worst = 2
        for _ in range(400):
            bench.step_front()
            bench.front.sweep()
            for engine in bench.engines:
                try:
                    engine.turn()
                except Dead:
                    engine.crash()
                    bench.step_front()
            up = [e for e in bench.engines if e.cycle is not None]
            if batches.count([-1.0]) > 2:  # from the third crash on, all of them are suspects
                worst = min(worst, len(up))
            for engine in bench.engines:
                if engine.cycle is None:
                    engine.start()
        assert codes(poison) == ["poisoned_request"] * 4 and worst == 1
        bench.assert_clean()
