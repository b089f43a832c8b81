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


class Do(Enum):
    NOTHING = "nothing"
    CLEAR = "clear"  # tell engines to finish and end: those of the other lane, in place also those that serve
    LOAD = "load"  # start the engines of the wanted version in the other lane
    SWITCH = "switch"  # name the other lane's edition as the one that serves
    SETTLE = "settle"  # every front follows: the old one stands by
    GIVE_UP = "give up"  # the new one is ended, the old one serves as before
    RESTORE = "restore"  # the same, but the old one has to be loaded again
    RESTORED = "restored"
    RETIRE = "retire"  # the version that stands by has done so long enough


PHASE_AFTER: dict[Do, Phase] = {
    Do.CLEAR: Phase.CLEARING, Do.LOAD: Phase.LOADING, Do.SWITCH: Phase.SWITCHING, Do.SETTLE: Phase.STEADY,
    Do.GIVE_UP: Phase.STEADY, Do.RESTORE: Phase.RESTORING, Do.RESTORED: Phase.STEADY,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class View:
    """One moment. The other lane is the one that does not serve: it holds the new version, or one that stands by."""

    phase: Phase
    wanted: bool = False  # another version than the one that serves is wanted, now
    in_place: bool = False
    cleared: bool = False  # every engine that was told to leave has ended
    other_wanted: bool = False  # the other lane holds just the wanted version
    other_ready: bool = False  # every engine there is READY
    other_failed: bool = False  # one of them cannot become so, or it took too long
    followed: bool = False  # every front sends its requests to the edition that serves, or had time enough
    serving_ready: bool = False
    standby_over: bool = False  # somebody stands by, and has done so for the whole window


def step(v: View) -> Do:
    match v.phase:
        case Phase.STEADY:
            return _steady(v)
        case Phase.CLEARING:
            if not v.wanted:
                if v.in_place:  # engines that were told to leave take nothing more: the old version begins when they are gone
                    return Do.RESTORE if v.cleared else Do.NOTHING
                return Do.GIVE_UP
            return Do.LOAD if v.cleared else Do.NOTHING
        case Phase.LOADING:
            if v.other_failed or not (v.wanted and v.other_wanted):
                return Do.RESTORE if v.in_place else Do.GIVE_UP
            return Do.SWITCH if v.other_ready else Do.NOTHING
        case Phase.SWITCHING:
            return Do.SETTLE if v.followed else Do.NOTHING
        case Phase.RESTORING:
            return Do.RESTORED if v.serving_ready else Do.NOTHING


def _steady(v: View) -> Do:
    if v.wanted:
        return Do.SWITCH if v.other_wanted and v.other_ready else Do.CLEAR
    return Do.RETIRE if v.standby_over else Do.NOTHING
