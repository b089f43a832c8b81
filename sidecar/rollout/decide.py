"""The rule: what all windows together say. Promote, hold or roll back, with reasons.

`step` takes one window into the state, `decide` reads the state; both are pure, so a log of windows gives the same verdict
wherever it is replayed. A rollback is final, and needs no complete data: it compares what is there. A promotion needs every
metric proven and nothing in the way; whatever is missing, late or doubtful holds.
"""

from __future__ import annotations

from dataclasses import replace

from evenkeel.sidecar.rollout import (
    conviction,
    guards,
    metric_findings,
    mix,
    obstacles,
    own_judgement,
    traffic,
    unanswered,
    warmth,
    window_counts,
)
from evenkeel.sidecar.rollout.counters import Key, Window
from evenkeel.sidecar.rollout.judged import Decision, Judged, Stage
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason, RolloutVerdict
from evenkeel.sidecar.rollout.rule import Arm, Rule


def step(rule: Rule, state: Judged, window: Window) -> Judged:
    """Take one window in. Arms are compared over the same windows, by the instances that answered at both ends."""
    assert window.seconds >= 0, "windows follow each other"
    before = replace(state, started_s=window.start_s) if state.windows == 0 else state
    after = replace(
        before,
        windows=before.windows + 1,
        now_s=window.end_s,
        stage=_stage(before, window, rule),
        healths=guards.watch(before.healths, window),
        traffic=traffic.counted(before.traffic, window, rule),
        own=own_judgement.seen(rule, before.own, window),
        mix=mix.counted(rule, before.mix, window),
        flags=before.flags | obstacles.flags_of(window, rule),
    )
    began = after.elapsed_s > rule.initial_delay_s and not guards.changed_sides(after.healths)
    after = replace(
        after,
        warmth=warmth.watched(rule, before.warmth, window, after.elapsed_s),
        unanswered=unanswered.counted(rule, before.unanswered, window, counts=began),
        streaks=conviction.streaks_after(rule, before.streaks, window) if began else before.streaks,
    )
    if began:
        is_warm = before.warmth.is_over or not rule.warm_s_max
        after = _count(rule, after, window if is_warm else replace(window, edges=()))
    return replace(after, condemned=after.condemned or conviction.condemned(rule, after))


def _stage(state: Judged, window: Window, rule: Rule) -> Stage:
    s = state.stage
    if state.windows == 0 or window.stage != s.number:
        s = Stage(window.stage, window.start_s)
    restarted = [str(Key(d.arm, d.instance)) for d in window.of(Arm.CANDIDATE) if d.restarts]
    went_back = [str(Key(d.arm, d.instance)) for d in window.deltas if d.went_back]
    return replace(
        s,
        requests_candidate=s.requests_candidate + sum(d.judged for d in window.of(Arm.CANDIDATE)),
        requests_reference=s.requests_reference + sum(d.judged for d in window.of(rule.reference)),
        restarted=(*s.restarted, *(n for n in restarted if n not in s.restarted)),
        went_back=(*s.went_back, *(n for n in went_back if n not in s.went_back)),
    )


def _count(rule: Rule, state: Judged, window: Window) -> Judged:
    compared = window_counts.compare(rule, state.metrics, window, Arm.CANDIDATE, rule.reference)
    return replace(
        state,
        metrics=own_judgement.compare(rule, compared, window),
        same_version=window_counts.same_version(rule, state.same_version, window),
        objectives=window_counts.objectives(rule, state.objectives, window),
        mix=mix.compare(rule, state.mix, window) if state.mix.chosen else state.mix,
    )


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
