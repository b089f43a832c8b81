"""The candidate's first minutes, in which its caches are cold: slow answers count once its own latency has settled. Pure.

An instance has settled once the medians of its last three windows lie close together, or it has no answers to be timed. Only the
past decides when counting begins, so the bounds hold from then on. A latency that is high and stays so has settled: it is no cold
start, and is judged after half a minute. At the latest `warm_s_max` ends it, both ways. Errors count from the first window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evenkeel.sidecar.rollout.counters import Window
from evenkeel.sidecar.rollout.rule import Arm, Rule

WINDOWS = 3
CLOSE = 1.5  # the largest median over the smallest: buckets are 1.19 apart, and a median may wander over two


@dataclass(frozen=True, slots=True)
class Warmth:
    medians: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # of the newest windows, by instance; 0: none timed
    is_over: bool = False


NOT_WARM = Warmth()


def watched(rule: Rule, before: Warmth, window: Window, elapsed_s: float) -> Warmth:
    if before.is_over or elapsed_s >= rule.warm_s_max:
        return Warmth(is_over=True)
    medians = {d.instance: (*before.medians.get(d.instance, ()), d.median)[-WINDOWS:] for d in window.of(Arm.CANDIDATE)}
    return Warmth(medians, is_over=bool(medians) and all(map(_has_settled, medians.values())))


def _has_settled(medians: tuple[float, ...]) -> bool:
    timed = [m for m in medians if m > 0]
    return len(medians) == WINDOWS and (not timed or (len(timed) == WINDOWS and max(timed) <= CLOSE * min(timed)))
