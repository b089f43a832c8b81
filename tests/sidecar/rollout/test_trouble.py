"""Trouble that once made the judge promote what was bad, hold what was fine, or look away. An independent check found it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evenkeel.sidecar.rollout.counters import Key, Scrape
from evenkeel.sidecar.rollout.reasons import RolloutVerdict
from evenkeel.sidecar.rollout.rollout import Record, Rollout
from evenkeel.sidecar.rollout.rule import Arm, Objective, Rule
from tests.sidecar.rollout.traffic import BASELINE, CANDIDATE, ERRORS_ONLY

PROMOTE, HOLD, ROLLBACK = RolloutVerdict.PROMOTE, RolloutVerdict.HOLD, RolloutVerdict.ROLLBACK
# (look, arm, instance) -> requests and errors of that window, or None: no answer
Story = Callable[[int, Arm, int], tuple[int, int] | None]


def played(
    story: Story, looks: int = 180, candidates: int = 1, baselines: int = 1, rule: Rule = ERRORS_ONLY
) -> tuple[Record, float]:
    """The first verdict that is not hold, or the last hold, and its second."""
    rollout, counted = Rollout(rule), dict[Key, list[int]]()
    keys = [Key(CANDIDATE, str(i)) for i in range(candidates)] + [Key(BASELINE, str(i)) for i in range(baselines)]
    for look in range(looks + 1):
        scrapes, missing = [], []
        for key in keys:
            did = story(look, key.arm, int(key.name))
            if did is None:
                missing.append(key)
                continue
            sums = counted.setdefault(key, [0, 0])
            sums[0], sums[1] = sums[0] + did[0], sums[1] + did[1]  # what it did before the first look is nobody's doing
            codes = {"200": sums[0] - sums[1], "500": sums[1]}
            scrapes.append(Scrape(key, look * 10.0, codes, (), {}, 0, True, "READY"))
        rollout.observe(look * 10.0, scrapes, missing)
        if rollout.verdict != HOLD or rollout.decision().final:
            break
    return rollout.decision(), rollout.state.elapsed_s


def codes(record: Record) -> list[str]:
    return [f.reason.value for f in record.findings]


# ---- both suffer -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [3, 10])
@pytest.mark.parametrize(("failing", "windows"), [(200, 1), (500, 3), (1000, 6)])
def test_a_shared_outage_promotes_no_bad_candidate(times: int, failing: int, windows: int) -> None:
    record, _ = played(lambda k, a, i: (1000, failing if 10 <= k < 10 + windows else times if a == CANDIDATE else 1))
    assert record.verdict == ROLLBACK and codes(record) == ["candidate_worse"]


@pytest.mark.parametrize("errors", [300, 1000])
def test_when_both_arms_fail_for_good_nothing_is_promoted(errors: int) -> None:
    record, _ = played(lambda k, a, i: (1000, errors))
    assert record.verdict == HOLD and "environment_unstable" in codes(record)


def test_a_short_shared_outage_costs_a_healthy_candidate_only_time() -> None:
    record, _ = played(lambda k, a, i: (1000, 200 if k == 10 else 2))
    assert record.verdict == PROMOTE and "left_out" in record.to_json()["flags"]


def test_an_absolute_objective_rolls_back_whatever_the_reference_does() -> None:
    rule = Rule("test", latency=False, slo=(Objective("errors", 0.01),))
    record, at_s = played(lambda k, a, i: (1000, 30), rule=rule)
    assert (record.verdict, codes(record)) == (ROLLBACK, ["objective_missed"]) and at_s <= 300
    fine, _ = played(lambda k, a, i: (1000, 200 if k == 10 else 8), rule=rule)
    assert fine.verdict == PROMOTE, "one bad window is no missed objective"


# ---- what is missing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", [CANDIDATE, BASELINE])
def test_a_silent_instance_of_either_arm_does_not_hide_what_the_others_do(silent: Arm) -> None:
    def story(look: int, arm: Arm, instance: int) -> tuple[int, int] | None:
        if arm == silent and instance == 0 and look >= 6:
            return None
        return (250, 250) if arm == CANDIDATE and look >= 12 else (250, 0)

    record, at_s = played(story, candidates=4, baselines=4)
    assert record.verdict == ROLLBACK and codes(record) == ["candidate_far_worse"] and at_s == 140


def test_a_candidate_that_vanished_goes_back_within_a_minute() -> None:
    record, at_s = played(lambda k, a, i: None if a == CANDIDATE and k >= 12 else (1000, 1))
    assert record.verdict == ROLLBACK and codes(record)[0] == "candidate_gone" and at_s <= 110 + 60


def test_when_both_arms_vanish_it_is_not_the_candidates_doing() -> None:
    record, _ = played(lambda k, a, i: None if k >= 12 else (1000, 1), looks=60)
    assert record.verdict == HOLD and "environment_unstable" in codes(record)


def test_one_of_four_candidates_that_is_gone_for_long_goes_back() -> None:
    record, at_s = played(lambda k, a, i: None if a == CANDIDATE and i == 0 and k >= 12 else (250, 0), candidates=4, baselines=4)
    assert (record.verdict, codes(record)) == (ROLLBACK, ["candidate_gone"]) and at_s == 230


def test_a_reference_instance_that_is_gone_for_good_costs_no_promotion() -> None:
    record, _ = played(lambda k, a, i: None if a == BASELINE and i == 0 and k >= 12 else (250, 1), candidates=4, baselines=4)
    assert record.verdict == PROMOTE


def test_a_pod_under_a_new_name_is_the_same_arm() -> None:
    """Instance 2 comes when instance 0 is gone."""

    def healthy(look: int, arm: Arm, instance: int) -> tuple[int, int] | None:
        there = arm == BASELINE or instance == 1 or (look < 20) == (instance == 0)
        return (500, 1) if there else None

    record, _ = played(healthy, candidates=3, baselines=2)
    assert record.verdict == PROMOTE

    def broken(look: int, arm: Arm, instance: int) -> tuple[int, int] | None:
        fails = arm == CANDIDATE and look >= 40
        return healthy(look, arm, instance) and (500, 400 if fails else 1)

    record, at_s = played(broken, candidates=3, baselines=2)
    assert record.verdict == ROLLBACK and at_s <= 430


def test_a_candidate_that_hangs_goes_back() -> None:
    record, at_s = played(lambda k, a, i: (0, 0) if a == CANDIDATE and k >= 12 else (1000, 1))
    assert (record.verdict, codes(record)) == (ROLLBACK, ["candidate_stalled"]) and at_s <= 170


def test_scrapes_lost_now_and_then_cost_a_healthy_candidate_nothing() -> None:
    record, at_s = played(
        lambda k, a, i: None if (k * 7 + i * 3 + (a == BASELINE)) % 50 == 0 else (500, 1), candidates=2, baselines=2
    )
    assert record.verdict == PROMOTE and at_s <= 650


# ---- the split -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [1, 6, 30])
def test_one_late_scrape_blocks_no_promotion(look: int) -> None:
    record, _ = played(lambda k, a, i: ({look: 1300, look + 1: 700}.get(k, 1000) if a == CANDIDATE else 1000, 2))
    assert record.verdict == PROMOTE


@pytest.mark.parametrize(("candidate", "verdict"), [(980, PROMOTE), (1050, PROMOTE), (850, HOLD), (1300, HOLD)])
def test_a_share_that_is_off_by_more_than_a_twentieth_holds(candidate: int, verdict: RolloutVerdict) -> None:
    record, _ = played(lambda k, a, i: (candidate if a == CANDIDATE else 1000, 3))
    assert record.verdict == verdict and ("sample_ratio" in codes(record)) == (verdict == HOLD)


def test_a_wrong_share_is_forgotten_once_it_is_right() -> None:
    record, _ = played(lambda k, a, i: (1500 if a == CANDIDATE and k <= 30 else 1000, 3))
    assert record.verdict == PROMOTE


# ---- no fast way around the error rate -------------------------------------------------------------------------------------


def test_one_burst_of_forty_seconds_is_no_reason() -> None:
    record, _ = played(lambda k, a, i: (1000, 100 if a == CANDIDATE and 2 <= k < 6 else 10))
    assert record.verdict == PROMOTE


def test_three_minutes_of_trouble_in_the_candidate_alone_are_not_enough() -> None:
    record, _ = played(lambda k, a, i: (1000, 100 if a == CANDIDATE and 20 <= k < 38 else 10))
    assert record.verdict != ROLLBACK


def test_inside_the_budget_nothing_is_rolled_back() -> None:
    record, _ = played(lambda k, a, i: (1000, (0 if k % 10 == 0 else 1) if a == CANDIDATE else 0))
    assert record.verdict != ROLLBACK


@pytest.mark.parametrize("onset", [1, 30, 60, 150])
def test_what_begins_late_is_found_as_fast(onset: int) -> None:
    rule = Rule("test", latency=False, stage_s_min=1e4, max_s=1e4)  # it cannot promote before
    record, at_s = played(lambda k, a, i: (1000, 10 if a == CANDIDATE and k >= onset else 1), looks=240, rule=rule)
    assert record.verdict == ROLLBACK and 240 <= at_s - 10 * (onset - 1) <= (270 if onset == 1 else 1.5 * 270)
