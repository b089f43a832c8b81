"""What proves a candidate good enough: not worse by r_bad, or within an absolute budget. No news is never good news.

(a) Non-inferiority: the count witness turned round. The null is "the ratio is r_bad or more", the bets lie below it. Errors
that come in clumps make the counts look more certain than they are, so the log is divided by the design effect, estimated
from two halves of the reference that run the same version.
(b) Absolute budget: the null is "the candidate's rate is budget or more". Valid by the same 1 + x <= exp(x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log

from sidecar.rollout.witnesses import NOTHING, Pair, log_mean

NOT_BAD_GAINS = (1 / 8, 1 / 4, 1 / 2, 2 / 3)
BUDGET_GAINS = (0.0, 0.1, 0.25, 0.5)

# Without two instances in the reference, or before the first batch, nothing is known of clumping. Two is a choice: twice
# the bad events of an ideal world.
DESIGN_EFFECT_UNKNOWN = 2.0


def budget_e(requests: int, bad: int, budget: float) -> float:
    """Log of the mean over g of g**bad * exp(requests * budget * (1 - g))."""
    if budget == 0:
        return -inf
    return log_mean([_power(g, bad) + requests * budget * (1 - g) for g in BUDGET_GAINS])


def _power(g: float, bad: int) -> float:
    if bad == 0:
        return 0.0
    return bad * log(g) if g > 0 else -inf


@dataclass(frozen=True, slots=True)
class Clumping:
    """How much more the reference's halves differ than independent requests would: the sum of D*D/S over batches."""

    open: Pair = NOTHING
    open_s: float = 0.0
    total: float = 0.0
    batches: int = 0

    def add(self, halves: Pair, seconds: float, batch_s: float) -> Clumping:
        open_now, open_s = self.open + halves, self.open_s + seconds
        if open_s < batch_s - 1e-6:
            return Clumping(open_now, open_s, self.total, self.batches)
        excess = squared_difference(open_now)
        if excess is None:
            return Clumping(total=self.total, batches=self.batches)
        return Clumping(total=self.total + excess, batches=self.batches + 1)

    @property
    def known(self) -> bool:
        return self.batches > 0

    @property
    def design_effect(self) -> float:
        return max(1.0, self.total / self.batches) if self.known else DESIGN_EFFECT_UNKNOWN


UNKNOWN = Clumping()


def squared_difference(halves: Pair) -> float | None:
    """D*D/S: the exposure-corrected difference of two halves over its variance. None where nothing bad happened."""
    bad = halves.bad_c + halves.bad_r
    if bad == 0 or halves.n_c == 0 or halves.n_r == 0:
        return None
    share = halves.n_c / (halves.n_c + halves.n_r)
    return (halves.bad_c - share * bad) ** 2 / (bad * share * (1 - share))


def halves(counts: Sequence[tuple[int, int]]) -> Pair:
    """Instances of one arm, sorted by name, as two halves: every other one. Each is (exposure, bad events)."""
    first, second = counts[0::2], counts[1::2]
    return Pair(sum(n for n, _ in first), sum(n for n, _ in second), sum(b for _, b in first), sum(b for _, b in second))
