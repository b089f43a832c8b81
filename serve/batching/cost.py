"""Learned cost: how many seconds a batch of n rows of a given shape takes on this machine.

For each shape a curve over powers of two, first measured in warm-up and then corrected by every batch that runs. In
between it is a straight line. Beyond the last point a row costs what it costs there: warm-up goes on for as long as larger
batches gain, and the slope between two points, each with its noise, promises gains that nobody has seen. Pure: times are
handed in.

A curve that is never tried at some size never learns that it is wrong there, so a few batches explore: see `explore`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

GAIN = 0.1  # weight of one new observation; ten batches change the estimate by two thirds
STEP_LIMIT = 2.0  # one observation moves the estimate as if it were off by at most this factor: pauses are not cost
SHAPES_MAX = 64  # shapes whose curve is remembered; further ones start from the default every time
FIRST_BATCHES = 3  # that replace what was guessed of a model of which nothing is known
SAME_RATE = 0.95  # batch sizes whose rows per second are within 5 % count as equally fast: noise, not gain
ROWS_BITS = 13  # batch sizes are counted rounded up to powers of two, up to 4096

# Exploring, docs/decisions/0008. One batch in EXPLORE_EVERY may try the next size up or down, only where the curve says
# that the two are close, and each size only until it has been seen EXPLORE_RUNS times: ten batches move an estimate by
# two thirds, twice that settles it.
EXPLORE_EVERY = 32
EXPLORE_RUNS = 20
EXPLORE_RATE = 0.8  # a size expected to give less than 80 % of the best rows per second is not close


@dataclass(slots=True)
class Curve:
    """Seconds by rows. `sizes` ascending, `seconds` never falling."""

    sizes: list[int]
    seconds: list[float]
    # Batches seen, by size rounded up to a power of two: cell i counts those of up to 2**i rows.
    runs: list[int] = field(default_factory=lambda: [0] * ROWS_BITS, compare=False)
    batches: int = field(default=0, compare=False)
    guesses: int = field(default=0, compare=False)  # so many batches more may replace the estimate: it is no more than a guess
    guessed: bool = field(default=False, compare=False)  # made up before anything had run: only what has run since is known
    seen: bool = False  # whether batches of just this shape were measured, in warm-up or later

    def predict(self, rows: int) -> float:
        sizes, seconds = self.sizes, self.seconds
        if rows <= sizes[0]:
            return seconds[0]
        if rows > sizes[-1]:
            return seconds[-1] * rows / sizes[-1]
        hi = bisect_left(sizes, rows)
        before, below_s = sizes[hi - 1], seconds[hi - 1]
        return below_s + (seconds[hi] - below_s) * (rows - before) / (sizes[hi] - before)

    def cheapest_row(self, rows_max: int) -> float:
        """Seconds a row at the best measured size of up to `rows_max`: what a row costs when many wait."""
        return min(s / n for n, s in zip(self.sizes, self.seconds, strict=True) if n <= rows_max or n == self.sizes[0])

    def known(self) -> list[tuple[int, float]]:
        """(rows, seconds) of the sizes that were measured, in warm-up or by batches that ran."""
        if not self.guessed:
            return list(zip(self.sizes, self.seconds, strict=True))
        sizes = sorted({min(1 << i, self.sizes[-1]) for i, n in enumerate(self.runs) if n})
        return [(rows, self.predict(rows)) for rows in sizes]

    def observe(self, rows: int, took_s: float) -> None:
        """Move the points around `rows` towards what was just seen, keeping the curve from falling."""
        self.batches += 1
        self.runs[min((rows - 1).bit_length(), ROWS_BITS - 1)] += 1
        sizes, seconds = self.sizes, self.seconds
        self.seen = True
        if self.guesses:
            self._replace_guess(took_s / self.predict(rows))
            return
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

    def _replace_guess(self, factor: float) -> None:
        """The first batch is believed, and then any that was faster: a first one may have had things to load."""
        if self.guesses == FIRST_BATCHES or factor < 1:
            self.seconds = [s * factor for s in self.seconds]
        self.guesses -= 1

    def forget_runs(self) -> None:
        self.runs, self.batches = [0] * ROWS_BITS, 0


@dataclass(slots=True)
class CostModel:
    """Curves by shape. `default`, the shape measured in warm-up, is where a shape seen for the first time starts from."""

    curves: dict[Hashable, Curve] = field(default_factory=dict)
    default: Curve = field(default_factory=lambda: Curve([1], [0.001]))

    def learn(self, key: Hashable, measured: Sequence[tuple[int, float]]) -> None:
        """Start the default curve, and that of this shape, from warm-up: (rows, seconds) pairs with ascending rows."""
        self.default = rising(measured)
        self.default.seen = True
        self._store(key, self.default)

    def learn_shape(self, key: Hashable, measured: Sequence[tuple[int, float]]) -> None:
        """Start the curve of one more shape. Sizes that were not measured keep their proportion to the default's."""
        default, seconds_of = self.default, dict(measured)
        factor = measured[-1][1] / default.predict(measured[-1][0])
        sizes = sorted({*default.sizes, *seconds_of})
        curve = rising([(n, seconds_of.get(n, factor * default.predict(n))) for n in sizes])
        curve.seen = True
        self._store(key, curve)

    def _store(self, key: Hashable, curve: Curve) -> None:
        if len(self.curves) < SHAPES_MAX:
            self.curves[key] = curve

    def curve(self, key: Hashable) -> Curve:
        """The curve of a shape; a shape seen for the first time starts as a copy of the default."""
        curve = self.curves.get(key)
        if curve is None:
            curve = Curve(list(self.default.sizes), list(self.default.seconds), guesses=self.default.guesses,
                          guessed=self.default.guessed)  # fmt: skip
            self._store(key, curve)
        return curve

    def observe(self, key: Hashable, rows: int, took_s: float) -> None:
        if took_s > 0:
            self.curve(key).observe(rows, took_s)


def supposed(rows_max: int) -> Curve:
    """Of a model of which nothing is known: that a batch costs hardly more than one row, until batches have run."""
    sizes = sorted({min(1 << i, rows_max) for i in range(ROWS_BITS)})
    seconds = [1e-3 * (1 + 0.01 * (n - 1) / max(1, rows_max - 1)) for n in sizes]
    return Curve(sizes, seconds, guesses=FIRST_BATCHES, guessed=True)


def rising(measured: Sequence[tuple[int, float]]) -> Curve:
    """A curve that never falls: no batch costs more than a larger one. Noise only ever adds time, so the larger is right."""
    seconds, least = [], float("inf")
    for _, s in reversed(measured):
        least = min(least, s)
        seconds.append(least)
    return Curve([n for n, _ in measured], seconds[::-1])


def explore(curve: Curve, chosen: int, rows_max: int, within_s: float) -> int:
    """The size to run instead of `chosen`, when it is time to try one; nearly always `chosen` itself.

    Warm-up measures in the noise of a start, and the machine changes afterwards: where two sizes are close, which is
    better shows only in service. `rows_max` rows wait or could be waited for, so a larger try delays nobody whom a
    larger batch would not delay.
    """
    if curve.batches % EXPLORE_EVERY != EXPLORE_EVERY - 1:
        return chosen
    enough = EXPLORE_RATE * chosen / curve.predict(chosen)
    for rows in (2 * chosen, chosen // 2):
        if not 1 <= rows <= min(rows_max, 1 << (ROWS_BITS - 1)) or curve.runs[(rows - 1).bit_length()] >= EXPLORE_RUNS:
            continue
        seconds = curve.predict(rows)
        if seconds <= within_s and rows / seconds >= enough:
            return rows
    return chosen


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
