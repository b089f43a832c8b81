"""What stands in the way of a promotion, however good the numbers are, and what is not proven yet. Pure."""

from __future__ import annotations

from math import log

from evenkeel.sidecar.rollout import guards, metric_findings, mix, own_judgement
from evenkeel.sidecar.rollout.counters import Window
from evenkeel.sidecar.rollout.e_values import WORSE_GAINS, Pair, ratio_e
from evenkeel.sidecar.rollout.judged import Judged
from evenkeel.sidecar.rollout.objectives import ObjectiveEvidence
from evenkeel.sidecar.rollout.reasons import Finding, Flag, RolloutReason
from evenkeel.sidecar.rollout.rule import ERRORS, Arm, Rule
from evenkeel.sidecar.rollout.traffic import Signals


def obstacles(rule: Rule, state: Judged) -> list[Finding]:
    """The most telling first."""
    return [*_of_instances(rule, state), *_of_traffic(rule, state), *_of_surroundings(rule, state), *_of_stage(rule, state)]


def _of_instances(rule: Rule, state: Judged) -> list[Finding]:
    silent = [a for a in (Arm.CANDIDATE, rule.reference) if state.traffic.signals.get(a, Signals()).is_silent]
    findings = [Finding(RolloutReason.NO_DATA, arm.value, "no data") for arm in silent]
    findings += [
        Finding(RolloutReason.DATA_GAP, str(k), "did not answer the last scrape") for k in guards.missed(state.healths, rule)
    ]
    findings += [
        Finding(RolloutReason.ARMS_MIXED, name, "changed from one arm to another") for name in guards.changed_sides(state.healths)
    ]
    findings += guards.waiting(state.healths)
    findings += [Finding(RolloutReason.CANDIDATE_RESTARTED, who, "restarted in this stage") for who in state.stage.restarted]
    findings += [Finding(RolloutReason.COUNTERS_FELL, who, "its counters fell in this stage") for who in state.stage.went_back]
    return findings


def _of_traffic(rule: Rule, state: Judged) -> list[Finding]:
    split, findings = state.traffic.split, []
    if rule.mix_checked and not state.traffic.split_known:
        findings.append(Finding(RolloutReason.SPLIT_UNKNOWN, "split", "no intended split was given"))
    elif rule.mix_checked and split.deviation > rule.split_tolerance:
        words = f"the candidate gets {split.share:.4g} of the requests, {split.declared:.4g} was declared"
        findings.append(Finding(RolloutReason.SAMPLE_RATIO, "split", words))
    findings += mix.differences(rule, state.mix)
    if client_errors_shifted(rule, state):
        findings.append(Finding(RolloutReason.CLIENT_ERRORS_DIFFER, "4xx", _shares(rule, state)))
    return findings


def _of_surroundings(rule: Rule, state: Judged) -> list[Finding]:
    unstable = RolloutReason.ENVIRONMENT_UNSTABLE
    findings = [f for f in guards.broken(state.healths, rule) if f.reason == unstable]
    findings += [Finding(unstable, n, "the same version differs") for n, e in state.same_version.items() if e.is_worse]
    findings += [
        Finding(unstable, n, f"the reference is far from its own past in {sum(e.left_out)} of {len(e.left_out)} blocks")
        for n, e in state.metrics.items()
        if e.is_unstable
    ]
    return findings


def _of_stage(rule: Rule, state: Judged) -> list[Finding]:
    stage, findings = state.stage, []
    for arm, requests in ((Arm.CANDIDATE, stage.requests_candidate), (rule.reference, stage.requests_reference)):
        if requests < rule.requests_min:
            words = f"{requests} of {rule.requests_min} in this stage"
            findings.append(Finding(RolloutReason.TOO_FEW_REQUESTS, arm.value, words))
    age_s = state.now_s - stage.started_s
    if age_s < rule.stage_s_min - 1e-6:
        findings.append(Finding(RolloutReason.TOO_SOON, "stage", f"{age_s:.0f} of {rule.stage_s_min:.0f} s"))
    return findings


def unproven(rule: Rule, state: Judged) -> list[Finding]:
    findings = [*own_judgement.not_measured(rule, state.own, state.metrics), *own_judgement.unproven(rule, state.metrics)]
    findings += [_objective_in_doubt(e) for e in state.objectives if e.total[1] > e.objective.share * e.total[0]]
    findings += [metric_findings.doubt(rule, e) for e in state.unanswered.metrics.values() if e.one_witness]
    if ERRORS not in state.metrics:
        findings.append(Finding(RolloutReason.NOT_YET_PROVEN, ERRORS, "no window counts yet"))
    if rule.latency and not any(name != ERRORS for name in state.metrics):
        findings.append(Finding(RolloutReason.LATENCY_NOT_MEASURED, "latency", "no edges have been chosen yet"))
    if Flag.OTHER_EDGES in state.flags:
        findings.append(Finding(RolloutReason.LATENCY_NOT_MEASURED, "latency", "instances have histograms with different edges"))
    return findings


def _objective_in_doubt(e: ObjectiveEvidence) -> Finding:
    requests, bad = e.total
    words = f"{bad} of {requests} in the candidate so far, {e.objective.share:g} of all are allowed"
    return Finding(RolloutReason.OBJECTIVE_IN_DOUBT, e.objective.name, words)


def flags_of(window: Window, rule: Rule) -> set[Flag]:
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
        Flag.OTHER_EDGES: any(d.other_edges for arm in compared for d in arm),
    }
    return {flag for flag, is_met in met.items() if is_met}


def flags(rule: Rule, state: Judged) -> tuple[Flag, ...]:
    """What to know about the data, in the order of the table."""
    names = set(state.flags)
    if client_errors_shifted(rule, state):
        names.add(Flag.CLIENT_ERRORS_SHIFTED)
    if any(any(e.left_out) for e in state.metrics.values()):
        names.add(Flag.LEFT_OUT)
    return tuple(f for f in Flag if f in names)


def _shares(rule: Rule, state: Judged) -> str:
    ours, theirs = (state.traffic.signals.get(a, Signals()) for a in (Arm.CANDIDATE, rule.reference))
    return (
        f"{ours.client_errors} of {ours.requests} in the candidate, {theirs.client_errors} of {theirs.requests} in the reference"
    )


def client_errors_shifted(rule: Rule, state: Judged) -> bool:
    """Refuted at one in a thousand that the arms had the same rate of 4xx: half again as many, in either direction."""
    ours, theirs = (state.traffic.signals.get(a, Signals()) for a in (Arm.CANDIDATE, rule.reference))
    pair = Pair(ours.requests, theirs.requests, ours.client_errors, theirs.client_errors)
    return max(ratio_e([pair], 1.5, WORSE_GAINS), ratio_e([pair.swapped], 1.5, WORSE_GAINS)) >= log(1000)
