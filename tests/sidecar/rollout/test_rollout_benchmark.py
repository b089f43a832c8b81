"""The simulation judges by arrays, the product by windows. They must be the same rule, or its table says nothing."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from benchmarks.judge import NOISY, RULE, WINDOW_S, Counts, Scenario, judge, simulate
from benchmarks.judge_report import Target, limits, tables
from evenkeel.sidecar.rollout.counters import Delta, Window
from evenkeel.sidecar.rollout.decide import Judged, decide, step
from evenkeel.sidecar.rollout.reasons import RolloutVerdict
from evenkeel.sidecar.rollout.rule import Arm


def by_windows(counts: Counts, run: int) -> tuple[float, float]:
    """When the product's rule rolls back or promotes first, with the reference as two instances, its halves."""
    state, n1, n2, b1, b2 = Judged(), *(x[run] for x in counts.halves)
    rule = replace(RULE, mix_checked=False, max_s=1e9)
    for i in range(counts.c.shape[1]):
        deltas = (
            Delta(Arm.BASELINE, "a", int(n1[i]), int(n1[i]), int(b1[i]), ready=True),
            Delta(Arm.BASELINE, "b", int(n2[i]), int(n2[i]), int(b2[i]), ready=True),
            Delta(Arm.CANDIDATE, "c", int(counts.n_c[run, i]), int(counts.n_c[run, i]), int(counts.c[run, i]), ready=True),
        )
        state = step(rule, state, Window(i * 10.0, (i + 1) * 10.0, 0, (), (), deltas))
        verdict = decide(rule, state).verdict
        if verdict == RolloutVerdict.ROLLBACK:
            return (i + 1) * WINDOW_S, inf
        if verdict == RolloutVerdict.PROMOTE:
            return inf, (i + 1) * WINDOW_S
    return inf, inf


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(200, 0.1, 0.001, 2.0),
        Scenario(200, 0.5, 0.001, 1.5, noise=NOISY),
        Scenario(20, 0.5, 0.01, 3.0),
        Scenario(200, 0.1, 0.02, 6.0),
        Scenario(200, 0.1, 0.0001, 1.0),
    ],
)
def test_arrays_and_windows_give_the_same_verdict_at_the_same_second(scenario: Scenario) -> None:
    counts = simulate(scenario, 12, np.random.default_rng(5))
    found = judge(counts, scenario, np.random.default_rng(6))
    for run in range(12):
        rollback_s, promote_s = found.rollback_s[run], found.promote_s[run]
        first = (rollback_s, inf) if rollback_s <= promote_s else (inf, promote_s)
        assert by_windows(counts, run) == first


def test_noise_has_the_mean_and_the_spread_that_it_says() -> None:
    scenario = Scenario(2000, 0.5, 0.05, 1.0, noise=replace(NOISY, instance_sd=0.0))
    counts = simulate(scenario, 400, np.random.default_rng(1))
    rate = counts.c / counts.n_c
    assert rate.mean() == pytest.approx(0.05, rel=0.02)
    assert rate.std() / rate.mean() == pytest.approx(0.5, rel=0.05)


def test_limits_are_those_of_clopper_and_pearson() -> None:
    assert limits(0, 100) == (0.0, pytest.approx(0.036217, abs=1e-6))
    assert limits(10, 100) == pytest.approx((0.049005, 0.176223), abs=1e-6)
    assert limits(100, 100)[1] == 1.0


@pytest.mark.parametrize(("count", "verdict"), [(0, "met"), (10, "not shown"), (40, "**missed**")])
def test_a_target_is_met_or_missed_by_the_limits(count: int, verdict: str) -> None:
    assert Target("x", count, 1000, most=0.01).verdict == verdict


def test_no_cells_make_no_tables() -> None:
    assert tables([]) == ""
