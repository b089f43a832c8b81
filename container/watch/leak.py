"""Does a replica's memory grow with what it serves, and when will that meet the limit? Pure.

The slope is Theil and Sen's: the median of the slopes between all pairs of samples, which no single jump can move, with
the lower end of its confidence interval by Kendall's variance. A cache that fills and a heap that settles grow too, so
growth alone is no reason: a replica is replaced only when the limit is near by that lower end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SAMPLES_MIN = 20
SAMPLES_MAX = 60  # the last ones count: 1,770 pairs, a millisecond
Z = 2.58  # two-sided 99 %
GROWN_BYTES_MIN = 32 << 20  # within the samples: less is a heap that settles


@dataclass(frozen=True, slots=True)
class MemorySample:
    at_s: float
    rows: int  # served so far
    bytes: int


@dataclass(frozen=True, slots=True)
class Slope:
    """Bytes a row: the estimate, and what it is at least."""

    bytes: float
    least_bytes: float


def slope(samples: Sequence[MemorySample]) -> Slope:
    """Of memory over rows served. Samples between which nothing was served tell nothing."""
    pairs = [(a, b) for i, a in enumerate(samples) for b in samples[i + 1 :] if b.rows > a.rows]
    slopes = sorted((b.bytes - a.bytes) / (b.rows - a.rows) for a, b in pairs)
    if not slopes:
        return Slope(0.0, 0.0)
    n, middle = len(samples), len(slopes) // 2
    median = slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2
    spread = Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    lowest = int((len(slopes) - spread) / 2)
    return Slope(median, slopes[lowest] if lowest >= 0 else -math.inf)


def leak(samples: Sequence[MemorySample], room_bytes: float, within_s: float) -> str:
    """Why to replace this replica now, for the log; "" when its memory stays or the limit is further than `within_s` away."""
    if len(samples) < SAMPLES_MIN:
        return ""
    first, last = samples[0], samples[-1]
    rows, span_s = last.rows - first.rows, last.at_s - first.at_s
    if last.bytes - first.bytes < GROWN_BYTES_MIN or rows <= 0 or span_s <= 0:
        return ""
    per_row = slope(samples)
    grows = per_row.least_bytes * rows / span_s  # bytes a second, at least
    if grows <= 0 or per_row.least_bytes * rows < GROWN_BYTES_MIN:
        return ""
    left_s = max(0.0, room_bytes) / grows
    if left_s >= within_s:
        return ""
    kib, mib_s = per_row.bytes / 1024, per_row.bytes * rows / span_s / 2**20
    return f"its memory grows by {kib:.3g} KiB a row, {mib_s:.3g} MiB a second, and would meet the limit in {left_s:.0f} s"
