"""The first rule: what all windows together said. Frozen: it only replays logs that it wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log

from evenkeel.sidecar.rollout import latency_edges
from evenkeel.sidecar.rollout.counters import Delta, Key, Window
from evenkeel.sidecar.rollout.e_values import WORSE_GAINS, Pair, ratio_e
from evenkeel.sidecar.rollout.first_rule import first_guards as guards
from evenkeel.sidecar.rollout.first_rule.first_evidence import FirstEvidence
from evenkeel.sidecar.rollout.first_rule.first_guards import FirstHealth
from evenkeel.sidecar.rollout.first_rule.first_promotion import halves
from evenkeel.sidecar.rollout.first_rule.first_sample_ratio import NOT_SEEN, FirstSampleRatio
from evenkeel.sidecar.rollout.first_rule.first_settings import FirstRule
from evenkeel.sidecar.rollout.reasons import Finding, Flag, RolloutReason, RolloutVerdict
from evenkeel.sidecar.rollout.rule import ERRORS, Arm

SILENT_WINDOWS = 3  # an arm without requests for this long gives no data


@dataclass(frozen=True, slots=True)
class FirstStage:
    """What must hold anew at every step of the traffic."""

    number: int = 0
    started_s: float = 0.0
    requests_candidate: int = 0
    requests_reference: int = 0
    gaps: tuple[str, ...] = ()  # who was missing
    restarted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FirstSignals:
    """Counted, shown, never judged: one arm's requests that were refused or wrong themselves."""

    requests: int = 0
    client_errors: int = 0
    shed: int = 0


@dataclass(frozen=True, slots=True)
class FirstJudged:
    """All evidence so far. Made by folding `step` over the windows."""

    windows: int = 0
    started_s: float = 0.0
    now_s: float = 0.0
    stage: FirstStage = FirstStage()
    metrics: Mapping[str, FirstEvidence] = field(default_factory=dict)
    same_version: Mapping[str, FirstEvidence] = field(default_factory=dict)  # baseline against production, and the other way
    mix: FirstSampleRatio = NOT_SEEN
    split_known: bool = True
    healths: Mapping[Key, FirstHealth] = field(default_factory=dict)
    silent: Mapping[Arm, int] = field(default_factory=dict)  # windows without a request, in a row
    signals: Mapping[Arm, FirstSignals] = field(default_factory=dict)
    flags: frozenset[Flag] = frozenset()
    condemned: tuple[Finding, ...] = ()  # the reasons of a rollback, which is final

    @property
    def elapsed_s(self) -> float:
        return self.now_s - self.started_s


@dataclass(frozen=True, slots=True)
class FirstDecision:
    verdict: RolloutVerdict
    findings: tuple[Finding, ...]
    final: bool  # nothing that comes later is asked for


def step(rule: FirstRule, state: FirstJudged, window: Window) -> FirstJudged:
    """Take one window in. One with a missing instance gives no counts to anybody: arms are compared over the same windows."""
    assert window.seconds >= 0, "windows follow each other"
    before = replace(state, started_s=window.start_s) if state.windows == 0 else state
    after = replace(
        before,
        windows=before.windows + 1,
        now_s=window.end_s,
        stage=_stage(before, window, rule),
        healths=guards.watch(before.healths, window),
        flags=before.flags | _flags(window, rule),
    )
    if not window.missing:
        after = _count(rule, after, window)
    return replace(after, condemned=after.condemned or _condemned(rule, after))


def _stage(state: FirstJudged, window: Window, rule: FirstRule) -> FirstStage:
    s = state.stage
    if state.windows == 0 or window.stage != s.number:
        s = FirstStage(window.stage, window.start_s)
    restarted = [str(Key(d.arm, d.instance)) for d in window.of(Arm.CANDIDATE) if d.restarts]
    counted = not window.missing
    return replace(
        s,
        requests_candidate=s.requests_candidate + counted * sum(d.judged for d in window.of(Arm.CANDIDATE)),
        requests_reference=s.requests_reference + counted * sum(d.judged for d in window.of(rule.reference)),
        gaps=_joined(s.gaps, window.missing),
        restarted=_joined(s.restarted, restarted),
    )


def _joined(known: tuple[str, ...], new: Sequence[str]) -> tuple[str, ...]:
    return (*known, *(n for n in new if n not in known))


def _flags(window: Window, rule: FirstRule) -> set[Flag]:
    compared = [window.of(Arm.CANDIDATE), window.of(rule.reference)]
    met = {
        Flag.NO_BASELINE: rule.reference == Arm.PRODUCTION,
        Flag.SPLIT_UNCHECKED: not rule.mix_checked,
        Flag.ONE_INSTANCE: any(len(arm) == 1 for arm in compared),
        Flag.COUNTER_RESET: any(d.reset for d in window.deltas),
        Flag.GAP: bool(window.missing),
        Flag.READINESS_UNKNOWN: any(d.ready is None for d in window.deltas),
        Flag.JOINED: any(d.joined for d in window.deltas),
        Flag.SHED: any(d.shed for d in window.deltas),
    }
    return {flag for flag, is_met in met.items() if is_met}


def _count(rule: FirstRule, state: FirstJudged, window: Window) -> FirstJudged:
    arms = [arm for arm in Arm if window.of(arm) or arm in state.silent]
    return replace(
        state,
        metrics=_compare(rule, state.metrics, window, Arm.CANDIDATE, rule.reference),
        same_version=_same_version(rule, state.same_version, window),
        mix=_mix(state.mix, window),
        split_known=bool(window.split),
        silent={a: 0 if sum(d.requests for d in window.of(a)) else state.silent.get(a, 0) + 1 for a in arms},
        signals={a: _signals(state.signals.get(a, FirstSignals()), window.of(a)) for a in arms},
    )


Counter = Callable[[Delta], tuple[int, int]]  # exposure and bad events of a metric


def _counters(window: Window) -> dict[str, Counter]:
    found: dict[str, Counter] = {ERRORS: lambda d: (d.judged, d.errors)}
    for place, edge in enumerate(window.edges):
        found[latency_edges.name(edge)] = lambda d, place=place: (d.timed, d.slower[place] if d.slower else 0)  # type: ignore[misc]
    return found


def _compare(
    rule: FirstRule, metrics: Mapping[str, FirstEvidence], window: Window, one: Arm, other: Arm, mark: str = ""
) -> dict[str, FirstEvidence]:
    """Every metric of the window, arm `one` in the place of the candidate."""
    after = dict(metrics)
    for name, counter in _counters(window).items():
        ours, theirs = [counter(d) for d in window.of(one)], [counter(d) for d in window.of(other)]
        pair = Pair(_sum(ours, 0), _sum(theirs, 0), _sum(ours, 1), _sum(theirs, 1))
        split = halves(theirs) if len(theirs) > 1 else Pair()
        known = after.get(mark + name, FirstEvidence(name))
        after[mark + name] = known.add(pair, split, window.seconds, rule)
    return after


def _sum(counts: Sequence[tuple[int, int]], place: int) -> int:
    return sum(c[place] for c in counts)


def _same_version(rule: FirstRule, metrics: Mapping[str, FirstEvidence], window: Window) -> Mapping[str, FirstEvidence]:
    if rule.reference != Arm.BASELINE or not window.of(Arm.PRODUCTION):
        return metrics
    there = _compare(rule, metrics, window, Arm.BASELINE, Arm.PRODUCTION, "baseline worse: ")
    return _compare(rule, there, window, Arm.PRODUCTION, Arm.BASELINE, "production worse: ")


def _mix(mix: FirstSampleRatio, window: Window) -> FirstSampleRatio:
    if not window.split:
        return mix
    whole = sum(weight for _, weight in window.split)
    counts = [sum(d.requests for d in window.of(arm)) for arm, _ in window.split]
    return mix.add(counts, tuple(weight / whole for _, weight in window.split))


def _signals(s: FirstSignals, deltas: Sequence[Delta]) -> FirstSignals:
    return FirstSignals(
        s.requests + sum(d.requests for d in deltas),
        s.client_errors + sum(d.client_errors for d in deltas),
        s.shed + sum(d.shed for d in deltas),
    )


def _condemned(rule: FirstRule, state: FirstJudged) -> tuple[Finding, ...]:
    hard = tuple(f for f in guards.broken(state.healths, rule) if f.reason in guards.FATAL)
    far = [_finding(RolloutReason.CANDIDATE_FAR_WORSE, e) for e in state.metrics.values() if e.is_far_worse()]
    worse = [_finding(RolloutReason.CANDIDATE_WORSE, e) for e in state.metrics.values() if e.is_worse(rule)]
    return (*hard, *far, *worse)


def _finding(reason: RolloutReason, e: FirstEvidence) -> Finding:
    t = e.total
    return Finding(reason, e.metric, f"{t.bad_c} of {t.n_c} in the candidate, {t.bad_r} of {t.n_r} in the reference")


def decide(rule: FirstRule, state: FirstJudged) -> FirstDecision:
    if state.condemned:
        return FirstDecision(RolloutVerdict.ROLLBACK, state.condemned, final=True)
    obstacles = (*_obstacles(rule, state), *_unproven(rule, state))
    late = state.elapsed_s >= rule.max_s
    if not obstacles:
        return FirstDecision(RolloutVerdict.PROMOTE, tuple(_proof(rule, e) for e in state.metrics.values()), final=late)
    if not late:
        return FirstDecision(RolloutVerdict.HOLD, obstacles, final=False)
    why = Finding(RolloutReason.TIME_IS_UP, "rollout", f"{state.elapsed_s:.0f} s have passed, {rule.max_s:.0f} s were allowed")
    return FirstDecision(
        RolloutVerdict.ROLLBACK if rule.at_end == "rollback" else RolloutVerdict.HOLD, (why, *obstacles), final=True
    )


def _proof(rule: FirstRule, e: FirstEvidence) -> Finding:
    return _finding(RolloutReason.NOT_WORSE if e.is_not_bad(rule) else RolloutReason.WITHIN_BUDGET, e)


def _unproven(rule: FirstRule, state: FirstJudged) -> list[Finding]:
    found = []
    for e in state.metrics.values():
        if not (e.is_not_bad(rule) or e.is_within_budget(rule)):
            found.append(_finding(RolloutReason.ONE_WITNESS_ONLY if e.one_witness(rule) else RolloutReason.NOT_YET_PROVEN, e))
    if rule.latency and not any(name != ERRORS for name in state.metrics):
        found.append(Finding(RolloutReason.LATENCY_NOT_MEASURED, "latency", "no edges have been chosen yet"))
    return found


def _obstacles(rule: FirstRule, state: FirstJudged) -> list[Finding]:
    """What stands in the way of a promotion, however good the numbers are. The most telling first."""
    stage, age_s = state.stage, state.now_s - state.stage.started_s
    found = [Finding(RolloutReason.NO_DATA, arm.value, "no data") for arm in _silent(rule, state)]
    found += [Finding(RolloutReason.DATA_GAP, who, "did not answer a scrape in this stage") for who in stage.gaps]
    found += [f for f in guards.broken(state.healths, rule) if f.reason == RolloutReason.ENVIRONMENT_UNSTABLE]
    found += guards.waiting(state.healths)
    found += [Finding(RolloutReason.CANDIDATE_RESTARTED, who, "restarted in this stage") for who in stage.restarted]
    if rule.mix_checked and not state.split_known:
        found.append(Finding(RolloutReason.SPLIT_UNKNOWN, "split", "no intended split was given"))
    elif rule.mix_checked and state.mix.p <= rule.mix_p_min:
        found.append(Finding(RolloutReason.SAMPLE_RATIO, "split", f"p = {state.mix.p:.2g}, requests {list(state.mix.counts)}"))
    if _client_errors_shifted(rule, state):
        found.append(Finding(RolloutReason.CLIENT_ERRORS_DIFFER, "4xx", _shares(rule, state)))
    found += [
        Finding(RolloutReason.ENVIRONMENT_UNSTABLE, n, "the same version differs")
        for n, e in state.same_version.items()
        if e.is_worse(rule)
    ]
    for arm, requests in ((Arm.CANDIDATE, stage.requests_candidate), (rule.reference, stage.requests_reference)):
        if requests < rule.requests_min:
            found.append(Finding(RolloutReason.TOO_FEW_REQUESTS, arm.value, f"{requests} of {rule.requests_min} in this stage"))
    if age_s < rule.stage_s_min - 1e-6:
        found.append(Finding(RolloutReason.TOO_SOON, "stage", f"{age_s:.0f} of {rule.stage_s_min:.0f} s"))
    return found


def _silent(rule: FirstRule, state: FirstJudged) -> list[Arm]:
    compared = (Arm.CANDIDATE, rule.reference)
    return [a for a in compared if a not in state.silent or state.silent[a] >= SILENT_WINDOWS]


def flags(rule: FirstRule, state: FirstJudged) -> tuple[Flag, ...]:
    """What to know about the data, in the order of the table."""
    found = set(state.flags)
    if any(not e.clumping.known for e in state.metrics.values()):
        found.add(Flag.DESIGN_EFFECT_ASSUMED)
    if _client_errors_shifted(rule, state):
        found.add(Flag.CLIENT_ERRORS_SHIFTED)
    return tuple(f for f in Flag if f in found)


def _shares(rule: FirstRule, state: FirstJudged) -> str:
    ours, theirs = (state.signals.get(a, FirstSignals()) for a in (Arm.CANDIDATE, rule.reference))
    return (
        f"{ours.client_errors} of {ours.requests} in the candidate, {theirs.client_errors} of {theirs.requests} in the reference"
    )


def _client_errors_shifted(rule: FirstRule, state: FirstJudged) -> bool:
    """Refuted at one in a thousand that the arms had the same rate of 4xx: half again as many, in either direction."""
    ours, theirs = (state.signals.get(a, FirstSignals()) for a in (Arm.CANDIDATE, rule.reference))
    pair = Pair(ours.requests, theirs.requests, ours.client_errors, theirs.client_errors)
    return max(ratio_e([pair], 1.5, WORSE_GAINS), ratio_e([pair.swapped], 1.5, WORSE_GAINS)) >= log(1000)
