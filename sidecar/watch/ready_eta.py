"""When will it be ready? From how far warm-up has come, and from how long the phases took last time. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evenkeel.serve.contract.lifecycle import Reason, ReplicaState


@dataclass(frozen=True, slots=True)
class WarmupProgress:
    """How far one replica has come on its way to READY."""

    state: ReplicaState
    in_state_s: float
    warm_done: int
    warm_total: int


def replica_ready_in_s(progress: WarmupProgress, took_s: Mapping[str, float]) -> float | None:
    """Seconds until this replica is READY; None when nothing is known to tell from."""
    if progress.state == ReplicaState.READY:
        return 0.0
    warming_s = took_s.get(ReplicaState.WARMING.name)
    if progress.state == ReplicaState.WARMING:
        return _warming_left_s(progress, warming_s)
    if progress.state not in (ReplicaState.NEW, ReplicaState.LOADING):
        return None
    loading_s = took_s.get(ReplicaState.LOADING.name)
    if loading_s is None or warming_s is None:
        return None
    gone_s = progress.in_state_s if progress.state == ReplicaState.LOADING else 0.0
    return max(0.0, loading_s - gone_s) + warming_s


def _warming_left_s(progress: WarmupProgress, took_s: float | None) -> float | None:
    """What it took last time is the better guide, because steps differ much in length; else so far, and so on."""
    if took_s is not None and took_s > progress.in_state_s:
        return took_s - progress.in_state_s
    if progress.warm_done <= 0 or progress.warm_total < progress.warm_done:
        return None
    return progress.in_state_s / progress.warm_done * (progress.warm_total - progress.warm_done)


@dataclass(frozen=True, slots=True)
class ReadyEta:
    """One replica: when it will be READY, and whether it has been."""

    in_s: float | None
    proven: bool


def ready_in_s(ready: bool, leaving: Reason | None, replicas: Sequence[ReadyEta]) -> float | None:
    """Of the container: while it starts all replicas are waited for, and later one is enough. None when it is leaving, or
    nothing is known."""
    if leaving is not None:
        return None
    if ready:
        return 0.0
    unproven = [r.in_s for r in replicas if not r.proven]
    if unproven:
        etas = [s for s in unproven if s is not None]
        return max(etas) if len(etas) == len(unproven) else None
    return min((r.in_s for r in replicas if r.in_s is not None), default=None)
