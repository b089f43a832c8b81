"""The first rule's decision record, bit by bit as it was. Frozen."""

from __future__ import annotations

from math import isinf
from typing import Any

from evenkeel.sidecar.rollout.decision_record import tidy
from evenkeel.sidecar.rollout.e_values import e_value, log_mean
from evenkeel.sidecar.rollout.first_rule.first_decide import FirstDecision, FirstJudged, FirstSignals, flags
from evenkeel.sidecar.rollout.first_rule.first_evidence import FirstEvidence
from evenkeel.sidecar.rollout.first_rule.first_fast_path import FAR_WORSE_AT
from evenkeel.sidecar.rollout.first_rule.first_settings import FirstRule
from evenkeel.sidecar.rollout.interval import LEVEL


def record(rule: FirstRule, state: FirstJudged, decision: FirstDecision) -> dict[str, Any]:
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


def _witnesses(rule: FirstRule, e: FirstEvidence) -> dict[str, Any]:
    return {
        "count_e": tidy(e_value(e.count_log_e)),
        "sign_e": tidy(e_value(e.sign_log_e)),
        "rollback_at": tidy(rule.rollback_at(e.metric)),
    }


def _metric(rule: FirstRule, e: FirstEvidence) -> dict[str, Any]:
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


def _signals(s: FirstSignals) -> dict[str, int]:
    return {"requests": s.requests, "client_errors": s.client_errors, "shed": s.shed}
