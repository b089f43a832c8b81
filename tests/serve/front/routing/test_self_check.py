"""What is sent and never comes back is noticed, however slow the model may be; and a model that is slow is left alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import Engine, Front
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.front.routing.self_check import LOST_LOOKS, OWN_LOOKS, SelfCheck
from tests.support.front_bench import FrontBench
from tests.support.models import replica, signature, spec

BODY = b"[[1.0, 2.0]]"


def twice() -> Replica:
    return replica(signature([spec("x", 2)], [spec("y", 2)]), lambda x: [np.asarray(x[0]) * 2])


class Looking:
    """A front that looks once a second at engines that are ready, whatever they do with what they are sent."""

    def __init__(self, bench: FrontBench) -> None:
        self.bench = bench
        connections: Any = SimpleNamespace(invocations=bench.front, page=bench.page)
        self.check = SelfCheck(connections, connect=None, quiet_s=0)  # type: ignore[arg-type]
        for engine in bench.engines:
            bench.page.engine(engine.number).count[Engine.STATE] = int(ReplicaState.READY)

    def look(self, times: int) -> None:
        for _ in range(times):
            self.bench.clock.advance(1.0)
            for engine in self.bench.engines:
                self.bench.page.engine(engine.number).value[Engine.BEAT_S] = self.bench.clock()
            self.check.look(self.bench.clock())

    @property
    def reached(self) -> list[int]:
        count = self.bench.page.front(0).count
        return [e.number for e in self.bench.engines if count[Front.GREETED + e.number] == e.epoch]


def test_an_engine_that_has_nothing_to_do_and_does_not_answer_is_not_reached_any_more() -> None:
    with FrontBench(twice) as bench:
        looking = Looking(bench)
        looking.look(1)
        waiting = bench.ask(BODY)
        looking.look(LOST_LOOKS - 1)
        assert looking.reached == [0]
        looking.look(1)
        assert looking.reached == [] and bench.front.engines.serving.up == [] and waiting.code == "waits"


def test_an_engine_that_answers_after_all_is_trusted_again() -> None:
    with FrontBench(twice) as bench:
        looking = Looking(bench)
        first = bench.ask(BODY)
        looking.look(LOST_LOOKS + 1)
        held = bench.ask(BODY)
        bench.settle()
        looking.look(1)
        bench.settle()
        assert looking.reached == [0] and first.code == held.code == "ok"
        bench.assert_clean()


def test_requests_go_to_the_engine_that_answers() -> None:
    with FrontBench(twice, twice) as bench:
        looking = Looking(bench)
        bench.ask(BODY)
        bench.ask(BODY)
        bench.step_front()
        bench.step_front()
        bench.engines[1].turn()
        bench.step_front()
        looking.look(LOST_LOOKS + 1)
        assert looking.reached == [1]
        later = bench.ask(BODY)
        bench.step_front()
        bench.engines[1].turn()
        bench.step_front()
        assert later.code == "ok"


@pytest.mark.parametrize("busy", [{"RUN_STARTED_S": 1.0}, {"QUEUE_ROWS": 3}, {"STATE": int(ReplicaState.WARMING)}])
def test_an_engine_that_is_busy_is_never_mistrusted(busy: dict[str, Any]) -> None:
    with FrontBench(twice) as bench:
        looking = Looking(bench)
        block = bench.page.engine(0)
        for name, value in busy.items():
            (block.value if isinstance(value, float) else block.count)[Engine[name]] = value
        bench.ask(BODY)
        looking.look(100)
        assert looking.reached == [0]


def test_what_vanished_is_noticed_beside_the_traffic_of_another_front() -> None:
    with FrontBench(twice) as bench:
        looking = Looking(bench)
        looking.look(1)
        bench.ask(BODY)
        for look in range(3 * LOST_LOOKS):
            bench.page.engine(0).value[Engine.RUN_STARTED_S] = bench.clock() if look % 2 else 0.0
            looking.look(1)
        assert looking.reached == []


def test_an_engine_that_stands_still_is_left_to_the_supervisor() -> None:
    with FrontBench(twice) as bench:
        looking = Looking(bench)
        bench.ask(BODY)
        for _ in range(100):
            bench.clock.advance(1.0)
            looking.check.look(bench.clock())
        assert looking.reached == [0]


def test_what_a_lost_engine_had_is_held_rather_than_given_to_one_that_does_not_answer() -> None:
    with FrontBench(twice, twice) as bench:
        looking = Looking(bench)
        first, second = bench.ask(BODY), bench.ask(BODY)
        bench.step_front()
        silent, lost = bench.engines
        for _ in range(LOST_LOOKS + 1):
            looking.look(1)
            lost.turn()
            bench.step_front()
        assert bench.front.engines.serving.up == [bench.front.engines.links[1]]
        third = bench.ask(BODY)
        lost.crash()
        bench.step_front()
        bench.step_front()
        assert third.code == "waits" and bench.front.engines.links[0].rows == 1, "the silent one was given nothing more"
        lost.start()
        bench.settle()
        assert {first.code, second.code, third.code} == {"ok"} and silent.cycle is not None
        bench.assert_clean()


def test_a_worker_whose_question_is_still_being_worked_on_does_not_end_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenkeel.serve.front.routing.self_check.leave", lambda code: pytest.fail("it ended itself"))
    with FrontBench(twice) as bench:
        looking = Looking(bench)
        looking.look(1)
        bench.ask(BODY)
        silence = looking.check._silences[0]
        silence.asking = SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setattr(bench.front, "waits_at", lambda link: False)  # as while its answer is a stream, or is encoded
        looking.look(2 * OWN_LOOKS)
        bench.settle()
