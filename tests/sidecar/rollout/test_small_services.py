"""What --small comes to within the day, by the simulation whose table is in docs/rollouts.md; and rollouts that last for days."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import judge_small
from benchmarks.judge_traffic import Scenario, simulate
from evenkeel.sidecar.rollout.judge_errors import BadRule
from evenkeel.sidecar.rollout.spec import from_json

RUNS, DAY_S = 40, 86_400


@pytest.mark.parametrize(("share", "base"), [(0.5, 0.001), (0.05, 0.001), (0.05, 0.01)])
def test_an_equal_candidate_of_two_requests_a_second_is_promoted_within_the_day(share: float, base: float) -> None:
    quiet = Scenario(rps=2.0, share=share, base=base, minutes=1440)
    found = judge_small.judged(simulate(quiet, RUNS, np.random.default_rng(3)), judge_small.rule())
    assert found.promoted.sum() >= RUNS - 2 and found.promote_s.max() <= DAY_S


def test_ten_times_the_errors_are_rolled_back_and_not_promoted() -> None:
    worse = Scenario(rps=2.0, share=0.5, base=0.005, ratio=10.0, minutes=1440)
    found = judge_small.judged(simulate(worse, 15, np.random.default_rng(4)), judge_small.rule())
    assert found.rolled_back.all() and not found.promoted.any()


def test_a_rollout_may_take_days_if_its_looks_are_as_rare() -> None:
    week = {"baseline": ["b:1"], "candidate": ["c:1"], "max_minutes": 7 * 1440}
    assert from_json({**week, "window_s": 600, "block_s": 3600}, "x").rule().max_s == 7 * DAY_S
    with pytest.raises(BadRule, match="too many looks"):
        from_json(week, "x")
