"""The life of a swap: phases, legal steps, and which step is due. A table and pure decisions; deployer.py acts.

`step` looks at a snapshot and says what to do next. Nothing here knows processes, files or clocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    STEADY = "steady"  # one version serves; the one before may stand by
    CLEARING = "clearing"  # engines leave to make room for the new version
    LOADING = "loading"  # the new version loads, warms and is checked; it has no traffic
    SWITCHING = "switching"  # fronts go over, each between two requests
    RESTORING = "restoring"  # the new version failed in the old one's place: the old one is loaded again


NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.STEADY: frozenset({Phase.CLEARING, Phase.SWITCHING}),  # a switch without load: to the version that stands by
    Phase.CLEARING: frozenset({Phase.LOADING, Phase.STEADY, Phase.RESTORING}),  # or nobody wants the new one any more
    Phase.LOADING: frozenset({Phase.SWITCHING, Phase.STEADY, Phase.RESTORING}),
    Phase.SWITCHING: frozenset({Phase.STEADY}),
    Phase.RESTORING: frozenset({Phase.STEADY}),
}


def go(phase: Phase, target: Phase) -> Phase:
    if target not in NEXT[phase]:
        raise ValueError(f"illegal step {phase.name} -> {target.name}")
    return target


class SwapAction(Enum):
    NOTHING = "nothing"
    CLEAR = "clear"  # engines finish and end: those of the other slot, in place also those that serve
    LOAD = "load"  # start the engines of the wanted version in the other slot
    SWITCH = "switch"  # name the other slot's revision as the one that serves
    SETTLE = "settle"  # every front follows: the old one stands by
    GIVE_UP = "give up"  # the new one is ended, the old one serves as before
    RESTORE = "restore"  # the same, but the old one has to be loaded again
    RESTORED = "restored"
    RETIRE = "retire"  # the version that stands by has done so long enough


PHASE_AFTER: dict[SwapAction, Phase] = {
    SwapAction.CLEAR: Phase.CLEARING,
    SwapAction.LOAD: Phase.LOADING,
    SwapAction.SWITCH: Phase.SWITCHING,
    SwapAction.SETTLE: Phase.STEADY,
    SwapAction.GIVE_UP: Phase.STEADY,
    SwapAction.RESTORE: Phase.RESTORING,
    SwapAction.RESTORED: Phase.STEADY,
}


@dataclass(frozen=True, slots=True)
class SwapView:
    """One moment. The other slot is the one that does not serve: it holds the new version, or one that stands by."""

    phase: Phase
    wanted: bool = False  # another version than the one that serves is wanted, now
    in_place: bool = False
    cleared: bool = False  # every engine that was told to leave has ended
    other_wanted: bool = False  # the other slot holds just the wanted version
    other_ready: bool = False  # every engine there is READY
    other_failed: bool = False  # one of them cannot become so, or it took too long
    followed: bool = False  # every front sends its requests to the revision that serves, or had time enough
    serving_ready: bool = False
    previous_over: bool = False  # the version before has stood by for its whole window


def step(v: SwapView) -> SwapAction:
    match v.phase:
        case Phase.STEADY:
            return _steady(v)
        case Phase.CLEARING:
            if not v.wanted:
                if v.in_place:  # engines that were told to leave take nothing more: the old version begins when they are gone
                    return SwapAction.RESTORE if v.cleared else SwapAction.NOTHING
                return SwapAction.GIVE_UP
            return SwapAction.LOAD if v.cleared else SwapAction.NOTHING
        case Phase.LOADING:
            if v.other_failed or not (v.wanted and v.other_wanted):
                return SwapAction.RESTORE if v.in_place else SwapAction.GIVE_UP
            return SwapAction.SWITCH if v.other_ready else SwapAction.NOTHING
        case Phase.SWITCHING:
            return SwapAction.SETTLE if v.followed else SwapAction.NOTHING
        case Phase.RESTORING:
            return SwapAction.RESTORED if v.serving_ready else SwapAction.NOTHING


def _steady(v: SwapView) -> SwapAction:
    if v.wanted:
        return SwapAction.SWITCH if v.other_wanted and v.other_ready else SwapAction.CLEAR
    return SwapAction.RETIRE if v.previous_over else SwapAction.NOTHING
