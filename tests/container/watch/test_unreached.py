"""An engine that a living front cannot reach is started again, and no other is."""

from __future__ import annotations

import os

from evenkeel.container.watch.stuck import StuckView
from evenkeel.container.watch.unreached import UNREACHED_S, Unreached
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import Engine, Front, Main, StatusPage


def page() -> StatusPage:
    made = StatusPage.create()
    made.main.count[Main.FRONTS] = made.main.count[Main.ENGINES] = 1
    made.engine(0).count[Engine.EPOCH], made.engine(0).count[Engine.STATE] = 1, int(ReplicaState.READY)
    made.front(0).count[Front.PID] = os.getpid()
    return made


def looks(made: StatusPage, unreached: Unreached, begin_s: float, seconds: float, busy_every: int = 0) -> list[float]:
    """At which seconds the engine was said to be out of reach, looked at every half second."""
    found, moment = [], StuckView(begin_s)
    for i in range(int(2 * seconds)):
        moment = moment.later(begin_s + i / 2)
        made.front(0).value[Front.BEAT_S] = moment.now_s
        made.engine(0).value[Engine.RUN_STARTED_S] = moment.now_s if busy_every and i % busy_every == 0 else 0.0
        if unreached.look(made, [0], moment):
            found.append(i / 2)
    return found


def test_an_engine_out_of_reach_for_long_is_named() -> None:
    found = looks(page(), Unreached(), 100.0, UNREACHED_S + 2)
    assert found and found[0] == UNREACHED_S + 0.5


def test_a_front_that_is_greeted_in_the_end_resets_the_time() -> None:
    made, unreached = page(), Unreached()
    assert looks(made, unreached, 100.0, UNREACHED_S - 1) == []
    made.front(0).count[Front.GREETED] = 1
    assert looks(made, unreached, 100.0 + UNREACHED_S - 1, 1) == []
    made.front(0).count[Front.GREETED] = 0
    assert looks(made, unreached, 100.0 + UNREACHED_S, UNREACHED_S - 1) == []


def test_time_that_nobody_watched_counts_for_nothing() -> None:
    made, unreached = page(), Unreached()
    assert looks(made, unreached, 100.0, UNREACHED_S - 1) == []
    assert unreached.look(made, [0], StuckView(100.0 + UNREACHED_S).later(100.0 + 10 * UNREACHED_S)) == {}


def test_time_between_the_batches_of_other_fronts_adds_up() -> None:
    found = looks(page(), Unreached(), 100.0, 2 * UNREACHED_S, busy_every=5)
    assert found and UNREACHED_S < found[0] < 1.8 * UNREACHED_S


def test_an_engine_that_is_always_busy_is_left_alone_and_another_in_its_place_begins_anew() -> None:
    made, unreached = page(), Unreached()
    assert looks(made, unreached, 100.0, 10 * UNREACHED_S, busy_every=1) == []
    assert looks(made, unreached, 1000.0, UNREACHED_S - 1) == []
    made.engine(0).count[Engine.EPOCH] = 2
    assert looks(made, unreached, 1000.0 + UNREACHED_S - 1, UNREACHED_S - 1) == []
