"""What one metric's evidence says, as findings. Pure."""

from __future__ import annotations

from evenkeel.sidecar.rollout.e_values import Pair
from evenkeel.sidecar.rollout.evidence import Evidence
from evenkeel.sidecar.rollout.interval import Interval
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason
from evenkeel.sidecar.rollout.rule import Rule


def finding(rule: Rule, reason: RolloutReason, e: Evidence) -> Finding:
    t = total(rule, e)
    return Finding(reason, e.metric, f"{t.bad_c} of {t.n_c} in the candidate, {t.bad_r} of {t.n_r} in the reference")


def proof(rule: Rule, e: Evidence) -> Finding:
    return finding(rule, RolloutReason.NOT_WORSE if e.is_not_bad(rule) else RolloutReason.WITHIN_BUDGET, e)


def is_proven(rule: Rule, e: Evidence) -> bool:
    return e.is_not_bad(rule) or e.is_within_budget(rule)


def doubt(rule: Rule, e: Evidence) -> Finding:
    return finding(rule, RolloutReason.ONE_WITNESS_ONLY if e.one_witness else RolloutReason.NOT_YET_PROVEN, e)


def total(rule: Rule, e: Evidence) -> Pair:
    """As it was counted: where more is better, the evidence has the arms turned round."""
    return e.total.swapped if is_turned(rule, e.metric) else e.total


def ratio(rule: Rule, e: Evidence) -> Interval:
    """Of the candidate's rate over the reference's."""
    interval = e.interval()
    if not is_turned(rule, e.metric):
        return interval
    return Interval(1 / interval.high if interval.high else 0.0, 1 / interval.low if interval.low else float("inf"))


def is_turned(rule: Rule, metric: str) -> bool:
    own = rule.own_named(metric)
    return own is not None and own.more_is_better
