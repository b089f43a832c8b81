"""Requests that were begun and not answered: a slow answer is in no histogram until it is there. Pure.

Two things count as bad: a client that left before its answer (499), and each request in flight beyond the most that its instance
ever had, because those pile up. Both are compared between the arms as errors are. It convicts, with a small part of alpha, and
proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evenkeel.sidecar.rollout.counters import Delta, Window
from evenkeel.sidecar.rollout.e_values import Pair
from evenkeel.sidecar.rollout.evidence import Evidence
from evenkeel.sidecar.rollout.rule import UNANSWERED, Arm, Rule

Most = Mapping[tuple[Arm, str], int]


@dataclass(frozen=True, slots=True)
class Unanswered:
    most: Most = field(default_factory=dict)  # in flight, by instance
    evidence: Evidence = field(default_factory=lambda: Evidence(UNANSWERED))

    @property
    def metrics(self) -> dict[str, Evidence]:
        return {UNANSWERED: self.evidence} if self.evidence.total.n_c else {}


NONE_BEGUN = Unanswered()


def counted(rule: Rule, before: Unanswered, window: Window, *, counts: bool) -> Unanswered:
    """One window more. Where it does not count, only the most in flight is kept."""
    if not rule.unanswered_share:
        return before
    most = dict(before.most)
    for d in window.deltas:
        if d.in_flight is not None:
            most[d.arm, d.instance] = max(d.in_flight, before.most.get((d.arm, d.instance), 0))
    if not counts:
        return Unanswered(most, before.evidence)
    ours, theirs = (_begun(before.most, window.of(arm)) for arm in (Arm.CANDIDATE, rule.reference))
    pair = Pair(ours[0], theirs[0], ours[1], theirs[1])
    return Unanswered(most, before.evidence.add(pair, window.seconds, rule))


def _begun(most: Most, deltas: Sequence[Delta]) -> tuple[int, int]:
    """Requests begun, and those of them that have no answer. What is new on an instance's first window is its usual load."""
    piled = sum(max(0, (d.in_flight or 0) - most.get((d.arm, d.instance), d.in_flight or 0)) for d in deltas)
    return sum(d.requests for d in deltas) + piled, sum(d.left for d in deltas) + piled
