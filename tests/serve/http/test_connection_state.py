"""The table of connection states, and that connections follow it."""

from __future__ import annotations

import itertools

import pytest

from evenkeel.serve.http.connection_state import BUSY, NEXT, READING, RECEIVING, ConnectionState, diagram, step

PAIRS = list(itertools.product(ConnectionState, ConnectionState))


@pytest.mark.parametrize(("state", "target"), [p for p in PAIRS if p[1] in NEXT[p[0]]], ids=lambda s: s.name)
def test_a_step_of_the_table_is_taken(state: ConnectionState, target: ConnectionState) -> None:
    assert step(state, target) is target


@pytest.mark.parametrize(("state", "target"), [p for p in PAIRS if p[1] not in NEXT[p[0]]], ids=lambda s: s.name)
def test_every_other_step_is_refused_by_name(state: ConnectionState, target: ConnectionState) -> None:
    with pytest.raises(ValueError, match=f"{state.name} -> {target.name}"):
        step(state, target)


def test_every_state_is_reached_and_may_end_at_any_moment() -> None:
    reached = {target for targets in NEXT.values() for target in targets} | {ConnectionState.IDLE}
    assert reached == set(ConnectionState)
    assert all(ConnectionState.CLOSED in NEXT[state] for state in ConnectionState if state is not ConnectionState.CLOSED)
    assert NEXT[ConnectionState.CLOSED] == frozenset()


def test_nothing_is_read_while_somebody_waits_for_an_answer_and_nothing_begins_after_the_end() -> None:
    assert READING.isdisjoint(BUSY) and RECEIVING.isdisjoint(BUSY)
    for ending in (ConnectionState.OWED, ConnectionState.LINGERING, ConnectionState.CLOSING, ConnectionState.CLOSED):
        assert NEXT[ending] <= {ConnectionState.CLOSING, ConnectionState.CLOSED}


def test_the_diagram_draws_every_step_of_the_table_once() -> None:
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> IDLE"] and lines[-1] == "    CLOSED --> [*]"
    assert sorted(lines[2:-1]) == sorted(f"    {s.name} --> {t.name}" for s, targets in NEXT.items() for t in targets)
