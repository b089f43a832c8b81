"""The table of states, pair by pair, and the verdict with its reason."""

from __future__ import annotations

import itertools

import pytest

from evenkeel.serve.contract.lifecycle import (
    CLEARS,
    NEXT,
    FrontView,
    Reason,
    ReplicaState,
    ReplicaView,
    Verdict,
    conditions,
    container_state,
    diagram,
    readiness,
    step,
)

LEGAL = {
    "NEW": "LOADING FAILED CLOSED",
    "LOADING": "WARMING FAILED CLOSED",
    "WARMING": "READY FAILED CLOSED",
    "READY": "DRAINING FAILED",
    "DRAINING": "CLOSED FAILED",
    "FAILED": "CLOSED",
    "CLOSED": "",
}


@pytest.mark.parametrize(("state", "target"), list(itertools.product(ReplicaState, ReplicaState)), ids=lambda s: s.name)
def test_a_step_is_legal_exactly_when_the_table_has_it(state: ReplicaState, target: ReplicaState) -> None:
    if target.name in LEGAL[state.name].split():
        assert step(state, target) is target
    else:
        with pytest.raises(ValueError, match=f"illegal transition {state.name} -> {target.name}"):
            step(state, target)


def test_every_state_leads_to_the_end_and_only_the_end_leads_nowhere() -> None:
    for state in ReplicaState:
        reached, edge = {state}, {state}
        while edge:
            edge = {t for s in edge for t in NEXT[s]} - reached
            reached |= edge
        assert ReplicaState.CLOSED in reached
        assert bool(NEXT[state]) == (state is not ReplicaState.CLOSED)


def test_the_diagram_draws_every_step_of_the_table_once() -> None:
    lines = diagram().splitlines()
    assert lines[0] == "stateDiagram-v2"
    drawn = [line.strip() for line in lines[1:] if "[*]" not in line]
    assert sorted(drawn) == sorted(f"{s.name} --> {t.name}" for s in ReplicaState for t in NEXT[s])


def test_every_reason_says_what_clears_it() -> None:
    assert set(CLEARS) == set(Reason)
    assert all(CLEARS[r] for r in Reason if r is not Reason.READY)


def view(
    state: ReplicaState = ReplicaState.READY, alive: bool = True, was_ready: bool = False, stuck: bool = False
) -> ReplicaView:
    return ReplicaView(state, alive, was_ready, stuck)


READY = view(was_ready=True)
LOST = view(alive=False, was_ready=True)
STUCK = view(was_ready=True, stuck=True)
FAILED = view(ReplicaState.FAILED)
LOADING, WARMING, NEW = view(ReplicaState.LOADING), view(ReplicaState.WARMING), view(ReplicaState.NEW)
RESTARTED = view(ReplicaState.LOADING, was_ready=True)
UNMET = ReplicaView(ReplicaState.WARMING, True, True, False, unmet=True)
HERE, APART = FrontView(0, connected=True), FrontView(1, connected=False)


@pytest.mark.parametrize(
    ("replicas", "reason"),
    [
        ([], "starting"),
        ([NEW], "starting"),
        ([LOADING], "loading"),
        ([WARMING], "warming"),
        ([READY], "ready"),
        ([LOST], "engine_lost"),
        ([RESTARTED], "engine_lost"),
        ([STUCK], "stuck"),
        ([FAILED], "failed"),
        ([view(ReplicaState.DRAINING, was_ready=True)], "engine_lost"),
        # One good replica is enough, whatever the others do.
        ([READY, LOST], "ready"),
        ([STUCK, READY], "ready"),
        ([view(ReplicaState.FAILED, was_ready=True), READY], "ready"),
        ([RESTARTED, READY], "ready"),
        # Until all have been proven, none is enough: what they still lack is told, not what ails the others.
        ([FAILED, READY], "failed"),
        ([LOADING, READY], "loading"),
        ([NEW, READY, READY], "starting"),
        ([WARMING, LOST], "warming"),
        # Trouble is named before progress, and the worst trouble first.
        ([LOST, STUCK], "stuck"),
        ([STUCK, FAILED], "failed"),
        ([LOADING, LOST], "loading"),
        # An engine that no front comes to does not merely take its time.
        ([UNMET], "not_connected"),
        ([UNMET, READY], "ready"),
    ],
)
def test_the_verdict_names_its_reason(replicas: list[ReplicaView], reason: str) -> None:
    verdict = readiness(replicas, leaving=None, fronts=[HERE])
    assert (verdict.reason.code, verdict.ready) == (reason, reason == "ready")


def test_the_least_advanced_replica_names_the_reason_while_all_of_them_start() -> None:
    assert readiness([WARMING, LOADING], leaving=None, fronts=[HERE]).reason is Reason.LOADING
    assert readiness([NEW, WARMING], leaving=None, fronts=[HERE]).reason is Reason.STARTING


@pytest.mark.parametrize("replicas", [[], [READY], [FAILED]])
def test_draining_outranks_everything(replicas: list[ReplicaView]) -> None:
    assert readiness(replicas, leaving=Reason.DRAINING, fronts=[HERE]) == Verdict(False, Reason.DRAINING)


@pytest.mark.parametrize("fronts", [[APART], [HERE, APART]])
def test_a_front_that_no_engine_answers_makes_nobody_ready(fronts: list[FrontView]) -> None:
    assert readiness([READY, READY], None, fronts) == Verdict(False, Reason.NOT_CONNECTED)
    assert readiness([STUCK], None, fronts).reason is Reason.STUCK


def test_ready_in_name_only_is_not_ready() -> None:
    assert not readiness([view(ReplicaState.READY, alive=False)], leaving=None, fronts=[HERE]).ready


EVERY_VIEW = [ReplicaView(s, a, w, o) for s in ReplicaState for a in (True, False) for w in (True, False) for o in (True, False)]


@pytest.mark.parametrize("leaving", [None, Reason.DRAINING, Reason.FAILED])
def test_all_conditions_hold_exactly_when_the_verdict_is_ready(leaving: Reason | None) -> None:
    """Every pair of replicas in every shape: no dialect may say anything else than `/ping`."""
    for replicas in [[], *([v] for v in EVERY_VIEW), *(list(p) for p in itertools.combinations(EVERY_VIEW, 2))]:
        for fronts in ([HERE], [HERE, APART], [APART]):
            found = conditions(replicas, leaving, fronts)
            assert all(c.ok for c in found) == readiness(replicas, leaving, fronts).ready, (replicas, leaving, fronts, found)
            assert all(bool(c.missing) != c.ok for c in found), "what is missing is said, and only then"


@pytest.mark.parametrize(
    ("replicas", "failing"),
    [
        ([], "running loaded warm moving"),
        ([LOST], "running loaded warm moving"),
        ([LOADING], "loaded warm proven moving"),
        ([WARMING], "warm proven moving"),
        ([WARMING, READY], "proven"),
        ([STUCK], "moving"),
        ([READY], ""),
        ([LOST, WARMING], "warm proven moving"),
        # One replica alone must fulfil them all: two that each lack something do not add up.
        ([view(alive=False, was_ready=True), STUCK], "moving"),
    ],
)
def test_the_first_condition_that_fails_says_how_far_the_best_replica_is(replicas: list[ReplicaView], failing: str) -> None:
    assert " ".join(c.name for c in conditions(replicas, None, [HERE]) if not c.ok) == failing


@pytest.mark.parametrize(
    ("replicas", "leaving", "state"),
    [
        ([], None, ReplicaState.NEW),
        ([LOADING], None, ReplicaState.LOADING),
        ([LOADING, WARMING], None, ReplicaState.LOADING),
        ([READY, WARMING], None, ReplicaState.WARMING),
        ([READY, FAILED], None, ReplicaState.NEW),
        ([READY, LOST], None, ReplicaState.READY),
        ([LOST], None, ReplicaState.NEW),
        ([STUCK], None, ReplicaState.NEW),
        ([RESTARTED], None, ReplicaState.LOADING),
        ([FAILED], None, ReplicaState.NEW),
        ([READY], Reason.DRAINING, ReplicaState.DRAINING),
        ([READY], Reason.FAILED, ReplicaState.FAILED),
    ],
)
def test_the_container_is_where_its_most_advanced_replica_is(
    replicas: list[ReplicaView], leaving: Reason | None, state: ReplicaState
) -> None:
    assert container_state(replicas, leaving) is state
