"""Which bucket edges of the latency histogram are judged: at or above the reference's p90 and p99, and the objective.

A slower model sends more answers over a fixed edge, so the exceedance of an edge is a rate of bad events like that of
errors, exact and without any assumption on the shape of latencies. The edge must be fixed before the windows that it
judges; it is chosen from the reference's first answers, and judges only later ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

PREFIX = "slower_than_"  # of the metrics' names
QUANTILES = (0.90, 0.99)
FAR, FAR_LEAST = 8.0, 3.0  # times the reference's p99; the second where the histogram ends before
EXCEEDANCE_MAX = 0.20  # above this rate 1 + x <= exp(x), on which validity rests, gives much away, and so does power


def choose(counts: Mapping[float, int], objective_s: float) -> tuple[float, ...]:
    """Edges from a histogram of plain counts by upper edge. Ascending, without doubles, none infinite."""
    answers = sum(counts.values())
    assert answers > 0, "the caller waits for enough answers"
    edges = sorted(counts)
    chosen = {next(e for e in edges if at_or_below(counts, e) >= q * answers) for q in QUANTILES}
    above = [e for e in edges if e >= objective_s > 0]
    if above and answers - at_or_below(counts, above[0]) <= EXCEEDANCE_MAX * answers:
        chosen.add(above[0])
    return tuple(sorted(chosen - {inf}))


def far(counts: Mapping[float, int], ladder: Sequence[float]) -> float:
    """An edge that the reference's answers all but never reach and a latency ten times as long does; 0 when there is none.
    `ladder` has all finite edges, ascending, those of empty buckets as well."""
    answers = sum(counts.values())
    slow = next((e for e in ladder if at_or_below(counts, e) >= QUANTILES[-1] * answers), inf)
    beyond = [e for e in ladder if e >= FAR * slow] or [e for e in ladder[-1:] if e >= FAR_LEAST * slow]
    return beyond[0] if beyond else 0.0


def at_or_above(ladder: Sequence[float], seconds: float) -> float:
    """The edge that an objective is counted at: the ladder's first one that is no lower, else the objective itself."""
    return next((e for e in ladder if e >= seconds), seconds)


def at_or_below(counts: Mapping[float, int], edge: float) -> int:
    return sum(n for e, n in counts.items() if e <= edge)


def name(edge: float) -> str:
    """The metric's name: answers slower than the edge."""
    return f"{PREFIX}{edge * 1000:.6g}ms"
