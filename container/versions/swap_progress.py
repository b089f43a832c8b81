"""The swap that is under way, or was last: one record, and what the status page says of it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from evenkeel.container.plan.memory_fit import MemoryFit
from evenkeel.container.versions import wishes
from evenkeel.container.versions.blue_green import BlueGreen, BlueGreenSlot
from evenkeel.container.versions.swap_table import Phase

LOAD_S_MAX = 1800.0  # of a new version, from its start to READY; who has less patience asks for the old one again
BAD_MODEL = "bad_model"  # the reason where no engine could say more
FAILURES_SHOWN = 5
MESSAGE_CHARS_MAX = 1000


@dataclass(frozen=True, slots=True)
class SwapFailure:
    """Why a version was not taken."""

    version: str
    reason: str
    message: str
    at_s: float


@dataclass(slots=True)
class SwapProgress:
    """`wanted`: the version that is to serve in the end. `target`: the one that this swap loads, which may be wanted no more."""

    wanted: str
    target: str
    phase: Phase = Phase.STEADY
    since_s: float = 0.0  # of the phase
    in_place: bool = False
    fit: MemoryFit = MemoryFit(True, "")  # noqa: RUF009  frozen; as it was measured when the wanted version was asked for
    failed: str = ""  # why the new version cannot become ready
    failures: deque[SwapFailure] = field(default_factory=lambda: deque(maxlen=FAILURES_SHOWN))

    @property
    def steady(self) -> bool:
        return self.phase is Phase.STEADY

    @property
    def how(self) -> str:
        return wishes.how(self.fit)


def why_failed(progress: SwapProgress, reports: Sequence[Mapping[str, Any]], now_s: float) -> SwapFailure:
    """`reports`: what the engines themselves said of it. They know best; else what is known of their end."""
    if reports:
        message = str(reports[0].get("message"))[:MESSAGE_CHARS_MAX]
        return SwapFailure(progress.target, str(reports[0].get("reason")), message, now_s)
    if progress.failed == BAD_MODEL:
        return SwapFailure(progress.target, BAD_MODEL, "it cannot be served; the log says why", now_s)
    if progress.failed:
        return SwapFailure(progress.target, "crashed", progress.failed, now_s)
    return SwapFailure(progress.target, "timeout", f"it was not ready after {LOAD_S_MAX:g} s", now_s)


def shown(progress: SwapProgress, places: BlueGreen, window_s: float) -> dict[str, Any]:
    """For the status page."""
    return {
        "phase": progress.phase.value, "wanted": progress.wanted, "serving": places.revision.version, "window_s": window_s,
        "how": progress.how, "why": progress.fit.why,
        "revisions": [_revision_shown(slot) for slot in places.slots if slot.revision is not None],
        "failures": [asdict(failure) for failure in progress.failures],
    }  # fmt: skip


def _revision_shown(slot: BlueGreenSlot) -> dict[str, Any]:
    revision = slot.revision
    assert revision is not None, "only what is loaded is shown"
    places = [c.place for c in slot.children]
    return {"revision": revision.number, "version": revision.version, "state": revision.state, "since_s": revision.since_s,
            "places": places}  # fmt: skip
