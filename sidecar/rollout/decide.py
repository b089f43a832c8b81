"""The rule: what all windows together say. Promote, hold or roll back, with reasons.

`step` takes one window into the state, `decide` reads the state; both are pure, so a log of windows gives the same verdict
wherever it is replayed. A rollback is final, and needs no complete data: it compares what is there. A promotion needs every
metric proven and nothing in the way; whatever is missing, late or doubtful holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from evenkeel.sidecar.rollout import (
    guards,
    latency_edges,
    metric_findings,
    mix,
    obstacles,
    own_judgement,
    traffic,
    unanswered,
    warmth,
)
from evenkeel.sidecar.rollout.counters import Delta, Key, Window
from evenkeel.sidecar.rollout.e_values import Pair
from evenkeel.sidecar.rollout.evidence import Evidence
from evenkeel.sidecar.rollout.judged import Decision, Judged, Stage
from evenkeel.sidecar.rollout.objectives import ObjectiveEvidence
from evenkeel.sidecar.rollout.outage import NO_STREAK, WINDOWS, WINDOWS_INSTANCE, Streak
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason, RolloutVerdict
from evenkeel.sidecar.rollout.rule import ERRORS, Arm, Rule


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
        streaks=_streaks(rule, before.streaks, window) if began else before.streaks,
    )
    if began:
        is_warm = before.warmth.is_over or not rule.warm_s_max
        after = _count(rule, after, window if is_warm else replace(window, edges=()))
    return replace(after, condemned=after.condemned or _condemned(rule, after))


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
    return replace(
        state,
        metrics=own_judgement.compare(rule, _compare(rule, state.metrics, window, Arm.CANDIDATE, rule.reference), window),
        same_version=_same_version(rule, state.same_version, window),
        objectives=_objectives(rule, state.objectives, window),
        mix=mix.compare(rule, state.mix, window) if state.mix.chosen else state.mix,
    )


Counter = Callable[[Delta], tuple[int, int]]  # exposure and bad events of a metric


def _counters(window: Window) -> dict[str, Counter]:
    counters: dict[str, Counter] = {ERRORS: lambda d: (d.judged, d.errors)}
    for place, edge in enumerate(window.edges):
        counters[latency_edges.name(edge)] = lambda d, place=place: _timed(d, d.slower[place] if d.slower else 0)  # type: ignore[misc]
    return counters


def _timed(d: Delta, slow: int) -> tuple[int, int]:
    return (0, 0) if d.other_edges else (d.timed, slow)


def _pair(window: Window, one: Arm, other: Arm, counter: Counter) -> Pair:
    ours, theirs = [counter(d) for d in window.of(one)], [counter(d) for d in window.of(other)]
    return Pair(_sum(ours, 0), _sum(theirs, 0), _sum(ours, 1), _sum(theirs, 1))


def _sum(counts: Sequence[tuple[int, int]], place: int) -> int:
    return sum(c[place] for c in counts)


def _compare(
    rule: Rule, metrics: Mapping[str, Evidence], window: Window, one: Arm, other: Arm, mark: str = ""
) -> dict[str, Evidence]:
    """Every metric of the window, arm `one` in the place of the candidate."""
    after = dict(metrics)
    for name, counter in _counters(window).items():
        before = after.get(mark + name, Evidence(name))
        after[mark + name] = before.add(_pair(window, one, other, counter), window.seconds, rule)
    return after


def _same_version(rule: Rule, metrics: Mapping[str, Evidence], window: Window) -> Mapping[str, Evidence]:
    if rule.reference != Arm.BASELINE or not window.of(Arm.PRODUCTION):
        return metrics
    evidence = _compare(rule, metrics, window, Arm.BASELINE, Arm.PRODUCTION, "baseline worse: ")
    return _compare(rule, evidence, window, Arm.PRODUCTION, Arm.BASELINE, "production worse: ")


def _objectives(rule: Rule, before: Sequence[ObjectiveEvidence], window: Window) -> tuple[ObjectiveEvidence, ...]:
    places = iter(range(len(window.slo_edges)))
    after = []
    for e in before or [ObjectiveEvidence(o) for o in rule.slo]:
        place = next(places, None) if e.objective.edge_s else None
        after.append(e.add(*_missed(e, window.of(Arm.CANDIDATE), place), window.seconds, rule))
    return tuple(after)


def _missed(e: ObjectiveEvidence, deltas: Sequence[Delta], place: int | None) -> tuple[int, int]:
    """The candidate's requests and those that miss the objective."""
    if e.objective.edge_s:
        known = [d for d in deltas if place is not None and d.missed and not d.other_edges]
        return sum(d.timed for d in known), sum(d.missed[place or 0] for d in known)
    return sum(d.judged for d in deltas), sum(d.errors for d in deltas)


FAR_SLOWER, REFUSED = "far slower", "4xx"


def _streaks(rule: Rule, streaks: Mapping[str, Streak], window: Window) -> dict[str, Streak]:
    """Of the whole arm by kind of trouble, and of each of several instances by its name."""
    kinds: dict[str, Counter] = {
        ERRORS: lambda d: (d.judged, d.errors),
        FAR_SLOWER: lambda d: _timed(d, d.far),
        REFUSED: lambda d: (d.requests, d.client_errors),
    }
    now = {kind: _pair(window, Arm.CANDIDATE, rule.reference, counter) for kind, counter in kinds.items()}
    theirs = now[ERRORS]
    candidates = window.of(Arm.CANDIDATE)
    for d in candidates if len(candidates) > 1 else ():
        now[str(Key(d.arm, d.instance))] = Pair(d.judged, theirs.n_r, d.errors, theirs.bad_r)
    return {**streaks, **{name: streaks.get(name, NO_STREAK).add(pair) for name, pair in now.items()}}


def _condemned(rule: Rule, state: Judged) -> tuple[Finding, ...]:
    hard = tuple(f for f in guards.broken(state.healths, rule) if f.reason in guards.FATAL)
    out = [_out(name, state) for name, s in state.streaks.items() if s.windows >= _windows_needed(name)]
    if not state.warmth.is_over:
        out = [f for f in out if f.about != FAR_SLOWER]
    if out and mix.excuses_outage(rule, state.mix):
        out = []
    worse = own_judgement.convictions(rule, state.convicting)
    if worse:
        worse = [f for f in worse if not mix.excuses(rule, state.mix, f.about)]
    missed = [_objective_missed(e) for e in state.objectives if e.is_missed]
    stalled = traffic.stalled(state.traffic)
    return (*hard, *stalled, *out, *worse, *missed)


def _windows_needed(streak: str) -> int:
    return WINDOWS_INSTANCE if streak.startswith(Arm.CANDIDATE.value) else WINDOWS


def _out(name: str, state: Judged) -> Finding:
    if name == REFUSED:
        return Finding(RolloutReason.CANDIDATE_REFUSES, name, "most answers of the candidate are 4xx, of the reference few")
    words = "most of its answers are bad, window after window, and few of the reference's"
    return Finding(RolloutReason.CANDIDATE_FAR_WORSE, name, words)


def _objective_missed(e: ObjectiveEvidence) -> Finding:
    requests, bad = e.total
    words = f"{bad} of {requests} in the candidate, {e.objective.share:g} of all are allowed"
    return Finding(RolloutReason.OBJECTIVE_MISSED, e.objective.name, words)


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
