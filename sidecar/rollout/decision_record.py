"""The decision as one JSON object: verdict, reasons, and per metric everything that led to it."""

from __future__ import annotations

from math import isinf
from typing import Any

from evenkeel.sidecar.rollout.decide import Decision, Judged, Signals, flags
from evenkeel.sidecar.rollout.e_values import FAR_WORSE_AT, log_mean
from evenkeel.sidecar.rollout.evidence import Evidence, e_value
from evenkeel.sidecar.rollout.interval import LEVEL
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason, RolloutVerdict
from evenkeel.sidecar.rollout.rule import Rule


def record(rule: Rule, state: Judged, decision: Decision) -> dict[str, Any]:
    return {
        "rollout": rule.rollout,
        "decision": decision.verdict.value,
        "final": decision.final,
        "reasons": [f.to_json() for f in decision.findings],
        "stage": state.stage.number,
        "windows": state.windows,
        "elapsed_s": tidy(state.elapsed_s),
        "metrics": {name: _metric(rule, e) for name, e in state.metrics.items()},
        "same_version": {name: _witnesses(rule, e) for name, e in state.same_version.items()},
        "sample_ratio": {"p": tidy(state.mix.p), "p_min": rule.mix_p_min, "requests": list(state.mix.counts)},
        "signals": {arm.value: _signals(s) for arm, s in state.signals.items()},
        "flags": [f.value for f in flags(rule, state)],
        "rule": rule.to_json(),
    }


def lost(about: str, why: str) -> dict[str, Any]:
    """The record of a rollout of which nothing is known any more: hold, and say so."""
    nothing: dict[str, Any] = {"metrics": {}, "same_version": {}, "sample_ratio": None, "signals": {}, "flags": [], "rule": None}
    head = {"rollout": about, **holding(RolloutReason.JUDGE_LOST, why, final=True), "stage": 0, "windows": 0, "elapsed_s": 0.0}
    return {**head, **nothing}


def holding(reason: RolloutReason, why: str, *, final: bool) -> dict[str, Any]:
    """The part of a record that changes when its judge cannot judge."""
    return {"decision": RolloutVerdict.HOLD.value, "final": final, "reasons": [Finding(reason, "judge", why).to_json()]}


def _witnesses(rule: Rule, e: Evidence) -> dict[str, Any]:
    return {
        "count_e": tidy(e_value(e.count_log_e)),
        "sign_e": tidy(e_value(e.sign_log_e)),
        "rollback_at": tidy(rule.rollback_at(e.metric)),
    }


def _metric(rule: Rule, e: Evidence) -> dict[str, Any]:
    t, interval, budget = e.total, e.interval(), e.budget_log_e(rule)
    return {
        "candidate": {"requests": t.n_c, "bad": t.bad_c},
        "reference": {"requests": t.n_r, "bad": t.bad_r},
        **_witnesses(rule, e),
        "far_worse_e": tidy(e_value(log_mean(e.far_worse))),
        "far_worse_at": FAR_WORSE_AT,
        "not_worse_e": tidy(e_value(e.not_bad_log_e)),
        "within_budget_e": None if isinf(budget) else tidy(e_value(budget)),
        "promote_at": tidy(rule.promote_at),
        "ratio": {"low": tidy(interval.low), "high": None if isinf(interval.high) else tidy(interval.high), "level": LEVEL},
        "design_effect": tidy(e.clumping.design_effect),
        "blocks": {"wins": tidy(e.signs.wins), "losses": tidy(e.signs.losses), "all": e.signs.blocks},
    }


def _signals(s: Signals) -> dict[str, int]:
    return {"requests": s.requests, "client_errors": s.client_errors, "shed": s.shed}


def tidy(value: float) -> float:
    """Six digits: enough for any use, and the same on machines whose logarithms differ in the last bit."""
    return float(f"{value:.6g}")
