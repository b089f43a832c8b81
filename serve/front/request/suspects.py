"""Who is to blame when an engine ends: what a front knows of that end, and what becomes of a request that ran then. Pure.

How it works. Anyone who may have run in the batch that ended an engine is a suspect, and runs alone from then on. If that ends an
engine once more, there is one cause, and it is refused. But an end that has another known cause blames nobody: somebody
killed the engine, it was asked to leave, or memory was short after it had answered others. A request that meets too many of
those is told to come back.
"""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.serve.contract.engine_ends import Ended
from evenkeel.serve.contract.status_page import StatusBlock
from evenkeel.serve.errors import EngineLost, EvenkeelError, PoisonedRequest

CRASHES_MAX = 2  # blamed on a request: it runs again after the first, alone; when that ends an engine too, it was the cause
KILLS_MAX = 3  # ends that blame nobody, while it ran
SUBMITS_MAX = 6  # to one engine after the other, each of which ended before it ran the request
JUDGED_WITHIN_S = 1.0  # by then the supervisor has said how an engine ended; if it has not, nobody is blamed


@dataclass(frozen=True, slots=True)
class LastRun:
    """What an engine ran when it ended. `spans`: ids from the first to the last of each; None: nobody knows, so anybody may have
    run. `answered`: it had answered other batches of this front's life with it. `lost_s`: when the front lost it."""

    block: StatusBlock
    epoch: int
    spans: tuple[tuple[int, int], ...] | None
    answered: bool
    lost_s: float

    def may_hold(self, id: int) -> bool:
        return self.spans is None or any(first <= id <= last for first, last in self.spans)

    def held_only(self, id: int) -> bool:
        return self.spans == ((id, id),)


@dataclass(frozen=True, slots=True)
class SuspectRecord:
    """Of one request: how often it was given to an engine, and ended there."""

    submits: int = 0
    crashes: int = 0
    kills: int = 0

    def after(self, ended: Ended, answered: bool, alone: bool) -> SuspectRecord:
        """It was running, or may have been, at another end."""
        if blames(ended, answered, alone):
            return SuspectRecord(self.submits, self.crashes + 1, self.kills)
        return SuspectRecord(self.submits, self.crashes, self.kills + 1)


def blames(ended: Ended, answered: bool, alone: bool) -> bool:
    """Whether what ran may be the cause of such an end. `answered`: the engine had answered other batches. `alone`: only one
    request ran. Memory that ran short over many batches may be anybody's; a request that meets it alone has another try."""
    if ended is Ended.OUT_OF_MEMORY:
        return alone or not answered
    return ended in (Ended.BY_ITSELF, Ended.STUCK)


def no_more(record: SuspectRecord, alone: bool = False) -> EvenkeelError | None:
    """Why a request whose engine has ended is not run again; None: it is. `alone`: only it ran, and it is blamed."""
    if alone and record.crashes >= CRASHES_MAX:
        return PoisonedRequest("the engine ended twice while it ran this request, the second time alone; it is not tried again")
    if record.kills >= KILLS_MAX:
        return EngineLost(f"{record.kills} engines were ended from outside, one after the other, while they ran this request")
    if record.submits >= SUBMITS_MAX:
        return EngineLost(f"{record.submits} engines ended, one after the other, while this request was in them")
    return None


def poisoned_again() -> PoisonedRequest:
    """To the same bytes, sent another time."""
    return PoisonedRequest("the same request ended two engines a short time ago, the second time alone; it is not tried again")
