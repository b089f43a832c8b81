"""The user's own metrics in the rule: their evidence, what their weights come to, and what is not measured. Pure.

A critical metric counts as errors do: worse is a rollback, and without a proof there is no promotion. Those with a weight vote:
a rollback takes half of the weight, a promotion a proof of three quarters of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evenkeel.sidecar.rollout import metric_findings
from evenkeel.sidecar.rollout.counters import Delta, Key, Window
from evenkeel.sidecar.rollout.e_values import Pair
from evenkeel.sidecar.rollout.evidence import Evidence
from evenkeel.sidecar.rollout.own_counters import OwnCount
from evenkeel.sidecar.rollout.own_metrics import OwnMetric
from evenkeel.sidecar.rollout.reasons import Finding, RolloutReason
from evenkeel.sidecar.rollout.rule import Arm, Rule

WORSE_SHARE, GOOD_SHARE = 0.5, 0.75  # of the weights
Metrics = Mapping[str, Evidence]


@dataclass(frozen=True, slots=True)
class OwnSeen:
    named: frozenset[str] = frozenset()  # metrics whose events somebody shows
    unmeasured: Mapping[str, str] = field(default_factory=dict)  # in the last window: by whom


NOT_YET_SEEN = OwnSeen()


def seen(rule: Rule, before: OwnSeen, window: Window) -> OwnSeen:
    named, unmeasured = set(before.named), dict[str, str]()
    for place, metric in enumerate(rule.own):
        for d in (*window.of(Arm.CANDIDATE), *window.of(rule.reference)):
            count = _of(d, place)
            if count is not None and count.is_named:
                named.add(metric.name)
            if count is None and not d.joined:
                unmeasured.setdefault(metric.name, str(Key(d.arm, d.instance)))
    return OwnSeen(frozenset(named), unmeasured)


def compare(rule: Rule, metrics: Metrics, window: Window) -> dict[str, Evidence]:
    """All evidence, that of the own metrics a window further."""
    after = dict(metrics)
    for place, metric in enumerate(rule.own):
        ours, theirs = (_counts(window.of(arm), place) for arm in (Arm.CANDIDATE, rule.reference))
        pair = Pair(ours.whole, theirs.whole, ours.events, theirs.events)
        evidence = after.get(metric.name, Evidence(metric.name))
        after[metric.name] = evidence.add(pair.swapped if metric.more_is_better else pair, window.seconds, rule)
    return after


def _of(d: Delta, place: int) -> OwnCount | None:
    return d.own[place] if place < len(d.own) else None


def _counts(deltas: Sequence[Delta], place: int) -> OwnCount:
    counts = [c for c in (_of(d, place) for d in deltas) if c is not None]
    return OwnCount(sum(c.whole for c in counts), sum(c.events for c in counts))


def convictions(rule: Rule, metrics: Metrics) -> list[Finding]:
    """Of every metric that rolls back by itself or, with a weight, together with others."""
    worse = [e for e in metrics.values() if e.is_worse]
    voters = _voters(rule)
    weight = sum(voters.get(e.metric, 0.0) for e in worse)
    outvoted = weight < WORSE_SHARE * sum(voters.values())
    reason = RolloutReason.CANDIDATE_WORSE
    return [metric_findings.finding(rule, reason, e) for e in worse if not (outvoted and e.metric in voters)]


def unproven(rule: Rule, metrics: Metrics) -> list[Finding]:
    """What keeps a promotion waiting."""
    open_ones = [e for e in metrics.values() if not metric_findings.is_proven(rule, e)]
    voters = _voters(rule)
    left = sum(voters.get(e.metric, 0.0) for e in open_ones)
    enough = left <= (1 - GOOD_SHARE) * sum(voters.values())
    return [metric_findings.doubt(rule, e) for e in open_ones if not (enough and e.metric in voters)]


def not_measured(rule: Rule, own: OwnSeen, metrics: Metrics) -> list[Finding]:
    found = []
    for metric in rule.own:
        why = _why_not(metric, own, metrics.get(metric.name))
        if why:
            found.append(Finding(RolloutReason.METRIC_NOT_MEASURED, metric.name, why))
    return found


def _why_not(metric: OwnMetric, own: OwnSeen, e: Evidence | None) -> str:
    if metric.name in own.unmeasured:
        what = f"no bucket at {metric.edge:g}" if metric.edge else "not what it is made of, or more events than there are in all"
        return f"{own.unmeasured[metric.name]} shows {what}"
    if metric.events and metric.name not in own.named:
        return f"nobody shows {metric.events[0].name}"
    if e is None or not (e.total.n_c and e.total.n_r):
        return "an arm has counted nothing yet"
    return ""


def _voters(rule: Rule) -> dict[str, float]:
    return {m.name: m.weight for m in rule.own if not m.is_critical}
