"""The rule: what all windows together say. Promote, hold or roll back, with reasons.

`window_step.step` takes one window into the state, `decide` reads the state; both are pure, so a log of windows gives the same
verdict wherever it is replayed. A rollback is final, and needs no complete data: it compares what is there. A promotion needs
every metric proven and nothing in the way; whatever is missing, late or doubtful holds.
"""

from __future__ import annotations

from evenkeel.sidecar.rollout import metric_findings, obstacles
from evenkeel.sidecar.rollout.judged import Decision, Judged
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason, RolloutVerdict
from evenkeel.sidecar.rollout.rule import Rule


def decide(rule: Rule, state: Judged) -> Decision:
    if state.condemned:
        return Decision(RolloutVerdict.ROLLBACK, state.condemned, final=True)
    findings = (*obstacles.obstacles(rule, state), *obstacles.unproven(rule, state))
    late = state.elapsed_s >= rule.max_s
    if not findings:
        proven = [e for e in state.metrics.values() if metric_findings.is_proven(rule, e)]
        return Decision(RolloutVerdict.PROMOTE, tuple(metric_findings.proof(rule, e) for e in proven), final=late)
    if not late:
        return Decision(RolloutVerdict.HOLD, findings, final=False)
    why = Finding(RolloutReason.TIME_IS_UP, "rollout", f"{state.elapsed_s:.0f} s have passed, {rule.max_s:.0f} s were allowed")
    return Decision(RolloutVerdict.ROLLBACK if rule.at_end == "rollback" else RolloutVerdict.HOLD, (why, *findings), final=True)
