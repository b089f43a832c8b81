"""All that is known of one metric: its blocks, the case against the candidate, the proof for it. Grows by a window at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

from evenkeel.sidecar.rollout import detector, promotion, stability
from evenkeel.sidecar.rollout.detector import Row, Suspicion
from evenkeel.sidecar.rollout.e_values import NOTHING, Pair, added
from evenkeel.sidecar.rollout.interval import Interval, ratio_interval
from evenkeel.sidecar.rollout.promotion import UNPROVEN, Proof
from evenkeel.sidecar.rollout.rule import Rule


@dataclass(frozen=True, slots=True)
class Evidence:
    metric: str
    total: Pair = NOTHING
    open: Pair = NOTHING  # the block that is filling
    open_s: float = 0.0
    blocks: tuple[Pair, ...] = ()  # as they were
    stable: tuple[Pair, ...] = ()  # the same, with nothing in those that count for nobody
    left_out: tuple[bool, ...] = ()
    sums: tuple[tuple[Row, ...], ...] = ()  # of each tier, the factors up to every block
    favours: tuple[Row, ...] = ()  # of every block, the factors of the proof
    suspicion: Suspicion | None = None  # before the first block
    proof: Proof = UNPROVEN

    def add(self, pair: Pair, seconds: float, rule: Rule) -> Evidence:
        """One more window."""
        total, block, open_s = self.total + pair, self.open + pair, self.open_s + seconds
        if open_s < rule.block_s - 1e-6:  # windows of a third of a block may add up to a hair less than one
            return replace(self, total=total, open=block, open_s=open_s)
        return replace(self, total=total, open=NOTHING, open_s=0.0)._closed(block, rule)

    def _closed(self, block: Pair, rule: Rule) -> Evidence:
        blocks = (*self.blocks, block)
        typical = stability.median([stability.rate(b) for b in blocks])
        is_stable = stability.is_stable(self.metric, block, typical)
        counts = is_stable or not stability.is_shared(block)
        stable = (*self.stable, block if counts else NOTHING)
        tiers = detector.tiers(rule)
        before = self.sums or ((detector.START,),) * len(tiers)
        sums = tuple(
            (*rows, added(rows[-1], detector.factors(tier, stable[-1]))) for tier, rows in zip(tiers, before, strict=True)
        )
        cases = [detector.suspect(rule, self.metric, t, rows, stable) for t, rows in zip(tiers, sums, strict=True)]
        favours = (*self.favours, promotion.factors(rule, self.metric, block))
        return replace(
            self,
            blocks=blocks,
            favours=favours,
            stable=stable,
            left_out=(*self.left_out, not is_stable),
            sums=sums,
            suspicion=max(cases, key=lambda s: s.weakest),
            proof=promotion.proof(rule, self.metric, blocks, favours),
        )

    def count_log_e(self, rule: Rule) -> float:
        """On the scale of the e-value that convicts, whatever stretch and tier the case is made of."""
        return self.suspicion.count + log(rule.rollback_at(self.metric)) if self.suspicion else 0.0

    def sign_log_e(self, rule: Rule) -> float:
        return self.suspicion.sign + log(rule.rollback_at(self.metric)) if self.suspicion else 0.0

    @property
    def is_worse(self) -> bool:
        return self.suspicion is not None and self.suspicion.convicts

    @property
    def one_witness(self) -> bool:
        return self.suspicion is not None and (self.suspicion.count >= 0) != (self.suspicion.sign >= 0)

    def not_bad_log_e(self, rule: Rule) -> float:
        """On the scale of promote_at; the weaker of both witnesses."""
        return self.proof.weakest(rule) + log(rule.promote_at)

    def is_not_bad(self, rule: Rule) -> bool:
        return self.proof.holds(rule)

    def budget_log_e(self, rule: Rule) -> float:
        return promotion.budget_e(self.total.n_c, self.total.bad_c, rule.budget_of(self.metric))

    def is_within_budget(self, rule: Rule) -> bool:
        return self.budget_log_e(rule) >= log(rule.promote_at)

    @property
    def is_unstable(self) -> bool:
        """The reference is far from its own past now, or has been too often."""
        return bool(self.left_out) and (self.left_out[-1] or sum(self.left_out) > stability.UNSTABLE_SHARE * len(self.left_out))

    def interval(self) -> Interval:
        return ratio_interval([*self.blocks, self.open])
