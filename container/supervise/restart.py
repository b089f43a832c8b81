"""What to do when a process has ended: start it again, and when; let its successor take over; or end the container. Pure.

How it works. Starting again is cheap, and the end of the container is not: warm models, open connections and queued requests
go with it. So progress decides. A life that answered requests was worth its start, however often it has to be repeated. Only
ends in a row of lives that did nothing say that another start cannot help either. An end whose cause is one known request says
nothing of the process. One for want of memory says first that its batch was too large.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from evenkeel.serve.contract.process_setup import EXIT_BAD_MODEL

BACKOFF_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)  # before the n-th start in a row after lives that did nothing
OBSERVER_BACKOFF_S = 1.0  # at most, for the sidecar: it costs nobody a request, and without it the verdict grows old
UNASKED_S = 600.0  # a process that stood ready for so long and was asked nothing did what it could
ENDS_KEPT = 1001  # one more than EVENKEEL_RESTART_LIMIT can be
OUT_OF_MEMORY = "out_of_memory"


class Post(Enum):
    """The place of a process in the plan."""

    OWN = "its own"
    SUCCESSOR = "beside the one that it is to replace"
    PREDECESSOR = "given up to its successor"


@dataclass(frozen=True, slots=True)
class LifeRecord:
    """What a process did between its start and its end, as the status page tells.

    `suspect`: it ended while it ran one request alone that had been in a crash before. `batch_rows`: of the batch that ran when
    it ended, 0: none did.
    """

    ready_s: float = 0.0  # how long it was ready; 0: it never was
    answered: bool = False
    suspect: bool = False
    batch_rows: int = 0

    @property
    def useful(self) -> bool:
        return self.answered or self.ready_s >= UNASKED_S


@dataclass(frozen=True, slots=True)
class End:
    """`reason`: one of RESTART_REASONS. `how`: the exit code or the signal, in words."""

    role: str
    label: str
    code: int
    reason: str
    how: str
    life: LifeRecord
    post: Post = Post.OWN


@dataclass(frozen=True, slots=True)
class History:
    """Of one place, over its lives. `idle_ends`: the reasons of the last ends in a row of lives that did nothing."""

    idle_ends: tuple[str, ...] = ()
    answered: bool = False  # some life here did answer
    rows_max: int = 0  # bound on a batch, lowered when memory did not suffice; 0: none

    @property
    def backoff_s(self) -> float:
        return BACKOFF_S[min(max(0, len(self.idle_ends) - 1), len(BACKOFF_S) - 1)]


@dataclass(frozen=True, slots=True)
class Situation:
    """Of the container, and of the others at the same place. `limit`: EVENKEEL_RESTART_LIMIT."""

    limit: int
    leaving: bool = False
    fronts_live: bool = True  # somebody could still hand requests over
    was_ready: bool = False  # the container: requests may come
    successor: bool = False  # one that is made ready beside it lives
    predecessor_serves: bool = True  # of a successor that ended: the one that it was to replace goes on


class RestartAction(Enum):
    START = "start another"
    TAKE_OVER = "its successor takes its place"
    GIVE_UP = "end the container"
    REPLACE_IN_PLACE = "its predecessor leaves before another is started"
    KEEP_PREDECESSOR = "its predecessor stays, since nothing can replace it"
    NOTHING = "nobody is missing"


@dataclass(frozen=True, slots=True)
class Step:
    """`history`: what is known from now on. `lowered`: batches are smaller from now on."""

    do: RestartAction
    history: History
    after_s: float = 0.0
    why: str = ""
    lowered: bool = False


def after(end: End, history: History, now: Situation) -> Step:
    """What follows the end of a process."""
    if now.leaving:
        return _leaving(end, history, now)
    if end.post is Post.PREDECESSOR:
        return Step(RestartAction.NOTHING, history)
    if end.post is Post.SUCCESSOR:
        return Step(_without_successor(end, now), history)
    if end.code == EXIT_BAD_MODEL:
        why = "the model cannot be served, see the line above; starting it again cannot help"
        return Step(RestartAction.GIVE_UP, history, why=why)
    remembered = remember(end, history)
    counted = len(remembered.idle_ends) > len(history.idle_ends)
    if counted and len(remembered.idle_ends) > now.limit and not (end.role == "sidecar" and now.was_ready):
        return Step(RestartAction.GIVE_UP, remembered, why=gave_up(end, remembered.idle_ends))
    lowered = remembered.rows_max != history.rows_max
    if now.successor:
        return Step(RestartAction.TAKE_OVER, remembered, lowered=lowered)
    after_s = min(remembered.backoff_s, OBSERVER_BACKOFF_S) if end.role == "sidecar" else remembered.backoff_s
    return Step(RestartAction.START, remembered, 0.0 if end.reason == "leak" else after_s, lowered=lowered)


def _leaving(end: End, history: History, now: Situation) -> Step:
    """An engine may come back while requests wait for it; nobody else is missed."""
    if end.role != "engine" or end.post is not Post.OWN or end.code == EXIT_BAD_MODEL or not now.fronts_live:
        return Step(RestartAction.NOTHING, history)
    remembered = remember(end, history)
    return Step(RestartAction.START, remembered, remembered.backoff_s)


def _without_successor(end: End, now: Situation) -> RestartAction:
    if not now.predecessor_serves:
        return RestartAction.NOTHING
    return RestartAction.KEEP_PREDECESSOR if end.code == EXIT_BAD_MODEL else RestartAction.REPLACE_IN_PLACE


def remember(end: End, history: History) -> History:
    """What this end adds to what is known of the place."""
    if end.reason == "leak":  # it left in good order
        return history
    rows_max = smaller_batch(end, history.rows_max)
    if end.life.suspect:  # one request did that, and the end before: neither tells of an engine that has answered others
        ends = history.idle_ends[:-1] if history.answered else history.idle_ends
        return replace(history, idle_ends=ends, rows_max=rows_max)
    if end.life.useful:
        return History((), history.answered or end.life.answered, rows_max)
    if rows_max != history.rows_max:
        return replace(history, rows_max=rows_max)
    return replace(history, idle_ends=(*history.idle_ends, end.reason)[-ENDS_KEPT:])


def smaller_batch(end: End, rows_max: int) -> int:
    """The bound on batches after an end for want of memory: half of what ran, as long as that is less."""
    rows = end.life.batch_rows
    return rows // 2 if end.reason == OUT_OF_MEMORY and rows > 1 else rows_max


def gave_up(end: End, idle_ends: Sequence[str]) -> str:
    """For the log: how often, of what, and the last one."""
    counted = Counter(idle_ends)
    reasons = ", ".join(f"{reason} {n} time{'s' if n > 1 else ''}" for reason, n in counted.most_common())
    did = {"engine": "answered nothing", "front": "answered nothing"}.get(end.role, "gave no verdict")
    return f"{end.label}: {len(idle_ends)} lives in a row {did} ({reasons}; the last ended with {end.how})"
