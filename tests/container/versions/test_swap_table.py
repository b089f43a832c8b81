"""The table of a swap, and what is due in each phase; whether two versions fit."""

from __future__ import annotations

from itertools import product

import pytest

from evenkeel.container.plan.memory_fit import MARGIN_BYTES, MIB, Measured, room
from evenkeel.container.versions.swap_table import NEXT, PHASE_AFTER, Phase, SwapAction, SwapView, go, step

FLAGS = ("wanted", "in_place", "cleared", "other_wanted", "other_ready", "other_failed", "followed", "serving_ready",
         "standby_over")  # fmt: skip
VIEWS = [SwapView(phase, *flags) for phase in Phase for flags in product((False, True), repeat=len(FLAGS))]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("target", Phase)
def test_a_step_is_legal_exactly_when_the_table_has_it(phase: Phase, target: Phase) -> None:
    if target in NEXT[phase]:
        assert go(phase, target) is target
    else:
        with pytest.raises(ValueError, match="illegal"):
            go(phase, target)


def test_whatever_is_seen_the_next_step_is_legal() -> None:
    assert [v for v in VIEWS if (target := PHASE_AFTER.get(step(v))) and target not in NEXT[v.phase]] == []


def test_no_version_takes_traffic_that_is_not_ready_or_not_wanted() -> None:
    switching = [v for v in VIEWS if step(v) is SwapAction.SWITCH]
    assert switching and all(v.wanted and v.other_wanted and v.other_ready for v in switching)
    assert not any(v.other_failed for v in switching if v.phase is Phase.LOADING)


def test_only_a_swap_in_place_loads_the_old_version_again() -> None:
    ended = [v for v in VIEWS if step(v) in (SwapAction.RESTORE, SwapAction.GIVE_UP)]
    assert ended and all((step(v) is SwapAction.RESTORE) == v.in_place for v in ended)


def test_every_phase_can_be_left() -> None:
    for phase in Phase:
        assert any(step(v) in PHASE_AFTER for v in VIEWS if v.phase is phase), phase


@pytest.mark.parametrize(("seen", "due"), [
    (SwapView(Phase.STEADY, wanted=True), SwapAction.CLEAR),
    (SwapView(Phase.STEADY, wanted=True, other_wanted=True, other_ready=True), SwapAction.SWITCH),
    (SwapView(Phase.STEADY, previous_over=True), SwapAction.RETIRE),
    (SwapView(Phase.STEADY, wanted=True, previous_over=True, other_wanted=True, other_ready=True), SwapAction.SWITCH),
    (SwapView(Phase.CLEARING, wanted=True), SwapAction.NOTHING),
    (SwapView(Phase.CLEARING, wanted=True, cleared=True), SwapAction.LOAD),
    (SwapView(Phase.CLEARING), SwapAction.GIVE_UP),
    (SwapView(Phase.CLEARING, in_place=True), SwapAction.NOTHING),
    (SwapView(Phase.CLEARING, in_place=True, cleared=True), SwapAction.RESTORE),
    (SwapView(Phase.LOADING, wanted=True, other_wanted=True), SwapAction.NOTHING),
    (SwapView(Phase.LOADING, wanted=True, other_wanted=True, other_failed=True), SwapAction.GIVE_UP),
    (SwapView(Phase.LOADING, wanted=False, other_wanted=False), SwapAction.GIVE_UP),
    (SwapView(Phase.SWITCHING), SwapAction.NOTHING),
    (SwapView(Phase.SWITCHING, followed=True), SwapAction.SETTLE),
    (SwapView(Phase.RESTORING), SwapAction.NOTHING),
    (SwapView(Phase.RESTORING, serving_ready=True), SwapAction.RESTORED),
])  # fmt: skip
def test_what_is_due(seen: SwapView, due: SwapAction) -> None:
    assert step(seen) is due


def measured(left: int, files_new: int = 10 * MIB) -> Measured:
    return Measured(left=left, engine=200 * MIB, replicas=2, files_old=10 * MIB, files_new=files_new)


def test_a_version_loads_beside_the_old_one_when_what_that_needs_is_left_and_a_margin() -> None:
    need = 2 * 200 * MIB + MARGIN_BYTES
    assert room(measured(need)).beside and not room(measured(need - 1)).beside
    assert "464 MiB" in room(measured(0)).why and "0 MiB are left" in room(measured(-5)).why


def test_larger_files_need_more_and_smaller_ones_not_less() -> None:
    assert not room(measured(2 * 200 * MIB + MARGIN_BYTES, files_new=11 * MIB)).beside
    assert not room(measured(2 * 200 * MIB + MARGIN_BYTES - 1, files_new=0)).beside
