"""The first rule's curves over a log's windows, for a picture of it. Frozen."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from evenkeel.sidecar.rollout.counters import Window
from evenkeel.sidecar.rollout.evidence_series import CURVES, EvidencePoint
from evenkeel.sidecar.rollout.first_rule.first_decide import FirstJudged, step
from evenkeel.sidecar.rollout.first_rule.first_evidence import FirstEvidence
from evenkeel.sidecar.rollout.first_rule.first_settings import FirstRule


def folded(rule: FirstRule, windows: Sequence[Window]) -> tuple[FirstJudged, dict[str, list[EvidencePoint]]]:
    """The state after all windows, and each metric's points."""
    state, lines = FirstJudged(), dict[str, list[EvidencePoint]]()
    for window in windows:
        state = step(rule, state, window)
        for name, evidence in state.metrics.items():
            lines.setdefault(name, []).append(_point(rule, evidence, state.elapsed_s))
    return state, lines


def _point(rule: FirstRule, e: FirstEvidence, at_s: float) -> EvidencePoint:
    logs = (e.count_log_e, e.sign_log_e, max(e.not_bad_log_e, e.budget_log_e(rule)))
    return EvidencePoint(at_s, {n: v / log(10) for n, v in zip(CURVES, logs, strict=True)})
