"""Input that contradicts itself or that no honest fleet gives: a clear error, or a hold with a reason, and never a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evenkeel.sidecar.rollout import judge
from evenkeel.sidecar.rollout.counters import Key, Scrape
from evenkeel.sidecar.rollout.judge_errors import BadRule, CannotJudge
from evenkeel.sidecar.rollout.reasons import RolloutVerdict
from evenkeel.sidecar.rollout.rollout import Record, Rollout
from evenkeel.sidecar.rollout.rule import Arm, Objective, Rule
from evenkeel.sidecar.rollout.sources import Prometheus
from evenkeel.sidecar.rollout.spec import from_json
from tests.sidecar.rollout.fleet import Instance, StepClock, prometheus, serving
from tests.sidecar.rollout.traffic import BASELINE, CANDIDATE, ERRORS_ONLY, INF

HOLD = RolloutVerdict.HOLD


def codes(record: Record) -> list[str]:
    return [f.reason.value for f in record.findings]


def played(
    requests: Callable[[int, Arm], int | None], looks: int = 90, names: Callable[[int, Arm], str] = lambda k, arm: arm.value
) -> Record:
    """Cumulative requests of each arm by look, a five-hundredth of them errors."""
    rollout = Rollout(ERRORS_ONLY)
    for look in range(looks + 1):
        scrapes = []
        for arm in (CANDIDATE, BASELINE):
            n = requests(look, arm)
            if n is not None:
                counted = {"200": n - n // 500, "500": n // 500}
                scrapes.append(Scrape(Key(arm, names(look, arm)), look * 10.0, counted, (), {}, 0, True, "READY"))
        rollout.observe(look * 10.0, scrapes)
        if rollout.verdict != HOLD:
            break
    return rollout.decision()


def test_arms_that_swap_their_names_hold() -> None:
    """From one look on the selectors give the old version as the candidate."""
    record = played(lambda k, arm: 1000 * k, names=lambda k, arm: "ab"[(arm == CANDIDATE) != (k >= 10)])
    assert record.verdict == HOLD and "arms_mixed" in codes(record)


@pytest.mark.parametrize("arm", [CANDIDATE, BASELINE])
def test_counters_that_go_back_again_and_again_hold_and_are_no_crash_loop(arm: Arm) -> None:
    """Two processes behind one address answer in turn."""
    record = played(lambda k, a: 5000 + 1000 * k - (700 if a == arm and k % 2 else 0) * 2, looks=60)
    assert record.verdict == HOLD and "counters_fell" in codes(record)


def test_a_container_that_really_restarts_again_and_again_is_a_crash_loop() -> None:
    record = played(lambda k, arm: 1000 * (k % 4) if arm == CANDIDATE else 1000 * k)
    assert record.verdict == RolloutVerdict.ROLLBACK and codes(record)[0] == "crash_loop"


# ---- clocks ----------------------------------------------------------------------------------------------------------------


def asked(at_s: Callable[[float], float], looks: int = 80) -> Record:
    """By a Prometheus server whose clock is the test's."""
    clock = StepClock()
    arms = {"candidate": {"c": Instance(clock)}, "baseline": {"b": Instance(clock)}}
    stale: dict[str, float] = {}
    with serving(prometheus(arms, stale)) as url:
        source = Prometheus(url, {CANDIDATE: 'track="candidate"', BASELINE: 'track="baseline"'}, 2.0)
        rollout = Rollout(Rule("test", latency=False, budget=0.01))
        for look in range(looks):
            stale.update(c=at_s(clock.at_s), b=at_s(clock.at_s))
            found = source.look(look * 10.0)
            rollout.observe(look * 10.0, found.scrapes, tuple(found.missing), found.unread)
            clock.sleep(10.0)
            if rollout.verdict != HOLD:
                break
    return rollout.decision()


def test_a_servers_clock_that_jumps_costs_no_verdict_and_no_rollout() -> None:
    assert asked(lambda now_s: now_s + 3600 * (5200 < now_s < 5300)).verdict == RolloutVerdict.PROMOTE
    assert asked(lambda now_s: now_s - 3600 * (now_s > 5200)).verdict == RolloutVerdict.PROMOTE
    stands_still = asked(lambda now_s: min(now_s, 5200.0), looks=40)
    assert stands_still.verdict == HOLD and "data_gap" in codes(stands_still)


def test_an_instance_that_both_selectors_take_belongs_to_no_arm() -> None:
    clock = StepClock()
    both = {"x": Instance(clock)}
    with serving(prometheus({"a": both, "b": both}, {})) as url:
        argv = ["--prometheus", url, "--candidate", 'track="a"', "--baseline", 'track="b"']
        with pytest.raises(CannotJudge, match=r"x is in two arms: \w+ and \w+"):
            judge.judge(argv, clock, print)


# ---- histograms ------------------------------------------------------------------------------------------------------------


def test_a_latency_objective_is_not_counted_in_another_bucket() -> None:
    """The candidate's histogram has no edge at 0.3 s, and everything it answers between 0.2 and 0.5 s may be below it."""
    rollout = Rollout(Rule("test", slo=(Objective("p99", 0.01, 0.3),), edges=(0.3,)))
    for look in range(61):
        n = 1000 * look
        seconds = {
            BASELINE: ((0.2, n * 9 // 10), (0.3, n), (0.5, n), (INF, n)),
            CANDIDATE: ((0.2, n * 9 // 10), (0.5, n), (INF, n)),
        }
        scrapes = [Scrape(Key(arm, "a"), look * 10.0, {"200": n}, s, {}, 0, True, "READY") for arm, s in seconds.items()]
        rollout.observe(look * 10.0, scrapes)
    record = rollout.decision()
    assert record.verdict == HOLD and "latency_not_measured" in codes(record)


# ---- orders ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"min_minutes": 20, "max_minutes": 10}, "min_minutes .20. is above max_minutes .10."),
        ({"window_s": 600, "min_minutes": 1, "max_minutes": 5}, "window_s .600. is longer than max_minutes"),
        ({"no_latency": True, "edge": [0.1]}, "no_latency and edge contradict"),
        ({"no_latency": True, "objective_s": 0.1}, "no_latency and objective_s contradict"),
        ({"no_latency": True, "slo": "p99=300ms"}, "no_latency and slo contradict"),
        ({"slo": "errors=1%", "budget": 0.05}, "slo errors=1% forbids what the budget of 0.05 allows"),
        ({"split": {"production": 9, "candidate": 1}}, "production has no instances"),
        ({"margin": 3, "bad_ratio": 2}, "bad_ratio must be above margin"),
        ({"initial_delay_s": 3600}, "initial_delay must end before"),
        ({"slo": "errors=1%,errors=2%"}, "an objective is given twice"),
        ({"metric": ["a=x_total/y_total;bad-ratio=1.1"]}, "bad-ratio of a metric of your own must be above margin"),
    ],
)
def test_an_order_that_contradicts_itself_is_refused(body: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRule, match=words):
        from_json({"baseline": ["b:1"], "candidate": ["c:1"], **body}, "x")


def test_the_command_refuses_it_too() -> None:
    argv = ["--baseline", "b:1", "--candidate", "c:1", "--split", "production=9,candidate=1"]
    with pytest.raises(BadRule, match="production has no instances"):
        judge.judge(argv, StepClock(), print)


# ---- objectives ------------------------------------------------------------------------------------------------------------


def test_a_candidate_above_its_objective_is_not_promoted_while_it_is_in_doubt() -> None:
    """1.2 % where 1 % is allowed: as the reference, and too little to be beyond doubt in ten minutes."""
    rule = Rule("test", latency=False, slo=(Objective("errors", 0.01),), budget=0.0)
    rollout, both = Rollout(rule), 0
    for look in range(66):
        both = 12 * look
        counted = {"200": 1000 * look - both, "500": both}
        rollout.observe(
            look * 10.0, [Scrape(Key(arm, "a"), look * 10.0, counted, (), {}, 0, True, "READY") for arm in (CANDIDATE, BASELINE)]
        )
        if rollout.verdict != HOLD:
            break
    record = rollout.decision()
    assert record.verdict == HOLD and codes(record) == ["objective_in_doubt"]
