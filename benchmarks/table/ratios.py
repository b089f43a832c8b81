"""What interleaved windows say together: medians, ranges, and ratios of windows that ran one after another. Pure.

A machine whose speed drifts is equally unkind to all that run in the same round, so a ratio is taken within each round, and
its median and interval over the rounds.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.table.windows import Window

# CPU, in cores, that others may take during a window before it counts as disturbed.
DISTURBANCE_MAX = 0.15
RESAMPLES = 2000
PAIRS_MIN = 7  # fewer give a ratio without much of an interval


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    least: float
    most: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Ratio:
    """`low` to `high`: the median's 95 % interval, by resampling."""

    median: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Row:
    """One contender in one workload: its windows together."""

    workload: str
    contender: str
    rps: Spread
    p50_ms: Spread
    p99_ms: Spread
    cpu_us: float
    cpu_us_by_role: dict[str, float]
    failed: int  # answers other than 2xx, socket errors, timeouts, requests that could not be sent
    late_ms: float
    disturbed: int  # windows
    windows: tuple[Window, ...]


def row(windows: Sequence[Window]) -> Row:
    assert windows, "a contender without a window has no row"
    requests = [max(1, w.load.requests) for w in windows]
    roles = sorted({role for w in windows for role in w.cpu_us_by_role})
    by_role = {
        role: sum(w.cpu_us_by_role.get(role, 0.0) * n for w, n in zip(windows, requests, strict=True)) / sum(requests)
        for role in roles
    }
    return Row(
        workload=windows[0].workload,
        contender=windows[0].contender,
        rps=Spread.of([w.rps for w in windows]),
        p50_ms=Spread.of([w.load.p50_ms for w in windows]),
        p99_ms=Spread.of([w.load.p99_ms for w in windows]),
        cpu_us=sum(by_role.values()),
        cpu_us_by_role=by_role,
        failed=sum(w.failed for w in windows),
        late_ms=statistics.median(w.load.late_ms for w in windows),
        disturbed=sum(w.disturbance > DISTURBANCE_MAX for w in windows),
        windows=tuple(windows),
    )


def ratio(ours: Row, theirs: Row, value: Callable[[Window], float]) -> Ratio | None:
    """Ours by theirs in the rounds that both have; None when there is none."""
    found = {w.round: value(w) for w in theirs.windows}
    pairs = [value(w) / found[w.round] for w in ours.windows if found.get(w.round)]
    if not pairs:
        return None
    low, high = interval(pairs)
    return Ratio(statistics.median(pairs), low, high, len(pairs))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median. From a fixed seed, so that a report can be made again."""
    dice = random.Random(1)
    medians = sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]
