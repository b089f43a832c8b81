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

    def predict(self, rows: int) -> float:
        sizes, seconds = self.sizes, self.seconds
        if rows <= sizes[0] or len(sizes) == 1:
            return seconds[0] if rows <= sizes[0] else seconds[0] * rows / sizes[0]
        i = 1
        while i < len(sizes) - 1 and sizes[i] < rows:
            i += 1
        lo, hi = sizes[i - 1], sizes[i]
        slope = (seconds[i] - seconds[i - 1]) / (hi - lo)
        return seconds[i - 1] + slope * (rows - lo)

    def cheapest_row(self) -> float:
        """Seconds a row at the best measured size: what a row costs when many wait."""
        return min(s / n for n, s in zip(self.sizes, self.seconds, strict=True))

    def observe(self, rows: int, took_s: float) -> None:
        """Move the points around `rows` towards what was just seen, keeping the curve from falling."""
        sizes, seconds = self.sizes, self.seconds
        factor = 1 + GAIN * (min(max(took_s / self.predict(rows), 1 / STEP_LIMIT), STEP_LIMIT) - 1)
        above = min(bisect_left(sizes, rows), len(sizes) - 1)
        below = above if sizes[above] == rows else max(0, above - 1)
        for i in {below, above}:
            seconds[i] *= factor
        for i in range(above, 0, -1):  # points to the left are not above these, points to the right not below
            seconds[i - 1] = min(seconds[i - 1], seconds[i])
        for i in range(above + 1, len(seconds)):
            seconds[i] = max(seconds[i], seconds[i - 1])


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
        self.default = Curve([n for n, _ in measured], seconds)
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
    fitting = [(n, n / s) for n, s in zip(curve.sizes, curve.seconds, strict=True) if n < rows_max and s <= within_s]
    whole_s = curve.predict(rows_max)
    if whole_s <= within_s:
        fitting.append((rows_max, rows_max / whole_s))
    if not fitting:
        return min(rows_max, curve.sizes[0])
    enough = SAME_RATE * max([rate for _, rate in fitting])
    return next(n for n, rate in fitting if rate >= enough)
