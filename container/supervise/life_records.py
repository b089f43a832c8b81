"""What a process has done in its life, read from the status page: the evidence for restart.py. Decides nothing.

Owner of nothing: a Mark is what the counters said when a life began, and belongs to the child.
"""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.container.supervise.restart import LifeRecord
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import Engine, Front, Main, StatusPage, places, version_counters

STEADY_S = 10.0  # a sidecar whose verdicts go on for so long has done its work


@dataclass(frozen=True, slots=True)
class Mark:
    """At the start of a life: when, and how many answers fronts had counted by then. Rehearsals are not counted there."""

    at_s: float = 0.0
    answers: int = 0


def mark(page: StatusPage, now_s: float) -> Mark:
    return Mark(now_s, answers(page))


def answers(page: StatusPage) -> int:
    fronts = range(page.main.count[Main.FRONTS])
    return sum(block.count[Front.OK] for i in fronts for block in version_counters(page, i))


def life(page: StatusPage, role: str, place: int, began: Mark, now_s: float) -> LifeRecord:
    """Of the process that has just ended there."""
    if role == "engine":
        return _engine(page, place, began, now_s)
    if role == "front":
        return LifeRecord(answered=answers(page) > began.answers)
    return LifeRecord(answered=page.main.value[Main.VERDICT_BEAT_S] - began.at_s >= STEADY_S)


def _engine(page: StatusPage, place: int, began: Mark, now_s: float) -> LifeRecord:
    """Another replica's answers are no evidence, nor are its own to warm-up requests: so both must have grown, what fronts
    answered and what this engine has run since it was ready. Where no other is ready, every answer was its own: requests that
    waited for it are answered before it has proven itself to every front."""
    block = page.engine(place)
    count, value = block.count, block.value
    was_ready = ReplicaState(count[Engine.STATE]) in (ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.CLOSED)
    ran = was_ready and count[Engine.ROWS] > count[Engine.READY_ROWS]
    running = value[Engine.RUN_STARTED_S] > 0
    return LifeRecord(
        ready_s=max(0.001, now_s - value[Engine.STATE_SINCE_S]) if was_ready else 0.0,
        answered=(ran or not _another_is_ready(page, place)) and answers(page) > began.answers,
        suspect=running and bool(count[Engine.RUN_AGAIN]),
        batch_rows=count[Engine.RUN_ROWS] if running else 0,
    )


def _another_is_ready(page: StatusPage, place: int) -> bool:
    return any(page.engine(other).count[Engine.STATE] == ReplicaState.READY for other in places(page) if other != place)
