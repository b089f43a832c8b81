"""What follows the end of an engine whose version does not serve. The ends of those that serve are the supervisor's."""

from __future__ import annotations

from enum import Enum

from evenkeel.container.supervise.child import Child, how_it_ended
from evenkeel.container.versions.blue_green import BlueGreenSlot, RevisionState
from evenkeel.container.versions.slot_engines import SlotEngines
from evenkeel.container.versions.swap_progress import BAD_MODEL, SwapProgress
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.process_setup import EXIT_BAD_MODEL
from evenkeel.serve.contract.status_page import StatusPage, restart_cell

STARTS_MAX = 3  # of one engine of a new version: it may be killed from outside, but not again and again
START_AGAIN_S = 0.2


class LostEngine(Enum):
    RETIRE = "its version stands by no more"
    BAD_MODEL = "its version cannot be served"
    TOO_OFTEN = "its version ends its engines"
    START_AGAIN = "it may have been killed from outside"


def what_follows(*, stood_by: bool, code: int, ends: int) -> LostEngine:
    """`ends`: of the engine at this place since its version was asked for, this one included."""
    if stood_by:
        return LostEngine.RETIRE
    if code == EXIT_BAD_MODEL:
        return LostEngine.BAD_MODEL
    return LostEngine.TOO_OFTEN if ends >= STARTS_MAX else LostEngine.START_AGAIN


class LostEngines:
    def __init__(self, page: StatusPage, engines: SlotEngines, progress: SwapProgress) -> None:
        self._page, self._engines, self._progress = page, engines, progress

    def ended(self, slot: BlueGreenSlot, child: Child, code: int, now_s: float) -> None:
        child.ending, child.due_s = "", None
        revision = slot.staying
        if revision is None:
            return
        if code != EXIT_BAD_MODEL:
            self._page.main.count[restart_cell("engine", "signal" if code < 0 else "exit")] += 1
            child.failed_starts += 1
        how = how_it_ended(code)
        stood_by = revision.state is RevisionState.PREVIOUS
        match what_follows(stood_by=stood_by, code=code, ends=child.failed_starts):
            case LostEngine.RETIRE:
                log("standby_lost", f"{child.label} ended with {how} while version {revision.version} stood by; it stands by no "
                    "more", version=revision.version)  # fmt: skip
                self._engines.leave(slot, now_s)
            case LostEngine.BAD_MODEL:
                self._fail(BAD_MODEL)
            case LostEngine.TOO_OFTEN:
                self._fail(f"{child.label} ended {STARTS_MAX} times before it was ready, the last with {how}")
            case LostEngine.START_AGAIN:
                child.due_s = now_s + START_AGAIN_S
                log("restart", f"{child.label} of the new version ended with {how}, starting another", place=child.place,
                    role=child.role)  # fmt: skip

    def _fail(self, why: str) -> None:
        """The first reason stands: engines that end later may do so for want of the first."""
        self._progress.failed = self._progress.failed or why
