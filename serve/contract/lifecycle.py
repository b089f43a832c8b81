"""The life of a replica and the verdict on readiness: states, legal steps, reasons. One table each.

The diagram in docs/ARCHITECTURE.md is drawn from NEXT (`python -m evenkeel.serve.contract.lifecycle` prints it). Decisions
here are pure: they take a snapshot and say ready or not, and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ReplicaState(IntEnum):
    NEW = 0
    LOADING = 1
    WARMING = 2
    READY = 3
    DRAINING = 4
    CLOSED = 5
    FAILED = 6


NEXT: dict[ReplicaState, frozenset[ReplicaState]] = {
    # a stop may come at any moment
    ReplicaState.NEW: frozenset({ReplicaState.LOADING, ReplicaState.FAILED, ReplicaState.CLOSED}),
    ReplicaState.LOADING: frozenset({ReplicaState.WARMING, ReplicaState.FAILED, ReplicaState.CLOSED}),
    ReplicaState.WARMING: frozenset({ReplicaState.READY, ReplicaState.FAILED, ReplicaState.CLOSED}),  # READY only after warming
    ReplicaState.READY: frozenset({ReplicaState.DRAINING, ReplicaState.FAILED}),
    ReplicaState.DRAINING: frozenset({ReplicaState.CLOSED, ReplicaState.FAILED}),
    ReplicaState.FAILED: frozenset({ReplicaState.CLOSED}),
    ReplicaState.CLOSED: frozenset(),
}


def step(state: ReplicaState, target: ReplicaState) -> ReplicaState:
    """The next state, or ValueError for a step that the table does not have."""
    if target not in NEXT[state]:
        raise ValueError(f"illegal transition {state.name} -> {target.name}")
    return target


class Reason(IntEnum):
    """Why the verdict is what it is: the stable code is the name in lower case, the value travels in shared memory."""

    STARTING = 0
    LOADING = 1
    WARMING = 2
    READY = 3
    ENGINE_LOST = 4
    STUCK = 5
    DRAINING = 6
    FAILED = 7
    NOT_CONNECTED = 8

    @property
    def code(self) -> str:
        return self.name.lower()


CLEARS: dict[Reason, str] = {
    Reason.STARTING: "the engine process starts",
    Reason.LOADING: "the model is loaded",
    Reason.WARMING: "warm-up and golden checks pass",
    Reason.READY: "",
    Reason.ENGINE_LOST: "the supervisor restarts the engine",
    Reason.STUCK: "the supervisor ends the stuck engine and starts another",
    Reason.DRAINING: "nothing: the container is stopping",
    Reason.FAILED: "nothing: the container exits, see the log",
    Reason.NOT_CONNECTED: "every front worker has met an engine; one that stays out of reach is started again",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    ready: bool
    reason: Reason


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """What readiness needs to know of one replica."""

    state: ReplicaState
    alive: bool
    was_ready: bool
    stuck: bool  # the supervisor has found it so, and will end it
    unmet: bool = False  # it is warm, and waits for front workers that do not come

    @property
    def proven(self) -> bool:
        """It has passed warm-up and golden checks, now or before it was started again."""
        return self.was_ready or self.state == ReplicaState.READY


@dataclass(frozen=True, slots=True)
class FrontView:
    """What readiness needs to know of one front worker."""

    place: int
    connected: bool  # to an engine that takes traffic


# Of several reasons the first of these is told: what is broken before what only takes time, the slowest first.
WORST_FIRST = (
    Reason.FAILED, Reason.STUCK, Reason.NOT_CONNECTED, Reason.ENGINE_LOST, Reason.STARTING,
    Reason.LOADING, Reason.WARMING,
)  # fmt: skip


def readiness(replicas: Sequence[ReplicaView], leaving: Reason | None, fronts: Sequence[FrontView]) -> Verdict:
    """Ready once every replica has been proven, and from then on while at least one is READY and runs, and every front has one
    to send its requests to. Otherwise the worst off replica names the reason; of those that are not proven yet, if there are
    any."""
    if leaving is not None:
        return Verdict(False, leaving)
    unproven = [r for r in replicas if not r.proven]
    if not unproven and any(r.alive and r.state == ReplicaState.READY and not r.stuck for r in replicas):
        return Verdict(True, Reason.READY) if all(f.connected for f in fronts) else Verdict(False, Reason.NOT_CONNECTED)
    if not replicas:
        return Verdict(False, Reason.STARTING)
    return Verdict(False, min((_reason(r) for r in unproven or replicas), key=WORST_FIRST.index))


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must hold before the container is ready, and what is missing when it does not."""

    name: str
    ok: bool
    missing: str


def conditions(replicas: Sequence[ReplicaView], leaving: Reason | None, fronts: Sequence[FrontView]) -> tuple[Condition, ...]:
    """The verdict taken apart. A sieve: each condition keeps the replicas that fulfil it too, so that all of them hold
    exactly when `readiness` says ready."""
    running = [r for r in replicas if r.alive]
    loaded = [r for r in running if r.state in (ReplicaState.WARMING, ReplicaState.READY)]
    warm = [r for r in loaded if r.state == ReplicaState.READY]
    moving = [r for r in warm if not r.stuck]
    unproven = sum(not r.proven for r in replicas)
    apart = [str(f.place) for f in fronts if not f.connected]
    return (
        Condition("staying", leaving is None, f"the container is stopping: {leaving.code}" if leaving else ""),
        Condition("running", bool(running), "" if running else "no engine process runs"),
        Condition("loaded", bool(loaded), "" if loaded else "no running engine has loaded its model"),
        Condition("warm", bool(warm), "" if warm else "no loaded engine has passed warm-up and golden checks"),
        Condition(
            "proven",
            not unproven,
            f"{unproven} of {len(replicas)} replicas have not passed warm-up and golden checks yet" if unproven else "",
        ),
        Condition("moving", bool(moving), "" if moving else "every warm engine is stuck in a batch"),
        Condition("connected", not apart, f"no engine answers front worker {', '.join(apart)}" if apart else ""),
    )


def container_state(replicas: Sequence[ReplicaView], leaving: Reason | None) -> ReplicaState:
    """Where the container is in its life: while it starts where its last replica is, and once all have been proven where the most
    advanced one is. A replica that is gone or stuck will be started anew, so it counts as NEW."""
    if leaving is not None:
        return ReplicaState.FAILED if leaving is Reason.FAILED else ReplicaState.DRAINING
    unproven = [r for r in replicas if not r.proven]
    if unproven:
        return min(r.state if r.alive and not r.stuck and r.state <= ReplicaState.READY else ReplicaState.NEW for r in unproven)
    counting = [r.state for r in replicas if r.alive and not r.stuck and r.state <= ReplicaState.READY]
    return max(counting, default=ReplicaState.NEW)


def _reason(r: ReplicaView) -> Reason:
    if r.state == ReplicaState.FAILED:
        return Reason.FAILED
    if r.stuck:
        return Reason.STUCK
    if r.unmet:
        return Reason.NOT_CONNECTED
    if r.was_ready:
        return Reason.ENGINE_LOST
    return {ReplicaState.LOADING: Reason.LOADING, ReplicaState.WARMING: Reason.WARMING}.get(r.state, Reason.STARTING)


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> NEW"]
    lines += [f"    {s.name} --> {t.name}" for s in ReplicaState for t in sorted(NEXT[s])]
    return "\n".join([*lines, "    CLOSED --> [*]"])


if __name__ == "__main__":
    print(diagram())
