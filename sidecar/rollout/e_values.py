"""Two witnesses against the candidate, each an e-value: a number that stays small when the candidate is no worse.

How it works. In each window the candidate had n_c requests and bad_c bad events, the reference n_r and bad_r. If the
candidate's rate of bad events is r times the reference's, a bad event is the candidate's with chance
p(r) = r*n_c / (r*n_c + n_r). The count witness bets on larger ratios g*r0 against r0: its stake is multiplied by the
likelihood ratio of every bad event. At any ratio up to r0 one window's factor has a mean of at most 1, for every base rate,
because 1 + x <= exp(x); so the chance that the stake ever reaches 1/alpha is at most alpha (Ville). There is no schedule of
looks to keep, and the base rate and the split may change from window to window.

The count witness takes requests to be independent; a burst of errors fools it. The sign witness asks only who had more bad
events in each block of half a minute, so that a burst of any size is worth one win. It is valid whenever the arms are
exchangeable inside a block. A rollback needs both, so a false alarm needs the assumptions of both to fail.

Logarithms are used throughout: products of thousands of factors leave the range of floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, fsum, inf, lgamma, log, sqrt

WORSE_GAINS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
WIN_CHANCES = (0.6, 0.7, 0.8, 0.9, 0.97)
E_MAX = 1e300  # what is reported when an e-value leaves the range of floats


@dataclass(frozen=True, slots=True)
class Pair:
    """One metric in one window, or in several: exposure and bad events of candidate and reference."""

    n_c: int = 0
    n_r: int = 0
    bad_c: int = 0
    bad_r: int = 0

    def __add__(self, other: Pair) -> Pair:
        return Pair(self.n_c + other.n_c, self.n_r + other.n_r, self.bad_c + other.bad_c, self.bad_r + other.bad_r)

    @property
    def swapped(self) -> Pair:
        return Pair(self.n_r, self.n_c, self.bad_r, self.bad_c)


NOTHING = Pair()


def ratio_factors(pair: Pair, null: float, gains: Sequence[float]) -> tuple[float, ...]:
    """Logs of (p(g*null)/p(null))**bad_c * ((1-p(g*null))/(1-p(null)))**bad_r, one for each g.

    Gains above 1 test "ratio at most null", gains below 1 test "ratio at least null". A window in which one arm had no
    requests says nothing.
    """
    if pair.n_c == 0 or pair.n_r == 0:
        return (0.0,) * len(gains)
    bad = pair.bad_c + pair.bad_r
    weight = null * pair.n_c + pair.n_r
    return tuple(pair.bad_c * log(g) + bad * log(weight / (g * null * pair.n_c + pair.n_r)) for g in gains)


def added(logs: Sequence[float], factors: Sequence[float]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(logs, factors, strict=True))


def log_mean(logs: Sequence[float]) -> float:
    """Log of the mean of the products: a mean of e-values is an e-value, so no bet has to be chosen beforehand."""
    most = max(logs)
    return most if most == -inf else most + log(fsum(exp(x - most) for x in logs) / len(logs))


def ratio_e(pairs: Iterable[Pair], null: float, gains: Sequence[float]) -> float:
    """Log e-value of a whole series against one null ratio."""
    logs: tuple[float, ...] = (0.0,) * len(gains)
    for pair in pairs:
        logs = added(logs, ratio_factors(pair, null, gains))
    return log_mean(logs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Chances that a block is won (the candidate had more bad events at equal exposure) or lost. The rest are ties."""

    win: float
    loss: float


def outcome(block: Pair) -> Outcome:
    """Who had more bad events, at equal exposure.

    Where the arms had different traffic, the larger arm's bad events are thinned: each is kept with the chance that makes
    the exposures equal. Instead of throwing that coin once, we take the chances over all throws. The mean of an e-value
    over coins that nobody needs is an e-value too, it never grows more slowly, and there is no seed to keep.
    """
    if block.n_c == 0 or block.n_r == 0:
        return Outcome(0.0, 0.0)
    if block.n_c > block.n_r:
        swapped = outcome(block.swapped)
        return Outcome(swapped.loss, swapped.win)
    below, equal = binomial(block.bad_r, block.n_c / block.n_r, block.bad_c)
    return Outcome(below, max(0.0, 1.0 - below - equal))


def binomial(n: int, chance: float, k: int) -> tuple[float, float]:
    """(chance of fewer than k, chance of exactly k) successes of n."""
    if chance >= 1.0 or n == 0:
        return (1.0 if n < k else 0.0), (1.0 if n == k else 0.0)
    if k > n:
        return 1.0, 0.0
    low, high = _where(n, chance)
    weights = [exp(_log_binomial(n, chance, j)) for j in range(low, min(k, high))]
    return min(1.0, fsum(weights)), exp(_log_binomial(n, chance, k))


def _where(n: int, chance: float) -> tuple[int, int]:
    """All successes that have any chance worth a float: 40 standard deviations and more, so that a burst of a million bad
    events takes thousands of terms and not a million."""
    mean, width = n * chance, 1000 + 40 * sqrt(n * chance * (1 - chance))
    return max(0, int(mean - width)), min(n, int(mean + width)) + 1


def _log_binomial(n: int, chance: float, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(chance) + (n - k) * log(1 - chance)


def sign_factors(block: Outcome) -> tuple[float, ...]:
    """Logs of a block's factor for each q: 2q for a win, 2(1-q) for a loss, 1 for a tie, in proportion to the chances."""
    tie = max(0.0, 1.0 - block.win - block.loss)
    return tuple(log(block.win * 2 * q + block.loss * 2 * (1 - q) + tie) for q in WIN_CHANCES)


def sign_e(blocks: Iterable[Pair]) -> float:
    """Log e-value of a series of blocks."""
    logs: tuple[float, ...] = (0.0,) * len(WIN_CHANCES)
    for block in blocks:
        logs = added(logs, sign_factors(outcome(block)))
    return log_mean(logs)


def e_value(log_e: float) -> float:
    return min(exp(min(log_e, 700.0)), E_MAX)
