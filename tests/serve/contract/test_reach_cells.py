"""Which front worker reaches which engine, from what is on the page."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from evenkeel.serve.contract import reach_cells
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.reach_cells import DEAD_S, GRACE_S, MOVES_S, Worker
from evenkeel.serve.contract.status_page import ENGINES_MAX, Engine, EngineView, Front, Main, StatusPage, read_engine

NOW = 1000.0
NONE = (0,) * ENGINES_MAX
READY = EngineView(0, 1, 7, ReplicaState.READY, True, 1, 1, 0, 0.0, 0.0, 0, 0)
HERE = Worker(0, 1, True, NOW, 0.0, (7, *NONE[1:]), (7, *NONE[1:]))
APART = replace(HERE, place=1, apart_s=NOW - 5, greeted=NONE, answered_by=NONE)


def test_a_worker_reaches_the_engine_that_greeted_it_and_not_the_one_that_was_there_before() -> None:
    assert HERE.reaches(READY)
    assert not HERE.reaches(replace(READY, epoch=8))
    assert not APART.reaches(READY) and not APART.reaches(replace(READY, epoch=0))


def test_a_worker_stays_with_an_engine_that_finishes_what_it_has_for_its_warm_successor() -> None:
    assert HERE.reaches(replace(READY, epoch=8, leaving_epoch=7))
    assert not APART.reaches(replace(READY, epoch=8, leaving_epoch=7))


@pytest.mark.parametrize(("worker", "is_connected"), [
    (HERE, True),
    (APART, False),
    (replace(APART, apart_s=NOW - GRACE_S / 2), True),  # it has only just lost its engine, or has only just begun
    (replace(APART, apart_s=0.0), False),
    (replace(HERE, alive=False), True),  # gunicorn replaces it just now
    (replace(HERE, alive=False, beat_s=NOW - DEAD_S - 0.1), False),
    (replace(APART, pid=0, alive=False, beat_s=0.0), False),  # none has ever come
])  # fmt: skip
def test_a_worker_is_connected_or_will_be_in_a_moment(worker: Worker, is_connected: bool) -> None:
    assert reach_cells.connected(worker, [READY], NOW) == is_connected


def test_a_worker_that_is_gone_or_stands_still_holds_up_nobody_while_others_move() -> None:
    gone, still = replace(APART, alive=False), replace(APART, beat_s=NOW - MOVES_S - 0.1)
    expected = replace(APART, pid=0, alive=False, beat_s=0.0)
    assert reach_cells.counting([HERE, gone, still], NOW) == [HERE]
    assert reach_cells.counting([HERE, expected], NOW) == [HERE, expected]
    assert reach_cells.counting([gone, still], NOW) == [gone, still]


@pytest.mark.parametrize(("engine", "free"), [
    (READY, True),
    (replace(READY, state=ReplicaState.WARMING, awaits_s=NOW - 5), True),
    (replace(READY, state=ReplicaState.WARMING), False),  # it warms, and greets nobody yet
    (replace(READY, run_started_s=NOW - 60), False),  # a long batch: it greets whoever came when that is done
    (replace(READY, stuck=True), False),
    (replace(READY, state=ReplicaState.LOADING), False),
])  # fmt: skip
def test_only_an_engine_with_nothing_else_to_do_has_time_to_greet(engine: EngineView, free: bool) -> None:
    assert reach_cells.is_free(engine) is free


def test_a_worker_that_lives_and_moves_and_is_not_greeted_is_apart() -> None:
    still, gone = replace(APART, place=2, beat_s=NOW - 10), replace(APART, place=3, alive=False)
    assert reach_cells.apart(READY, [HERE, APART, still, gone], NOW) == [1]


def test_what_is_on_the_page_is_read() -> None:
    page = StatusPage.create()
    page.main.count[Main.FRONTS], page.main.count[Main.ENGINES], page.main.count[Main.SERVING] = 2, 2, 4
    for place in (0, 1):
        block = page.engine(place)
        block.count[Engine.EPOCH], block.count[Engine.STATE], block.count[Engine.REVISION] = 3, int(ReplicaState.READY), 4 + place
        front = page.front(place)
        front.count[Front.PID], front.value[Front.BEAT_S] = os.getpid(), NOW
        front.count[Front.GREETED + place] = 3  # the second knows only an engine that takes no traffic
    assert [(f.place, f.connected) for f in reach_cells.front_views(page, NOW)] == [(0, True), (1, False)]
    assert not reach_cells.reached_by_all(page, 0, NOW)
    page.front(1).count[Front.GREETED] = 3
    assert reach_cells.reached_by_all(page, 0, NOW) and not reach_cells.reached_by_all(page, 1, NOW)
    assert reach_cells.is_free(read_engine(page, 0))
