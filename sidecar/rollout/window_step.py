"""One window taken into the state of a rollout: what each part of the state becomes by it. Pure.

The parts count for themselves; here is the order in which they see the window, and from when on a window counts as evidence.
What the state says is read in decide.py.
"""

from __future__ import annotations

from dataclasses import replace

from evenkeel.sidecar.rollout import (
    conviction,
    guards,
    mix,
    obstacles,
    own_judgement,
    traffic,
    unanswered,
    warmth,
    window_counts,
)
from evenkeel.sidecar.rollout.counters import Key, Window
from evenkeel.sidecar.rollout.judged import Judged, Stage
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
