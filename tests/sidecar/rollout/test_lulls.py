"""Between two bursts the candidate is what the reference is; in a regression it never is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.judge_rule import judge
from benchmarks.judge_traffic import Scenario, Trouble, simulate
from evenkeel.sidecar.rollout.e_values import NOTHING, Pair
from evenkeel.sidecar.rollout.lulls import NO_LULL, Lull, has_lull
from evenkeel.sidecar.rollout.rule import Rule

LULL = Lull((1, 2, 4), 3.0)
FAILING, FINE = Pair(3000, 3000, 60, 3), Pair(3000, 3000, 3, 3)


def test_a_stretch_that_fails_from_end_to_end_has_no_lull() -> None:
    assert not has_lull([FAILING] * 12, LULL)


def test_a_block_in_which_all_is_well_is_a_lull_wherever_it_is() -> None:
    for place in (0, 5, 11):
        blocks = [FAILING] * 12
        blocks[place] = FINE
        assert has_lull(blocks, LULL)


def test_a_swing_of_both_arms_is_no_lull() -> None:
    swing = [Pair(3000, 3000, 600, 60)] * 4 + [Pair(3000, 3000, 30, 3)] * 8
    assert not has_lull(swing, LULL)


def test_blocks_that_count_for_nobody_are_no_lull() -> None:
    assert not has_lull([FAILING] * 6 + [NOTHING] * 4 + [FAILING] * 6, LULL)


def test_a_candidate_without_traffic_tells_nothing() -> None:
    assert not has_lull([NOTHING] * 5, LULL) and not has_lull([Pair(0, 3000, 0, 3)] * 5, LULL)


def test_nothing_is_a_lull_where_none_is_looked_for() -> None:
    assert not has_lull([FAILING, FINE, FAILING], NO_LULL)


def test_less_power_takes_a_weaker_part_for_the_regression() -> None:
    noisy = [Pair(3000, 3000, 90, 30)] * 10 + [Pair(3000, 3000, 48, 30)] * 2
    assert has_lull(noisy, Lull((2,), 3.0)) and not has_lull(noisy, Lull((2,), 3.0, power=0.5))


def test_two_bursts_of_three_minutes_no_longer_roll_back() -> None:
    """The guards of revision 1 let one in twelve such rollouts go back."""
    counts = simulate(Scenario(trouble=Trouble(burst_every_s=1800, burst_s=180, burst_times=20)), 400, np.random.default_rng(11))
    rule = Rule("simulation")
    now, before = (judge(counts, r).rolled_back.mean() for r in (rule, replace(rule, revision=1)))
    assert now < 0.045 < 0.06 < before


def test_a_log_that_does_not_tell_its_revision_is_judged_by_the_first() -> None:
    old = Rule("r", revision=1).to_json()
    assert "revision" not in old and Rule.from_json(old).revision == 1
    assert Rule.from_json(Rule("r").to_json()).revision == 2
