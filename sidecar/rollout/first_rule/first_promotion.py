"""The first rule's design effect. Frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evenkeel.sidecar.rollout.e_values import NOTHING, Pair

# Before the first batches nothing is known of clumping. Two is a choice: twice the bad events of an ideal world.
DESIGN_EFFECT_UNKNOWN = 2.0


@dataclass(frozen=True, slots=True)
class FirstDesignEffect:
    """How much more the counts scatter than independent requests would, measured over batches in two ways.

    The reference's halves run the same version, so all that they differ by beyond chance is clumping or odd instances. But
    what befalls a whole arm at once does not show between its halves; it shows when the candidate's share of bad events
    changes from batch to batch. That says nothing about the size of the share, which is what is being judged.
    """

    open_halves: Pair = NOTHING
    open_arms: Pair = NOTHING
    open_s: float = 0.0
    total: float = 0.0  # sum of D*D/S between the halves
    batches: int = 0
    arms: tuple[Pair, ...] = ()

    def add(self, arms: Pair, halves: Pair, seconds: float, batch_s: float) -> FirstDesignEffect:
        now_halves, now_arms, open_s = self.open_halves + halves, self.open_arms + arms, self.open_s + seconds
        if open_s < batch_s - 1e-6:
            return FirstDesignEffect(now_halves, now_arms, open_s, self.total, self.batches, self.arms)
        excess = squared_difference(now_halves)
        closed = (*self.arms, now_arms)
        if excess is None:
            return FirstDesignEffect(total=self.total, batches=self.batches, arms=closed)
        return FirstDesignEffect(total=self.total + excess, batches=self.batches + 1, arms=closed)

    @property
    def known(self) -> bool:
        return self.batches > 0 or scatter(self.arms) is not None

    @property
    def design_effect(self) -> float:
        between_halves = self.total / self.batches if self.batches else None
        measured = [d for d in (between_halves, scatter(self.arms)) if d is not None]
        return max(1.0, *measured) if measured else DESIGN_EFFECT_UNKNOWN


UNKNOWN = FirstDesignEffect()


def squared_difference(halves: Pair) -> float | None:
    """D*D/S: the exposure-corrected difference of two halves over its variance. None where nothing bad happened."""
    bad = halves.bad_c + halves.bad_r
    if bad == 0 or halves.n_c == 0 or halves.n_r == 0:
        return None
    return _squared_difference(halves, 1.0)


def _squared_difference(pair: Pair, ratio: float) -> float:
    bad = pair.bad_c + pair.bad_r
    share = ratio * pair.n_c / (ratio * pair.n_c + pair.n_r)
    return (pair.bad_c - share * bad) ** 2 / (bad * share * (1 - share))


def scatter(arms: Sequence[Pair]) -> float | None:
    """Pearson's dispersion of the candidate's share of bad events around their common ratio (Mantel and Haenszel's).

    None with fewer than two batches that tell anything.
    """
    useful = [p for p in arms if p.bad_c + p.bad_r and p.n_c and p.n_r]
    ours = sum(p.bad_c * p.n_r / (p.n_c + p.n_r) for p in useful)
    theirs = sum(p.bad_r * p.n_c / (p.n_c + p.n_r) for p in useful)
    if len(useful) < 2 or ours == 0 or theirs == 0:
        return None
    return sum(_squared_difference(p, ours / theirs) for p in useful) / (len(useful) - 1)


def halves(counts: Sequence[tuple[int, int]]) -> Pair:
    """Instances of one arm, sorted by name, as two halves: every other one. Each is (exposure, bad events)."""
    first, second = counts[0::2], counts[1::2]
    return Pair(sum(n for n, _ in first), sum(n for n, _ in second), sum(b for _, b in first), sum(b for _, b in second))
