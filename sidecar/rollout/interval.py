"""An interval for the ratio of bad-event rates that holds at all times at once, however often one looks.

It is made of all ratios that the e-values do not refute: the lower bound is the largest null ratio that bets above it
refute, the upper bound the smallest that bets below it refute. Each side spends half of the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, log

from evenkeel.sidecar.rollout.e_values import Pair, ratio_e

GAINS = (1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
LEVEL = 0.95
RATIO_MAX = 1000.0  # nothing is said beyond this
STEPS = 16  # of bisection: bounds are found to two parts in ten thousand, and rounded outward


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float  # infinite when the data say nothing


def ratio_interval(pairs: Sequence[Pair]) -> Interval:
    at = log(2 / (1 - LEVEL))
    down = [1 / g for g in GAINS]
    useful = [p for p in pairs if p.n_c and p.n_r and p.bad_c + p.bad_r]
    low = _last_refuted(lambda r: ratio_e(useful, r, GAINS) >= at)
    high = _last_refuted(lambda r: ratio_e(useful, 1 / r, down) >= at)
    return Interval(low, 1 / high if high else inf)


def _last_refuted(refuted: Callable[[float], bool]) -> float:
    """The largest ratio known to be refuted, between 1/RATIO_MAX and RATIO_MAX; 0 when none is."""
    low, high = -log(RATIO_MAX), log(RATIO_MAX)
    if not refuted(exp(low)):
        return 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(exp(middle)) else (low, middle)
    return exp(low)
