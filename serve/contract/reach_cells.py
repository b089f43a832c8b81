"""Which front worker has been greeted by which engine, and has had an answer from it, as the status page tells it. Pure but for
the look whether a process lives.

A worker writes the epoch of the engine that greeted it, so what it knew of an earlier life of that engine, or what an earlier
worker wrote, counts for nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from evenkeel.serve.contract.lifecycle import FrontView, ReplicaState
from evenkeel.serve.contract.status_page import EngineView, Front, Main, StatusPage, places, read_engine, serves

GRACE_S = 1.0  # to find an engine, for a worker that is new or has just lost its own: a connect takes milliseconds
DEAD_S = 2.0  # for gunicorn to replace a worker; its last beat may have been a second before its end
MOVES_S = 3.0  # a worker without a beat for so long stands still: it is woken or replaced, and shall hold up nobody


@dataclass(frozen=True, slots=True)
class Worker:
    """One front worker's word."""

    place: int
    pid: int  # 0: none has come yet
    alive: bool
    beat_s: float
    apart_s: float
    greeted: Sequence[int]  # by engine place: the epoch
    answered_by: Sequence[int]

    def reaches(self, engine: EngineView) -> bool:
        """One that leaves for its successor finishes what it has; nobody reaches that one before."""
        return self.greeted[engine.place] in (engine.epoch, engine.leaving_epoch or engine.epoch) and engine.epoch > 0


def workers(page: StatusPage) -> list[Worker]:
    views, engines = [], page.main.count[Main.ENGINES]  # twenty times a second: only of places that there are
    for place in range(page.main.count[Main.FRONTS]):
        block = page.front(place)
        pid = block.count[Front.PID]
        views.append(Worker(
            place, pid, alive(pid), block.value[Front.BEAT_S], block.value[Front.APART_S],
            block.count[Front.GREETED : Front.GREETED + engines].tolist(),
            block.count[Front.ANSWERED_BY : Front.ANSWERED_BY + engines].tolist()))  # fmt: skip
    return views


def counting(views: Sequence[Worker], now_s: float) -> list[Worker]:
    """Those that engines have to wait for: who moves, and who has not come yet. All, when there is none of these."""
    return [w for w in views if w.pid == 0 or (w.alive and now_s - w.beat_s < MOVES_S)] or list(views)


def unmet(views: Sequence[Worker], place: int, epoch: int) -> list[int]:
    """Workers that this engine has not greeted."""
    return [w.place for w in views if w.greeted[place] != epoch]


def unproven(views: Sequence[Worker], place: int, epoch: int) -> list[int]:
    """Workers that have had no answer from this engine, and could have had one."""
    return [w.place for w in views if w.answered_by[place] != epoch]


def apart(engine: EngineView, views: Sequence[Worker], now_s: float) -> list[int]:
    """Workers that live and move, and are not connected to this engine, which may be too busy to greet them, see is_free."""
    return [w.place for w in views if w.alive and now_s - w.beat_s < MOVES_S and not w.reaches(engine)]


def connected(worker: Worker, engines: Sequence[EngineView], now_s: float) -> bool:
    """Whether a request that comes to this worker finds an engine, now or in a moment."""
    if worker.alive and any(worker.reaches(e) for e in engines):
        return True
    since_s, grace_s = (worker.apart_s, GRACE_S) if worker.alive else (worker.beat_s, DEAD_S)
    return since_s > 0 and now_s - since_s < grace_s


def front_views(page: StatusPage, now_s: float) -> list[FrontView]:
    """For the verdict, of those that count."""
    engines = [read_engine(page, i) for i in places(page) if serves(page, i)]
    return [FrontView(w.place, connected(w, engines, now_s)) for w in counting(workers(page), now_s)]


def reached_by_all(page: StatusPage, place: int, now_s: float) -> bool:
    """Whether every front could send its requests to this engine."""
    engine = read_engine(page, place)
    return all(w.reaches(engine) for w in counting(workers(page), now_s))


def has_time(page: StatusPage, place: int) -> bool:
    """Whether the engine there has nothing else to do than to greet anyone who comes."""
    return is_free(read_engine(page, place))


def is_free(engine: EngineView) -> bool:
    waits = engine.state == ReplicaState.READY or (engine.state == ReplicaState.WARMING and engine.awaits_s > 0)
    return waits and not engine.stuck and engine.run_started_s <= 0


def alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
