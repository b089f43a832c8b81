"""Learned cost: how many seconds a batch of n rows of a given shape takes on this machine.

For each shape a curve over powers of two, first measured in warm-up and then corrected by every batch that runs. In
between it is a straight line; beyond the last point it goes on with the last slope. Pure: times are handed in.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

GAIN = 0.1  # weight of one new observation; ten batches change the estimate by two thirds
STEP_LIMIT = 2.0  # one observation moves the estimate as if it were off by at most this factor: pauses are not cost
SHAPES_MAX = 64  # shapes whose curve is remembered; further ones start from the default every time
SAME_RATE = 0.95  # batch sizes whose rows per second are within 5 % count as equally fast: noise, not gain


@dataclass(slots=True)
class Curve:
    """Seconds by rows. `sizes` ascending, `seconds` never falling."""

    sizes: list[int]
    seconds: list[float]
    seen: bool = False  # whether batches of just this shape were measured, in warm-up or later

    def predict(self, rows: int) -> float:
        sizes, seconds = self.sizes, self.seconds
        if rows <= sizes[0]:
            return seconds[0]
        if len(sizes) == 1:
            return seconds[0] * rows / sizes[0]
        hi = min(bisect_left(sizes, rows), len(sizes) - 1)
        before, below_s = sizes[hi - 1], seconds[hi - 1]
        return below_s + (seconds[hi] - below_s) * (rows - before) / (sizes[hi] - before)

    def cheapest_row(self) -> float:
        """Seconds a row at the best measured size: what a row costs when many wait."""
        return min(s / n for n, s in zip(self.sizes, self.seconds, strict=True))

    def observe(self, rows: int, took_s: float) -> None:
        """Move the points around `rows` towards what was just seen, keeping the curve from falling."""
        sizes, seconds = self.sizes, self.seconds
        self.seen = True
        factor = 1 + GAIN * (min(max(took_s / self.predict(rows), 1 / STEP_LIMIT), STEP_LIMIT) - 1)
        low = high = min(bisect_left(sizes, rows), len(sizes) - 1)
        seconds[high] *= factor
        if high and sizes[high] != rows:
            low = high - 1
            seconds[low] *= factor
        while low and seconds[low - 1] > seconds[low]:
            low -= 1
            seconds[low] = seconds[low + 1]
        last = len(sizes) - 1
        while high < last and seconds[high + 1] < seconds[high]:
            high += 1
            seconds[high] = seconds[high - 1]


@dataclass(slots=True)
class CostModel:
    """Curves by shape. `default`, the shape measured in warm-up, is where a shape seen for the first time starts from."""

    curves: dict[Hashable, Curve] = field(default_factory=dict)
    default: Curve = field(default_factory=lambda: Curve([1], [0.001]))

    def learn(self, key: Hashable, measured: Sequence[tuple[int, float]]) -> None:
        """Start a curve from warm-up: (rows, seconds) pairs with ascending rows."""
        seconds, last = [], 0.0
        for _, s in measured:
            last = max(last, s)
            seconds.append(last)
        self.default = Curve([n for n, _ in measured], seconds, seen=True)
        self._store(key, self.default)

    def _store(self, key: Hashable, curve: Curve) -> None:
        if len(self.curves) < SHAPES_MAX:
            self.curves[key] = curve

    def curve(self, key: Hashable) -> Curve:
        """The curve of a shape; a shape seen for the first time starts as a copy of the default."""
        known = self.curves.get(key)
        if known is None:
            known = Curve(list(self.default.sizes), list(self.default.seconds))
            self._store(key, known)
        return known

    def observe(self, key: Hashable, rows: int, took_s: float) -> None:
        if took_s > 0:
            self.curve(key).observe(rows, took_s)


def best_rows(curve: Curve, rows_max: int, within_s: float) -> int:
    """The batch size worth running when `rows_max` rows could run together.

    The smallest size whose rows per second come within SAME_RATE of the best: where batching does not help, a larger
    batch would only make everybody wait for everybody. Sizes that take longer than `within_s` are out, unless even
    one row does.
    """
    if rows_max == 1:
        return 1
    sizes, rates = [], []
    for rows, seconds in zip(curve.sizes, curve.seconds, strict=True):
        if rows >= rows_max or seconds > within_s:
            break
        sizes.append(rows)
        rates.append(rows / seconds)
    whole_s = curve.predict(rows_max)
    if whole_s <= within_s:
        sizes.append(rows_max)
        rates.append(rows_max / whole_s)
    if not sizes:
        return min(rows_max, curve.sizes[0])
    enough = SAME_RATE * max(rates)
    for rows, rate in zip(sizes, rates, strict=True):
        if rate >= enough:
            return rows
    raise AssertionError("the best rate is good enough")
