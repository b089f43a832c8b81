"""What one window says of every metric: exposure and bad events of both arms, added to the evidence. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evenkeel.sidecar.rollout import latency_edges
from evenkeel.sidecar.rollout.counters import Delta, Window
from evenkeel.sidecar.rollout.e_values import Pair
from evenkeel.sidecar.rollout.evidence import Evidence
from evenkeel.sidecar.rollout.objectives import ObjectiveEvidence
from evenkeel.sidecar.rollout.rule import ERRORS, Arm, Rule

Counter = Callable[[Delta], tuple[int, int]]  # exposure and bad events of a metric


def _counters(window: Window) -> dict[str, Counter]:
    counters: dict[str, Counter] = {ERRORS: lambda d: (d.judged, d.errors)}
    for place, edge in enumerate(window.edges):
        counters[latency_edges.name(edge)] = lambda d, place=place: timed(d, d.slower[place] if d.slower else 0)  # type: ignore[misc]
    return counters


def timed(d: Delta, slow: int) -> tuple[int, int]:
    return (0, 0) if d.other_edges else (d.timed, slow)


def pair(window: Window, one: Arm, other: Arm, counter: Counter) -> Pair:
    ours, theirs = [counter(d) for d in window.of(one)], [counter(d) for d in window.of(other)]
    return Pair(_sum(ours, 0), _sum(theirs, 0), _sum(ours, 1), _sum(theirs, 1))


def _sum(counts: Sequence[tuple[int, int]], place: int) -> int:
    return sum(c[place] for c in counts)


def compare(
    rule: Rule, metrics: Mapping[str, Evidence], window: Window, one: Arm, other: Arm, mark: str = ""
) -> dict[str, Evidence]:
    """Every metric of the window, arm `one` in the place of the candidate."""
    after = dict(metrics)
    for name, counter in _counters(window).items():
        before = after.get(mark + name, Evidence(name))
        after[mark + name] = before.add(pair(window, one, other, counter), window.seconds, rule)
    return after


def same_version(rule: Rule, metrics: Mapping[str, Evidence], window: Window) -> Mapping[str, Evidence]:
    if rule.reference != Arm.BASELINE or not window.of(Arm.PRODUCTION):
        return metrics
    evidence = compare(rule, metrics, window, Arm.BASELINE, Arm.PRODUCTION, "baseline worse: ")
    return compare(rule, evidence, window, Arm.PRODUCTION, Arm.BASELINE, "production worse: ")


def objectives(rule: Rule, before: Sequence[ObjectiveEvidence], window: Window) -> tuple[ObjectiveEvidence, ...]:
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
