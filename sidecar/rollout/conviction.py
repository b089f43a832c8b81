"""What rolls the candidate back: hard facts, outages, what is worse beyond doubt, an objective that is missed. Pure.

A difference that the mix of requests may have made convicts nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from evenkeel.sidecar.rollout import guards, mix, own_judgement, traffic, window_counts
from evenkeel.sidecar.rollout.counters import Key, Window
from evenkeel.sidecar.rollout.e_values import Pair
from evenkeel.sidecar.rollout.judged import Judged
from evenkeel.sidecar.rollout.objectives import ObjectiveEvidence
from evenkeel.sidecar.rollout.outage import NO_STREAK, WINDOWS, WINDOWS_INSTANCE, Streak
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason
from evenkeel.sidecar.rollout.rule import ERRORS, Arm, Rule

FAR_SLOWER, REFUSED = "far slower", "4xx"


def streaks_after(rule: Rule, streaks: Mapping[str, Streak], window: Window) -> dict[str, Streak]:
    """Of the whole arm by kind of trouble, and of each of several instances by its name."""
    kinds: dict[str, window_counts.Counter] = {
        ERRORS: lambda d: (d.judged, d.errors),
        FAR_SLOWER: lambda d: window_counts.timed(d, d.far),
        REFUSED: lambda d: (d.requests, d.client_errors),
    }
    now = {kind: window_counts.pair(window, Arm.CANDIDATE, rule.reference, counter) for kind, counter in kinds.items()}
    theirs = now[ERRORS]
    candidates = window.of(Arm.CANDIDATE)
    for d in candidates if len(candidates) > 1 else ():
        now[str(Key(d.arm, d.instance))] = Pair(d.judged, theirs.n_r, d.errors, theirs.bad_r)
    return {**streaks, **{name: streaks.get(name, NO_STREAK).add(pair) for name, pair in now.items()}}


def condemned(rule: Rule, state: Judged) -> tuple[Finding, ...]:
    hard = tuple(f for f in guards.broken(state.healths, rule) if f.reason in guards.FATAL)
    out = [_out(name, state) for name, s in state.streaks.items() if s.windows >= _windows_needed(name)]
    if not state.warmth.is_over:
        out = [f for f in out if f.about != FAR_SLOWER]
    if out:
        out = [f for f in out if not mix.excuses_outage(rule, state.mix, slow=f.about == FAR_SLOWER)]
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
