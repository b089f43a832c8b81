"""The first rule's evidence of one metric: both witnesses, both routes to promotion, the counts. Frozen."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from evenkeel.sidecar.rollout.e_values import (
    NOTHING,
    WIN_CHANCES,
    WORSE_GAINS,
    Outcome,
    Pair,
    added,
    log_mean,
    outcome,
    ratio_factors,
    sign_factors,
)
from evenkeel.sidecar.rollout.first_rule.first_fast_path import (
    FAR_WORSE_GAINS,
    FAR_WORSE_RATIO,
    FAR_WORSE_WINDOWS,
    far_worse,
)
from evenkeel.sidecar.rollout.first_rule.first_promotion import UNKNOWN, FirstDesignEffect
from evenkeel.sidecar.rollout.first_rule.first_settings import FirstRule
from evenkeel.sidecar.rollout.interval import Interval, ratio_interval
from evenkeel.sidecar.rollout.promotion import NOT_BAD_GAINS, budget_e
from evenkeel.sidecar.rollout.rule import ERRORS


@dataclass(frozen=True, slots=True)
class FirstSigns:
    """The sign witness: the block that is filling, and the stakes after the blocks before it."""

    open: Pair = NOTHING
    open_s: float = 0.0
    logs: tuple[float, ...] = (0.0,) * len(WIN_CHANCES)
    wins: float = 0.0  # not whole where arms had different traffic: chances over the thinning
    losses: float = 0.0
    blocks: int = 0

    def add(self, pair: Pair, seconds: float, block_s: float) -> FirstSigns:
        block, open_s = self.open + pair, self.open_s + seconds
        if open_s < block_s - 1e-6:  # windows of a third of a block may add up to a hair less than one
            return FirstSigns(block, open_s, self.logs, self.wins, self.losses, self.blocks)
        said: Outcome = outcome(block)
        logs = added(self.logs, sign_factors(said))
        return FirstSigns(NOTHING, 0.0, logs, self.wins + said.win, self.losses + said.loss, self.blocks + 1)


@dataclass(frozen=True, slots=True)
class FirstEvidence:
    metric: str
    pairs: tuple[Pair, ...] = ()
    total: Pair = NOTHING
    windows_with_bad: int = 0
    worse: tuple[float, ...] = (0.0,) * len(WORSE_GAINS)
    far_worse: tuple[float, ...] = (0.0,) * len(FAR_WORSE_GAINS)
    not_bad: tuple[float, ...] = (0.0,) * len(NOT_BAD_GAINS)
    signs: FirstSigns = FirstSigns()
    clumping: FirstDesignEffect = UNKNOWN

    def add(self, pair: Pair, halves: Pair, seconds: float, rule: FirstRule) -> FirstEvidence:
        """One more window. `halves` are the reference's own two halves."""
        return FirstEvidence(
            self.metric,
            (*self.pairs, pair),
            self.total + pair,
            self.windows_with_bad + (pair.bad_c > 0),
            added(self.worse, ratio_factors(pair, rule.margin, WORSE_GAINS)),
            added(self.far_worse, ratio_factors(pair, FAR_WORSE_RATIO, FAR_WORSE_GAINS)),
            added(self.not_bad, ratio_factors(pair, rule.bad_ratio_of(self.metric), NOT_BAD_GAINS)),
            self.signs.add(pair, seconds, rule.block_s),
            self.clumping.add(pair, halves, seconds, rule.batch_s),
        )

    @property
    def count_log_e(self) -> float:
        return log_mean(self.worse)

    @property
    def sign_log_e(self) -> float:
        return log_mean(self.signs.logs)

    @property
    def not_bad_log_e(self) -> float:
        """Divided by the design effect only where it speaks for the candidate: clumping must never help it."""
        whole = log_mean(self.not_bad)
        return whole / self.clumping.design_effect if whole > 0 else whole

    def budget_log_e(self, rule: FirstRule) -> float:
        return budget_e(self.total.n_c, self.total.bad_c, rule.budget_of(self.metric))

    def is_worse(self, rule: FirstRule) -> bool:
        at = log(rule.rollback_at(self.metric))
        return self.count_log_e >= at and self.sign_log_e >= at

    def is_far_worse(self) -> bool:
        recent = self.pairs[-FAR_WORSE_WINDOWS:]
        return self.metric == ERRORS and far_worse(log_mean(self.far_worse), recent, self.windows_with_bad)

    def one_witness(self, rule: FirstRule) -> bool:
        at = log(rule.rollback_at(self.metric))
        return (self.count_log_e >= at) != (self.sign_log_e >= at)

    def is_not_bad(self, rule: FirstRule) -> bool:
        return self.not_bad_log_e >= log(rule.promote_at)

    def is_within_budget(self, rule: FirstRule) -> bool:
        return self.budget_log_e(rule) >= log(rule.promote_at)

    def interval(self) -> Interval:
        return ratio_interval(self.pairs)
