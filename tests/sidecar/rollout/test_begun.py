"""Requests begun and not answered, and a candidate whose caches are cold: what a histogram does not show, or too early."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evenkeel.sidecar.rollout.counters import Edges, Key, Scrape, delta
from evenkeel.sidecar.rollout.reasons import RolloutVerdict
from evenkeel.sidecar.rollout.rollout import Record, Rollout
from evenkeel.sidecar.rollout.rule import Rule
from evenkeel.sidecar.rollout.spec import RolloutSpec
from tests.sidecar.rollout.traffic import BASELINE, CANDIDATE, INF

PROMOTE, HOLD, ROLLBACK = RolloutVerdict.PROMOTE, RolloutVerdict.HOLD, RolloutVerdict.ROLLBACK
BEGUN = Rule("test", latency=False, unanswered_share=0.05)


def codes(record: Record) -> list[tuple[str, str]]:
    return [(f.reason.value, f.about) for f in record.findings]


def unanswered(in_flight: Callable[[int], int], left: int = 0, rule: Rule = BEGUN) -> tuple[Rollout, Record]:
    """1,000 answers a window in both arms, one of them a 500. What the candidate has in flight and who leaves is the test's."""
    rollout = Rollout(rule)
    for look in range(91):
        scrapes = []
        for arm in (CANDIDATE, BASELINE):
            counted = {"200": 999 * look, "500": look, "499": left * look if arm == CANDIDATE else look}
            flying = in_flight(look) if arm == CANDIDATE else 3 + look % 3
            scrapes.append(Scrape(Key(arm, "a"), look * 10.0, counted, (), {}, 0, True, "READY", in_flight=flying))
        rollout.observe(look * 10.0, scrapes)
        if rollout.verdict != HOLD:
            break
    return rollout, rollout.decision()


def test_requests_that_pile_up_roll_back_though_every_answer_is_fine() -> None:
    _, record = unanswered(lambda look: 3 + 10 * look)
    assert codes(record) == [("candidate_worse", "unanswered")]
    assert unanswered(lambda look: 3 + 10 * look, left=1, rule=Rule("test", latency=False))[1].verdict == PROMOTE, (
        "seen by it alone"
    )


def test_clients_that_leave_before_a_slow_answer_are_counted() -> None:
    assert ("candidate_worse", "unanswered") in codes(unanswered(lambda look: 3, left=20)[1])


def test_a_load_that_comes_and_goes_piles_up_nothing() -> None:
    rollout, record = unanswered(lambda look: 2 + look % 9, left=1)
    assert record.verdict == PROMOTE and rollout.state.unanswered.evidence.total.bad_c < 80
    assert record.to_json()["metrics"]["unanswered"]["reference"]["bad"] < 80


def test_what_convicts_alone_need_not_be_proven() -> None:
    """Twice as many leave: too few to convict by, too many to be shown equal."""
    _, record = unanswered(lambda look: 3, left=1)
    assert record.verdict == PROMOTE and ("not_worse", "unanswered") not in codes(record)


# ---- cold ------------------------------------------------------------------------------------------------------------------

LADDER = tuple(0.01 * 2 ** (i / 4) for i in range(33))


def latencies(candidate: Callable[[float], float], rule: Rule) -> tuple[Rollout, Record, float]:
    """1,000 answers a window: nine in ten take as long as the function of the second says, the tenth twice as long."""
    rollout, sums = Rollout(rule), {arm: dict.fromkeys((*LADDER, INF), 0) for arm in (CANDIDATE, BASELINE)}
    look = 0
    for look in range(181):
        scrapes = []
        for arm, counts in sums.items():
            took = candidate(look * 10.0) if arm == CANDIDATE else 0.02
            for times, n in ((1.0, 900 - look % 3), (2.0, 100 + look % 3)):
                counts[next(e for e in counts if e >= took * times)] += n
            below = [(e, sum(n for f, n in counts.items() if f <= e)) for e in counts]
            answered = {"200": 999 * (look + 1), "500": look + 1}
            scrapes.append(Scrape(Key(arm, "a"), look * 10.0, answered, tuple(below), {}, 0, True, "READY"))
        rollout.observe(look * 10.0, scrapes)
        if rollout.verdict != HOLD:
            break
    return rollout, rollout.decision(), look * 10.0


def cooling(at_s: float) -> float:
    """A hundred and twenty times as long at first, half as long every twenty seconds."""
    return max(0.02, 2.4 * 0.5 ** (at_s / 20))


def test_a_latency_that_still_falls_counts_for_nobody() -> None:
    _, cold, at_s = latencies(cooling, Rule("test"))
    assert (cold.verdict, at_s <= 60) == (ROLLBACK, True), "without it, three windows are an outage"
    rollout, warm, _ = latencies(cooling, Rule("test", warm_s_max=300.0))
    assert warm.verdict == PROMOTE and rollout.state.warmth.is_over


def test_a_latency_that_is_high_and_stays_so_is_no_cold_start() -> None:
    _, record, at_s = latencies(lambda at_s: 1.2, Rule("test", warm_s_max=300.0))
    assert codes(record)[0] == ("candidate_far_worse", "far slower") and at_s <= 60


def counted_late(candidate: Callable[[float], float], warm_s_max: float) -> int:
    """Candidate answers that the errors are judged by and the slow answers are not."""
    metrics = latencies(candidate, Rule("test", edges=(0.02,), warm_s_max=warm_s_max))[0].state.metrics
    slow = metrics["slower_than_20ms"]
    return metrics["errors"].total.n_c - slow.total.n_c


def test_a_warm_candidate_waits_for_half_a_minute_and_one_that_never_settles_for_the_most_allowed() -> None:
    assert counted_late(lambda at_s: 0.02, 0.0) == 0
    assert counted_late(lambda at_s: 0.02, 300.0) == 3000
    assert counted_late(lambda at_s: 0.02 if at_s % 20 else 0.04, 100.0) == 10_000


def test_a_candidate_that_answers_nothing_well_has_settled() -> None:
    rollout = Rollout(Rule("test", warm_s_max=300.0))
    for look in range(4):
        answers = {CANDIDATE: {"500": 1000 * look}, BASELINE: {"200": 1000 * look}}
        rollout.observe(
            look * 10.0, [Scrape(Key(arm, "a"), look * 10.0, c, (), {}, 0, True, "READY") for arm, c in answers.items()]
        )
    assert rollout.verdict == ROLLBACK


@pytest.mark.parametrize(
    ("before", "after", "median"), [((0, 0), (6, 10), 0.01), ((6, 10), (7, 20), 0.02), ((0, 0), (0, 0), 0.0)]
)
def test_a_median_is_of_the_window(before: tuple[int, int], after: tuple[int, int], median: float) -> None:
    scrapes = [Scrape(Key(CANDIDATE, "a"), 0.0, {"200": n}, ((0.01, low), (0.02, n), (INF, n))) for low, n in (before, after)]
    assert delta(scrapes[0], scrapes[1], Edges()).median == median


def test_the_command_judges_both_by_default() -> None:
    rule = RolloutSpec(candidate=("c",), baseline=("b",), id="x").rule()
    assert rule.unanswered_share == 0.05 and rule.warm_s_max == 300
    names = ["errors", "slower_than_1ms", "slower_than_2ms", "unanswered"]
    assert sum(1 / rule.rollback_at(n) for n in names) == pytest.approx(0.01)
