"""Does a series grow? Robust answers: the median of all slopes (Theil and Sen), and whether the order of the values
could be chance (Mann and Kendall). Pure; a few outliers, such as a disturbed machine's, change neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

Z_MIN = 3.29  # one series in a thousand looks like this by chance
POINTS_MIN = 8  # fewer can never be told from chance with that certainty


@dataclass(frozen=True, slots=True)
class Trend:
    """`growth`: over the whole series, by the median slope. `z`: how unlikely such an order is, in standard deviations."""

    first: float  # of the fitted line, at the beginning
    growth: float
    z: float
    points: int

    def grows(self, tolerance: float) -> bool:
        """Surely, and by more than `tolerance`."""
        return self.z >= Z_MIN and self.growth > tolerance


def trend(times_s: Sequence[float], values: Sequence[float]) -> Trend:
    assert len(times_s) == len(values), "each value has its time"
    if len(values) < 2:
        return Trend(values[0] if values else math.nan, 0.0, 0.0, len(values))
    pairs = list(combinations(zip(times_s, values, strict=True), 2))
    slope = median([(b - a) / (t - s) for (s, a), (t, b) in pairs if t > s])
    first = median([v - slope * (t - times_s[0]) for t, v in zip(times_s, values, strict=True)])
    return Trend(first, slope * (times_s[-1] - times_s[0]), kendall_z(values), len(values))


def kendall_z(values: Sequence[float]) -> float:
    """Ascending pairs less descending ones, over the standard deviation that chance would give; ties are allowed for."""
    n = len(values)
    score = sum((b > a) - (b < a) for a, b in combinations(values, 2))
    ties = [values.count(v) for v in set(values)]
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    if variance <= 0 or score == 0:
        return 0.0
    return (score - math.copysign(1, score)) / math.sqrt(variance)
