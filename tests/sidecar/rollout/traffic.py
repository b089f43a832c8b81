"""Literal windows and scrapes for the judge's tests: arms of one or more instances with the counts that a test writes down."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from math import inf

from evenkeel.sidecar.rollout.counters import Delta, Key, Scrape, Window
from evenkeel.sidecar.rollout.decide import decide
from evenkeel.sidecar.rollout.judged import Decision, Judged
from evenkeel.sidecar.rollout.rule import Arm, Rule
from evenkeel.sidecar.rollout.window_step import step

PRODUCTION, BASELINE, CANDIDATE = Arm.PRODUCTION, Arm.BASELINE, Arm.CANDIDATE
EVEN = ((BASELINE, 1.0), (CANDIDATE, 1.0))
ERRORS_ONLY = Rule("test", latency=False)


def spread(count: int, instances: int) -> list[int]:
    return [count // instances + (i < count % instances) for i in range(instances)]


def arm(name: Arm, requests: int, errors: int, instances: int = 2, **more: object) -> list[Delta]:
    """One arm's deltas: requests and errors spread evenly over its instances."""
    parts = zip(spread(requests, instances), spread(errors, instances), strict=True)
    return [Delta(name, f"{name}-{i}", requests=n, judged=n, errors=b, ready=True, **more) for i, (n, b) in enumerate(parts)]  # type: ignore[arg-type]


def window(number: int, *deltas: Sequence[Delta], missing: tuple[str, ...] = (), seconds: float = 10.0, **more: object) -> Window:
    given = {"stage": 0, "split": EVEN, "edges": (), **more}
    flat = tuple(d for arm_deltas in deltas for d in arm_deltas)
    return Window(number * seconds, (number + 1) * seconds, deltas=flat, missing=missing, **given)  # type: ignore[arg-type]


def compared(number: int, candidate: tuple[int, int], reference: tuple[int, int], **more: object) -> Window:
    """A window of (requests, errors) in the candidate and in the baseline."""
    return window(number, arm(CANDIDATE, *candidate), arm(BASELINE, *reference), **more)  # type: ignore[arg-type]


def judged(windows: Iterable[Window], rule: Rule = ERRORS_ONLY) -> tuple[Judged, Decision]:
    state = Judged()
    for w in windows:
        state = step(rule, state, w)
    return state, decide(rule, state)


def codes(decision: Decision) -> list[str]:
    return [f.reason.value for f in decision.findings]


def scrape(arm: Arm, at_s: float = 0.0, name: str = "a", *, slow: Mapping[float, int] | None = None, **codes: int) -> Scrape:
    """`c200=5, c500=1` are the counters by status; `slow` is a cumulative histogram by upper edge."""
    seconds = tuple(sorted((slow or {}).items()))
    return Scrape(Key(arm, name), at_s, {code[1:]: n for code, n in codes.items()}, seconds, {}, 0, True, "READY")


def poisson(rng: random.Random, mean: float) -> int:
    """Knuth's; the means here are small."""
    count, product, limit = 0, rng.random(), 2.718281828459045**-mean
    while product > limit:
        count, product = count + 1, product * rng.random()
    return count


INF = inf
