"""The decision as one JSON object: verdict, reasons, and per metric everything that led to it."""

from __future__ import annotations

from math import isinf
from typing import Any

from evenkeel.sidecar.rollout import metric_findings
from evenkeel.sidecar.rollout.e_values import e_value
from evenkeel.sidecar.rollout.evidence import Evidence
from evenkeel.sidecar.rollout.interval import LEVEL
from evenkeel.sidecar.rollout.judged import Decision, Judged
from evenkeel.sidecar.rollout.objectives import ObjectiveEvidence
from evenkeel.sidecar.rollout.obstacles import flags
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason, RolloutVerdict
from evenkeel.sidecar.rollout.rule import Rule
from evenkeel.sidecar.rollout.traffic import Signals


def record(rule: Rule, state: Judged, decision: Decision) -> dict[str, Any]:
    split = state.traffic.split
    return {
        "rollout": rule.rollout,
        "decision": decision.verdict.value,
        "final": decision.final,
        "reasons": [f.to_json() for f in decision.findings],
        "stage": state.stage.number,
        "windows": state.windows,
        "elapsed_s": tidy(state.elapsed_s),
        "metrics": {name: _metric(rule, e) for name, e in state.convicting.items()},
        "same_version": {name: _witnesses(rule, e) for name, e in state.same_version.items()},
        "objectives": {e.objective.name: _objective(e) for e in state.objectives},
        "split": {"candidate": tidy(split.share), "declared": tidy(split.declared), "off_by": tidy(split.deviation),
                  "tolerance": rule.split_tolerance},
        "signals": {arm.value: _signals(s) for arm, s in state.traffic.signals.items()},
        "flags": [f.value for f in flags(rule, state)],
        "rule": rule.to_json(),
    }  # fmt: skip


def lost(about: str, why: str) -> dict[str, Any]:
    """The record of a rollout of which nothing is known any more: hold, and say so."""
    tables = ("metrics", "same_version", "objectives", "signals")
    nothing: dict[str, Any] = {**{name: {} for name in tables}, "split": None, "flags": [], "rule": None}
    head = {"rollout": about, **holding(RolloutReason.JUDGE_LOST, why, final=True), "stage": 0, "windows": 0, "elapsed_s": 0.0}
    return {**head, **nothing}


def holding(reason: RolloutReason, why: str, *, final: bool) -> dict[str, Any]:
    """The part of a record that changes when its judge cannot judge."""
    return {"decision": RolloutVerdict.HOLD.value, "final": final, "reasons": [Finding(reason, "judge", why).to_json()]}


def _witnesses(rule: Rule, e: Evidence) -> dict[str, Any]:
    return {
        "count_e": tidy(e_value(e.count_log_e(rule))),
        "sign_e": tidy(e_value(e.sign_log_e(rule))),
        "rollback_at": tidy(rule.rollback_at(e.metric)),
    }


def _metric(rule: Rule, e: Evidence) -> dict[str, Any]:
    t, interval, budget = metric_findings.total(rule, e), metric_findings.ratio(rule, e), e.budget_log_e(rule)
    return {
        "candidate": {"requests": t.n_c, "bad": t.bad_c},
        "reference": {"requests": t.n_r, "bad": t.bad_r},
        **_witnesses(rule, e),
        "not_worse_e": tidy(e_value(e.not_bad_log_e(rule))),
        "within_budget_e": None if isinf(budget) else tidy(e_value(budget)),
        "promote_at": tidy(rule.promote_at),
        "ratio": {"low": tidy(interval.low), "high": None if isinf(interval.high) else tidy(interval.high), "level": LEVEL},
        "dispersion": tidy(e.proof.dispersion),
        "blocks": {"all": len(e.blocks), "left_out": sum(e.left_out)},
    }


def _objective(e: ObjectiveEvidence) -> dict[str, Any]:
    return {"requests": e.total[0], "bad": e.total[1], "share_max": e.objective.share, "missed": e.is_missed}


def _signals(s: Signals) -> dict[str, int]:
    return {"requests": s.requests, "client_errors": s.client_errors, "shed": s.shed}


def tidy(value: float) -> float:
    """Six digits: enough for any use, and the same on machines whose logarithms differ in the last bit."""
    return float(f"{value:.6g}")
