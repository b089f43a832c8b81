"""The first rule's sample-ratio check: a p-value that only falls. Frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, lgamma, log

PRIOR_WEIGHT = 100.0


def log_bayes_factor(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Log of "some other split" over "the intended split"."""
    prior = [PRIOR_WEIGHT * s for s in shares]
    other = _log_beta([a + n for a, n in zip(prior, counts, strict=True)]) - _log_beta(prior)
    return other - fsum(n * log(s) for n, s in zip(counts, shares, strict=True))


def _log_beta(weights: Sequence[float]) -> float:
    return fsum(lgamma(w) for w in weights) - lgamma(fsum(weights))


@dataclass(frozen=True, slots=True)
class FirstSampleRatio:
    """What has been seen of the split. `shares` are those in force now, `past` the log factor of earlier ones."""

    shares: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    past: float = 0.0
    log_factor_most: float = 0.0

    def add(self, counts: Sequence[int], shares: tuple[float, ...]) -> FirstSampleRatio:
        if shares == self.shares:
            now, past = tuple(a + b for a, b in zip(self.counts, counts, strict=True)), self.past
        else:
            now, past = tuple(counts), self.past + self._factor()
        after = FirstSampleRatio(shares, now, past, self.log_factor_most)
        return FirstSampleRatio(shares, now, past, max(self.log_factor_most, past + after._factor()))

    def _factor(self) -> float:
        return log_bayes_factor(self.counts, self.shares) if self.shares else 0.0

    @property
    def p(self) -> float:
        return min(1.0, exp(-self.log_factor_most))


NOT_SEEN = FirstSampleRatio()
