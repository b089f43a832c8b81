"""Which runs count, and what they say together. Pure: no clock, no process, no file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.contenders import Run

# CPU, in cores, that others may take during a run before it counts as disturbed: one run in 13 here without anybody.
DISTURBANCE_MAX = 0.15


def wants_another(runs: Sequence[Run], reps: int, tries_max: int) -> bool:
    """Repeat until `reps` runs were left in peace, or the tries are used up. Never looks at what a run measured."""
    calm = sum(run.disturbance <= DISTURBANCE_MAX for run in runs)
    return calm < reps and len(runs) < max(reps, tries_max)


def keep_least_disturbed(runs: Sequence[Run], reps: int) -> list[Run]:
    """All runs, in their order, the `reps` least disturbed of them marked as kept."""
    order = sorted(range(len(runs)), key=lambda i: runs[i].disturbance)
    chosen = set(order[:reps])
    return [replace(run, kept=i in chosen) for i, run in enumerate(runs)]


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    least: float
    most: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Summary:
    """One server in one cell: the kept runs together."""

    cell: str
    server: str
    rps: Spread
    p50_ms: Spread
    p99_ms: Spread
    cpu_us: float
    cpu_us_by_role: dict[str, float]
    server_cores: float
    load_cores: float
    failed: int  # answers other than 2xx, socket errors and timeouts
    steal_cores: float
    disturbance: float  # of the most disturbed kept run
    runs: int
    tries: int

    @property
    def disturbed(self) -> bool:
        return self.disturbance > DISTURBANCE_MAX

    def to_json(self) -> dict[str, Any]:
        return {"record": "summary", **asdict(self)}


def summarize(runs: Sequence[Run]) -> Summary:
    kept = [run for run in runs if run.kept]
    assert kept, "a cell without a kept run has no summary"
    requests = max(1, sum(run.requests for run in kept))
    roles = sorted({role for run in kept for role in run.cpu_us_by_role})
    by_role = {role: sum(r.cpu_us_by_role.get(role, 0.0) * max(1, r.requests) for r in kept) / requests for role in roles}
    return Summary(
        cell=kept[0].cell,
        server=kept[0].server,
        rps=Spread.of([run.rps for run in kept]),
        p50_ms=Spread.of([run.p50_ms for run in kept]),
        p99_ms=Spread.of([run.p99_ms for run in kept]),
        cpu_us=sum(by_role.values()),
        cpu_us_by_role=by_role,
        server_cores=statistics.median(run.server_cores for run in kept),
        load_cores=statistics.median(run.load_cores for run in kept),
        failed=sum(run.non2xx + run.errors for run in kept),
        steal_cores=statistics.median(run.steal_cores for run in kept),
        disturbance=max(run.disturbance for run in kept),
        runs=len(kept),
        tries=len(runs),
    )
