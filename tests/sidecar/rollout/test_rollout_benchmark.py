"""The simulation judges by arrays, the product by windows. They must be the same rule, or its table says nothing."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from benchmarks.judge_report import Target, limits
from benchmarks.judge_rule import WINDOW_S, Counts, judge
from benchmarks.judge_traffic import Scenario, Trouble, simulate
from evenkeel.sidecar.rollout.counters import Delta, Window
from evenkeel.sidecar.rollout.decide import decide
from evenkeel.sidecar.rollout.judged import Judged
from evenkeel.sidecar.rollout.reasons import RolloutVerdict
from evenkeel.sidecar.rollout.rule import Arm, Rule
from evenkeel.sidecar.rollout.window_step import step

RULE = Rule("simulation", latency=False, mix_checked=False, max_s=1801.0)


def by_windows(counts: Counts, run: int) -> tuple[float, float]:
    """When the product's rule rolls back or promotes first."""
    state = Judged()
    for i in range(counts.c.shape[1]):
        deltas = tuple(
            Delta(arm, "a", int(n[run, i]), int(n[run, i]), int(bad[run, i]), ready=True)
            for arm, n, bad in ((Arm.BASELINE, counts.n_r, counts.b), (Arm.CANDIDATE, counts.n_c, counts.c))
        )
        state = step(RULE, state, Window(i * 10.0, (i + 1) * 10.0, 0, (), (), deltas))
        verdict = decide(RULE, state).verdict
        if verdict == RolloutVerdict.ROLLBACK:
            return (i + 1) * WINDOW_S, inf
        if verdict == RolloutVerdict.PROMOTE:
            return inf, (i + 1) * WINDOW_S
    return inf, inf


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(share=0.1, ratio=2.0),
        Scenario(ratio=1.5, trouble=Trouble(cv=0.5, rho=0.5)),
        Scenario(rps=20, base=0.01, ratio=3.0),
        Scenario(share=0.1, base=0.02, ratio=6.0),
        Scenario(share=0.1, base=0.0001),
        Scenario(ratio=10.0, onset_s=600, trouble=Trouble(outage_at_s=100, outage_s=30, outage_share=0.5)),
        Scenario(base=0.05, ratio=40.0, onset_s=200),
        Scenario(base=0.01, trouble=Trouble(burst_every_s=300, burst_s=30, burst_times=30)),
    ],
)
def test_arrays_and_windows_give_the_same_verdict_at_the_same_second(scenario: Scenario) -> None:
    counts = simulate(scenario, 8, np.random.default_rng(5))
    found = judge(counts, RULE)
    for run in range(8):
        first = (found.rollback_s[run], inf) if found.rolled_back[run] else (inf, found.promote_s[run])
        assert by_windows(counts, run) == first


def test_noise_has_the_mean_and_the_spread_that_it_says() -> None:
    counts = simulate(Scenario(rps=2000, base=0.05, trouble=Trouble(cv=0.5, rho=0.5)), 400, np.random.default_rng(1))
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
