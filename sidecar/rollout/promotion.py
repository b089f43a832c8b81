"""What proves a candidate good enough: not worse by bad_ratio, or within an absolute budget. No news is never good news. Pure.

(a) Not worse: both witnesses turned round. The null is "the ratio is bad_ratio or more", the bets lie below it. The count
witness is divided by the dispersion, and no block weighs more than a few typical ones: a failure that both arms share brings
thousands of equal errors in one block, and would prove anything. The sign witness must agree.
(b) Absolute budget: the null is "the candidate's rate is budget or more". Valid by 1 + x <= exp(x).

The proof may leave out the first minutes, in which caches are cold: three possible starts share beta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log

from evenkeel.sidecar.rollout import dispersion, stability
from evenkeel.sidecar.rollout.detector import WIN_CHANCES, win_factors
from evenkeel.sidecar.rollout.e_values import Pair, added, log_mean, ratio_factors
from evenkeel.sidecar.rollout.rule import Rule

NOT_BAD_GAINS = (1 / 8, 1 / 4, 1 / 2, 2 / 3)
BUDGET_GAINS = (0.0, 0.1, 0.25, 0.5)
STARTS = {0: 0.6, 4: 0.2, 10: 0.2}  # the first block that counts, and its share of beta
BLOCKS_MIN = 10
WEIGHT_MAX = 3.0  # a block's bad events count as those of so many typical blocks at most
SIGN_AT = log(20)


@dataclass(frozen=True, slots=True)
class Proof:
    """How far the proof has come, as logs: `count` against promote_at, `sign` against 0."""

    count: float = 0.0
    sign: float = -SIGN_AT
    dispersion: float = 1.0

    def holds(self, rule: Rule) -> bool:
        return self.weakest(rule) >= 0

    def weakest(self, rule: Rule) -> float:
        return min(self.count - log(rule.promote_at), self.sign)


UNPROVEN = Proof()


def factors(rule: Rule, metric: str, block: Pair) -> tuple[float, ...]:
    """Logs of one block's factors: of each bet on a lower ratio, then of each bet on fewer bad events."""
    ratio = rule.bad_ratio_of(metric)
    return ratio_factors(block, ratio, NOT_BAD_GAINS) + win_factors(block, ratio, WIN_CHANCES, lost=True)


def proof(rule: Rule, metric: str, blocks: Sequence[Pair], rows: Sequence[tuple[float, ...]]) -> Proof:
    """The best over the possible starts. `rows` are the factors of every block, computed once."""
    best = UNPROVEN
    for start, share in STARTS.items():
        if len(blocks) - start >= BLOCKS_MIN:
            best = max(best, _since(rule, metric, blocks[start:], rows[start:], share), key=lambda p: p.weakest(rule))
    return best


def _since(rule: Rule, metric: str, blocks: Sequence[Pair], rows: Sequence[tuple[float, ...]], share: float) -> Proof:
    typical = stability.median([stability.rate(b) for b in blocks])
    kept = [(b, row) for b, row in zip(blocks, rows, strict=True) if stability.is_stable(metric, b, typical)]
    if not kept:
        return UNPROVEN
    stable = [b for b, _ in kept]
    usual = max(1.0, stability.median([float(b.bad_c + b.bad_r) for b in stable]))
    bets = len(NOT_BAD_GAINS)
    counts, signs = (0.0,) * bets, (0.0,) * len(WIN_CHANCES)
    for block, row in kept:
        weight = min(1.0, WEIGHT_MAX * usual / max(1, block.bad_c + block.bad_r))
        counts = added(counts, [weight * f for f in row[:bets]])
        signs = added(signs, row[bets:])
    log_e, spread = log_mean(counts), dispersion.in_favour(stable)
    # Divided only where it speaks for the candidate: clumping must never help it.
    count = log_e / spread if log_e > 0 else log_e
    return Proof(count + log(share), log_mean(signs) - SIGN_AT, spread)


def budget_e(requests: int, bad: int, budget: float) -> float:
    """Log of the mean over g of g**bad * exp(requests * budget * (1 - g))."""
    if budget == 0:
        return -inf
    return log_mean([_power(g, bad) + requests * budget * (1 - g) for g in BUDGET_GAINS])


def _power(g: float, bad: int) -> float:
    if bad == 0:
        return 0.0
    return bad * log(g) if g > 0 else -inf
