"""What the sidecar remembers, and how its successor goes on from it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import ENGINES_MAX, RESTART_REASONS, ROLES, SIDECAR_TEXT, TEXT_BYTES, StatusPage
from evenkeel.serve.errors import FAMILIES
from evenkeel.sidecar.watch.transitions import FAULTS_MAX, TRANSITIONS_MAX, Seen, SeenReplica, TransitionLog, restore


def replica(state: ReplicaState, epoch: int = 1, since_s: float = 0.0, **more: Any) -> SeenReplica:
    return SeenReplica(more.pop("place", 0), epoch, state, since_s, more.pop("alive", True), **more)


def seen(now_s: float, verdict: str, *replicas: SeenReplica, **restarts: int) -> Seen:
    return Seen(now_s, verdict, replicas, {key.replace("_", "/", 1): n for key, n in restarts.items()})


def told(memory: TransitionLog) -> list[tuple[str, str, str]]:
    return [(t.subject, t.old, t.new) for t in memory.transitions]


def test_every_change_is_remembered_once_with_its_moment() -> None:
    memory = TransitionLog()
    assert memory.look(seen(100.0, "loading", replica(ReplicaState.LOADING, since_s=99.5)))
    assert not memory.look(seen(100.1, "loading", replica(ReplicaState.LOADING, since_s=99.5)))
    assert memory.look(seen(101.0, "ready", replica(ReplicaState.READY, since_s=100.9)))
    assert told(memory) == [
        ("engine 0", "", "LOADING"), ("container", "", "loading"),
        ("engine 0", "LOADING", "READY"), ("container", "loading", "ready"),
    ]  # fmt: skip
    assert [t.at_s for t in memory.transitions] == [99.5, 100.0, 100.9, 101.0]


def test_a_phase_teaches_how_long_it_takes_when_it_was_seen_to_end() -> None:
    memory = TransitionLog()
    memory.look(seen(10.0, "loading", replica(ReplicaState.LOADING, since_s=9.0)))
    memory.look(seen(12.0, "warming", replica(ReplicaState.WARMING, since_s=11.5)))
    assert memory.took_s == {"LOADING": 2.5}
    memory.look(seen(13.0, "loading", replica(ReplicaState.LOADING, epoch=2, since_s=12.9)))
    assert memory.took_s == {"LOADING": 2.5}, "a life that ended in a phase teaches nothing"


@pytest.mark.parametrize(
    "gone", [replica(ReplicaState.READY, alive=False, message="out of\nmemory é"), replica(ReplicaState.NEW, epoch=2)]
)
def test_a_restart_is_a_fault_of_the_engine_that_it_shows_at(gone: SeenReplica) -> None:
    memory = TransitionLog()
    other = replica(ReplicaState.READY, place=1)
    memory.look(seen(1.0, "ready", replica(ReplicaState.READY), other, engine_signal=0))
    memory.look(seen(2.0, "ready", gone, other, engine_signal=1))
    (fault,) = memory.faults
    assert (fault.subject, fault.reason, fault.count, fault.at_s) == ("engine 0", "signal", 1, 2.0)
    assert fault.message == ("out of memory ?" if gone.message else "")


def test_a_restart_that_shows_at_no_single_engine_is_told_of_the_role() -> None:
    memory = TransitionLog()
    memory.look(seen(1.0, "ready", replica(ReplicaState.READY), front_exit=0))
    memory.look(seen(2.0, "ready", replica(ReplicaState.READY), front_exit=2))
    assert [(f.subject, f.reason, f.count) for f in memory.faults] == [("front", "exit", 2)]


def test_faults_of_a_kind_are_one_entry_with_their_number_and_the_last_moment() -> None:
    memory = TransitionLog()
    for now_s, count in ((1.0, 1), (2.0, 1), (3.0, 4)):
        memory.look(seen(now_s, "ready", replica(ReplicaState.READY, faults={"model_error": count})))
    assert [(f.subject, f.reason, f.count, f.at_s) for f in memory.faults] == [("engine 0", "model_error", 4, 3.0)]


def test_only_the_last_hundred_transitions_are_kept() -> None:
    memory = TransitionLog()
    for i in range(3 * TRANSITIONS_MAX):
        memory.look(seen(float(i), ("ready", "stuck")[i % 2]))
    assert len(memory.transitions) == TRANSITIONS_MAX == 100
    assert memory.transitions[-1].at_s == 3 * TRANSITIONS_MAX - 1


def test_a_successor_goes_on_says_that_it_is_new_and_tells_what_changed_meanwhile() -> None:
    first = TransitionLog()
    first.look(seen(1.0, "ready", replica(ReplicaState.READY, faults={"model_error": 2}), engine_exit=1))
    second = restore(json.loads(json.dumps(first.text())), 5.0, predecessors=1)
    second.look(seen(5.1, "engine_lost", replica(ReplicaState.LOADING, epoch=2, faults={"model_error": 2}), engine_exit=2))
    assert told(second) == [
        *told(first), ("sidecar", "gone", "restarted"), ("engine 0", "READY", "LOADING"), ("container", "ready", "engine_lost"),
    ]  # fmt: skip
    assert (second.life, second.transitions[2].why) == (2, "life 2")
    assert [(f.reason, f.count) for f in second.faults][-1] == ("exit", 1), "what was counted before is not counted again"
    assert {f.reason: f.count for f in second.faults}["model_error"] == 2


@pytest.mark.parametrize("saved", [{}, {"truncated": "x"}, {"life": "one"}, {"life": 1, "last": None}])
def test_a_successor_that_can_read_nothing_begins_anew_and_says_so(saved: dict[str, Any]) -> None:
    memory = restore(saved, 5.0, predecessors=2)
    assert memory.life == 3
    assert [(t.new, t.why) for t in memory.transitions] == [("restarted", "with nothing remembered")]


def test_the_first_sidecar_restores_nothing_and_does_not_speak_of_a_restart() -> None:
    assert restore({}, 5.0, predecessors=0) == TransitionLog()


def test_the_largest_memory_fits_on_the_page_and_is_read_back() -> None:
    """Every engine, every error, every restart at its largest. The oldest transitions give way."""
    many = {family.code: 2**40 for family in FAMILIES}
    restarts = {f"{role}/{why}": 2**40 for role in ROLES for why in RESTART_REASONS}
    memory = TransitionLog()
    for i in range(100):
        replicas = [
            replica(ReplicaState.DRAINING, epoch=2**30 + i, place=p, since_s=1795471427.765, alive=False, message='"' * 500,
                    faults={k: n + i for k, n in many.items()})
            for p in range(ENGINES_MAX)
        ]  # fmt: skip
        memory.look(Seen(1795471427.765 + i, "engine_lost", tuple(replicas), {k: n + i for k, n in restarts.items()}))
    assert len(memory.transitions) == TRANSITIONS_MAX and len(memory.faults) == FAULTS_MAX
    page = StatusPage.create()
    page.write_text(SIDECAR_TEXT, memory.text())
    assert len(json.dumps(memory.text())) < TEXT_BYTES
    again = restore(page.read_text(SIDECAR_TEXT), 9e9, predecessors=1)
    assert again.life == 2 and again.faults == memory.faults


def test_an_ordinary_memory_keeps_all_of_its_hundred_transitions_when_saved() -> None:
    memory = TransitionLog()
    for i in range(200):
        memory.look(seen(1795471427.765 + i, ("ready", "engine_lost")[i % 2], replica(ReplicaState(i % 4), epoch=i // 4)))
    assert len(memory.text()["transitions"]) == TRANSITIONS_MAX
    again = restore(json.loads(json.dumps(memory.text())), 1.0, predecessors=1)
    assert [dataclasses.replace(t) for t in again.transitions[:-1]] == list(memory.transitions[1:])
