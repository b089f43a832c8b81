"""What `--plan` says beforehand, and objectives as people write them."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from evenkeel.sidecar.rollout import judge, slo_text
from evenkeel.sidecar.rollout.judge_errors import BadRule, CannotJudge
from evenkeel.sidecar.rollout.plan import PlannedTraffic, budget_s, not_worse_s, outage_s, rollback_s
from evenkeel.sidecar.rollout.rule import Objective, Rule
from evenkeel.sidecar.rollout.spec import RolloutSpec, from_json
from tests.sidecar.rollout.fleet import StepClock
from tests.sidecar.rollout.traffic import compared, judged

RULE = Rule("x")
HALF, TENTH = PlannedTraffic(100.0, 100.0, 0.001), PlannedTraffic(20.0, 180.0, 0.001)
SMALL = PlannedTraffic(0.1, 1.9, 0.001)


def test_a_larger_regression_is_found_sooner_and_nothing_sooner_than_the_fewest_blocks() -> None:
    times = [rollback_s(RULE, HALF, ratio) for ratio in (2.0, 3.0, 5.0, 10.0)]
    assert times == sorted(times, reverse=True) and times[-1] == 270


def test_a_smaller_share_takes_longer() -> None:
    assert rollback_s(RULE, TENTH, 2.0) > rollback_s(RULE, HALF, 2.0)
    assert not_worse_s(RULE, TENTH) > not_worse_s(RULE, HALF) >= RULE.stage_s_min


def test_a_budget_that_is_the_rate_itself_is_never_shown_and_a_wider_one_within_hours() -> None:
    assert budget_s(RULE, SMALL) == inf
    assert budget_s(replace(RULE, budget=0.01), SMALL) < 6 * 3600


def test_an_outage_takes_three_windows_or_fifteen_requests() -> None:
    assert outage_s(HALF) == 30 and outage_s(SMALL) == pytest.approx(150)


def test_without_errors_only_the_budget_can_promote() -> None:
    quiet = PlannedTraffic(100.0, 100.0, 0.0)
    assert not_worse_s(RULE, quiet) == inf and budget_s(RULE, quiet) == RULE.stage_s_min
    assert budget_s(RULE, PlannedTraffic(1.0, 1.0, 0.0)) > 3689  # the requests that a thousandth needs without an error


def said(*argv: str) -> list[str]:
    lines: list[str] = []
    assert judge.judge(argv, StepClock(), lines.append) == 0
    return lines[0].splitlines()


def test_the_command_plans_without_asking_anybody() -> None:
    lines = said("--plan", "200,0.1,0.001")
    assert lines[0].startswith("20 requests a second in the candidate, 180 in the reference, errors 0.001")
    assert any(line.split() == ["10", "times", "the", "errors:", "rolled", "back", "4", "min"] for line in lines)


def test_small_services_get_their_verdict_within_the_day() -> None:
    (budget,) = [line for line in said("--small", "--plan", "2,0.05") if "inside the budget" in line]
    assert budget.endswith(" h") and "later" not in budget


@pytest.mark.parametrize("words", ["", "x", "0", "200,1", "200,0.5,2", "1,0.5,0.1,7"])
def test_a_plan_of_nonsense_is_refused(words: str) -> None:
    with pytest.raises(CannotJudge):
        judge.judge(["--plan", words or " "], StepClock(), print)


def test_objectives_are_read_as_people_write_them() -> None:
    assert slo_text.read("errors=1%,p99=300ms") == (Objective("errors", 0.01), Objective("p99", 0.01, 0.3))
    assert slo_text.read("p99.9=2s") == (Objective("p99.9", 0.001, 2.0),)
    assert slo_text.read("") == ()


@pytest.mark.parametrize("text", ["errors=1", "errors=1ms", "p99=1%", "p0=1s", "errors=0%", "errors=100%", "slow", "a=1%,"])
def test_an_objective_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadRule):
        slo_text.read(text)


def test_an_order_carries_its_objectives_and_its_delay() -> None:
    order = from_json({"baseline": ["b:1"], "candidate": ["c:1"], "slo": "errors=1%", "initial_delay_s": 60}, "x")
    assert order.rule().slo == (Objective("errors", 0.01),) and order.rule().initial_delay_s == 60
    assert from_json(order.to_json(), "") == order
    with pytest.raises(BadRule, match="expected errors=1% or p99=300ms"):
        from_json({"baseline": ["b:1"], "candidate": ["c:1"], "slo": "fast"}, "x")
    assert RolloutSpec(candidate=("c",), baseline=("b",), id="x").rule().slo == ()


def test_what_happens_in_the_initial_delay_counts_for_nobody() -> None:
    cold = [compared(i, (1000, 1000), (1000, 2)) for i in range(6)]
    warm = [compared(6 + i, (1000, 2), (1000, 2)) for i in range(60)]
    rule = Rule("test", latency=False, initial_delay_s=60.0)
    state, decision = judged([*cold, *warm], rule)
    assert decision.verdict == "promote" and state.metrics["errors"].total.bad_c == 120
