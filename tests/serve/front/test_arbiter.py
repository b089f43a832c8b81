"""gunicorn's arbiter, as the front uses it: when it ends a worker, and when the silence was its own."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest

from evenkeel.serve.front import arbiter
from evenkeel.serve.front.arbiter import Application, FrontArbiter
from evenkeel.serve.settings import FrontSettings, Limits
from tests.support.clock import ManualClock

TIMEOUT_S = 15
SETTINGS = FrontSettings(-1, -1, 1, (), Limits(), None, 1.0, False, TIMEOUT_S)


class Beats:
    """A worker's file of beats."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.notify()

    def notify(self) -> None:
        self._at_s = self._clock()

    def last_update(self) -> float:
        return self._at_s


class Worker:
    aborted = False

    def __init__(self, clock: ManualClock) -> None:
        self.tmp = Beats(clock)


class Watched(FrontArbiter):
    """The decisions alone: nothing is started, and signals are noted."""

    def __init__(self, clock: ManualClock) -> None:
        self.timeout, self._looked_s = TIMEOUT_S, clock()
        self.log = arbiter.Log(None)
        self.WORKERS = {pid: Worker(clock) for pid in (11, 12)}
        self.signals: list[tuple[int, int]] = []

    def kill_worker(self, pid: int, sig: int) -> None:
        self.signals.append((pid, sig))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[ManualClock]:
    manual = ManualClock(100.0)
    monkeypatch.setattr("time.monotonic", manual)
    yield manual


def look_each_second(watched: Watched, clock: ManualClock, seconds: int, beating: tuple[int, ...] = ()) -> None:
    for _ in range(seconds):
        clock.advance(1.0)
        for pid in beating:
            watched.WORKERS[pid].tmp.notify()
        watched.murder_workers()


def test_after_a_pause_of_everybody_no_worker_is_blamed(clock: ManualClock) -> None:
    watched = Watched(clock)
    for pause_s in (20.0, 35.0, 3600.0):
        look_each_second(watched, clock, 5, beating=(11, 12))
        clock.advance(pause_s)
        watched.murder_workers()
    assert watched.signals == []


def test_a_worker_that_stands_still_while_the_arbiter_looks_is_ended(clock: ManualClock) -> None:
    watched = Watched(clock)
    look_each_second(watched, clock, TIMEOUT_S + 2, beating=(11,))
    assert watched.signals[0] == (12, signal.SIGABRT)
    assert {pid for pid, _ in watched.signals} == {12}


def test_one_that_hangs_since_the_pause_is_ended_a_timeout_after_it(clock: ManualClock) -> None:
    watched = Watched(clock)
    clock.advance(35.0)
    look_each_second(watched, clock, TIMEOUT_S, beating=(11,))
    assert watched.signals == []
    look_each_second(watched, clock, 3, beating=(11,))
    assert watched.signals[0] == (12, signal.SIGABRT)


def test_what_is_loaded_before_the_fork_is_never_looked_at_by_a_workers_collector() -> None:
    """A look writes to each object, and its page would no longer be shared: 20 MB for each worker."""
    gc.unfreeze()
    try:
        gunicorn = Application.__new__(Application)
        gunicorn.settings = SETTINGS
        application = Application.load(gunicorn)
        assert gc.get_freeze_count() > 10_000
        assert all(o is not application for o in gc.get_objects())
    finally:
        gc.unfreeze()
