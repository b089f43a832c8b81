"""Arms that do not get the same kinds of requests: what differs may be the mix's, and what is worse within one kind is not."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from evenkeel.sidecar.rollout import replay, scrape
from evenkeel.sidecar.rollout.counters import Key, Scrape
from evenkeel.sidecar.rollout.judge_errors import BadRule
from evenkeel.sidecar.rollout.reasons import RolloutVerdict
from evenkeel.sidecar.rollout.rollout import Record, Rollout
from evenkeel.sidecar.rollout.rule import Arm, Rule
from evenkeel.sidecar.rollout.spec import from_json
from evenkeel.sidecar.rollout.strata import StratumCounters
from tests.sidecar.rollout.traffic import BASELINE, CANDIDATE, INF

PROMOTE, HOLD, ROLLBACK = RolloutVerdict.PROMOTE, RolloutVerdict.HOLD, RolloutVerdict.ROLLBACK
# By kind of request: how many in a window, and how many of them fail.
Kinds = Mapping[str, tuple[int, int]]


def played(candidate: Kinds, baseline: Kinds, rule: Rule, looks: int = 90) -> tuple[Rollout, Record]:
    """The same in every window, but that the requests of each kind come and go by a few, as they do."""
    rollout, rng = Rollout(rule), random.Random(7)
    sums: dict[tuple[Arm, str], list[int]] = {}
    for look in range(looks + 1):
        scrapes = []
        for arm, kinds in ((CANDIDATE, candidate), (BASELINE, baseline)):
            for kind, (requests, errors) in kinds.items():
                counted = sums.setdefault((arm, kind), [0, 0])
                counted[0] += requests + rng.randint(-requests // 50, requests // 50)
                counted[1] += errors
            apart = tuple(StratumCounters(k, {"200": n - bad, "500": bad}) for (a, k), (n, bad) in sums.items() if a == arm)
            codes = {c: sum(s.codes[c] for s in apart) for c in ("200", "500")}
            scrapes.append(Scrape(Key(arm, "a"), look * 10.0, codes, (), {}, 0, True, "READY", strata=apart))
        rollout.observe(look * 10.0, scrapes)
        if rollout.verdict != HOLD:
            break
    return rollout, rollout.decision()


def codes(record: Record) -> list[tuple[str, str]]:
    return [(f.reason.value, f.about) for f in record.findings]


CHECKED = Rule("test", latency=False, strata="route")
JUDGED = Rule("test", latency=False, strata="route", strata_share=0.1)
USUAL = {"/small": (950, 1), "/large": (50, 5)}  # large requests fail a hundred times as often
SHIFTED = {"/small": (850, 1), "/large": (150, 15)}


def test_more_of_a_kind_that_often_fails_holds_and_does_not_roll_back() -> None:
    rollout, record = played(SHIFTED, USUAL, CHECKED)
    assert record.verdict == HOLD and ("mix_differs", "route=/large") in codes(record)
    assert rollout.state.metrics["errors"].is_worse, "without the mix it would have been rolled back"
    blind, _ = played(SHIFTED, USUAL, Rule("test", latency=False))
    assert blind.verdict == ROLLBACK


def test_the_same_mix_is_judged_as_ever() -> None:
    assert played(USUAL, USUAL, CHECKED)[1].verdict == PROMOTE
    assert codes(played({**USUAL, "/small": (950, 20)}, USUAL, CHECKED)[1]) == [("candidate_worse", "errors")]


def test_what_is_worse_within_one_kind_rolls_back_whatever_the_mix() -> None:
    rollout, record = played({**SHIFTED, "/small": (850, 20)}, USUAL, JUDGED)
    assert codes(record) == [("candidate_worse", "errors at route=/small")]
    assert replay.read(rollout.log()).agrees
    assert played(SHIFTED, USUAL, JUDGED)[1].verdict == HOLD, "the mix alone does not"


def test_an_outage_rolls_back_though_the_mix_differs() -> None:
    down = {kind: (n, n) for kind, (n, _) in SHIFTED.items()}
    assert codes(played(down, USUAL, CHECKED)[1])[0] == ("candidate_far_worse", "errors")


def test_models_that_the_arms_do_not_share_are_versions_and_no_mix() -> None:
    new, old = {"m2": (900, 1), "x2": (100, 1)}, {"m1": (950, 1), "x1": (50, 1)}
    assert played(new, old, CHECKED)[1].verdict == PROMOTE


def test_a_label_that_was_asked_for_takes_its_part_of_alpha() -> None:
    order = from_json({"baseline": ["b:1"], "candidate": ["c:1"], "strata": "route"}, "x")
    rule = order.rule()
    edges = ["slower_than_1ms", "slower_than_2ms"]
    within = [f"{m} at route={i}" for m in ("errors", *edges) for i in range(6)]
    assert sum(1 / rule.rollback_at(m) for m in ["errors", *edges, *within, "unanswered"]) == pytest.approx(0.01)
    assert from_json({"baseline": ["b:1"], "candidate": ["c:1"]}, "x").rule().strata_share == 0
    for wrong in ("le", "a-b", 7):
        with pytest.raises(BadRule, match="strata"):
            from_json({"baseline": ["b:1"], "candidate": ["c:1"], "strata": wrong}, "x")


# ---- the rows of a request -------------------------------------------------------------------------------------------------


def sized(rows: Mapping[Arm, float], *, slow: Mapping[Arm, int], errors: int = 1, looks: int = 90) -> tuple[Rollout, Record]:
    """1,000 requests a window, of so many rows each on average; `slow` of them above the edge."""
    rule = Rule("test", edges=(0.1,), strata="model")
    rollout, rng = Rollout(rule), random.Random(3)
    total = dict.fromkeys((CANDIDATE, BASELINE), 0)
    for look in range(looks + 1):
        scrapes = []
        for arm in (CANDIDATE, BASELINE):
            total[arm] += round(1000 * rows[arm]) + rng.randint(-20, 20)
            seconds = ((0.1, (1000 - slow[arm]) * look), (INF, 1000 * look))
            bad = (errors if arm == CANDIDATE else 1) * look
            counted = {"200": 1000 * look - bad, "500": bad}
            scrapes.append(Scrape(Key(arm, "a"), look * 10.0, counted, seconds, {}, 0, True, "READY", rows=total[arm]))
        rollout.observe(look * 10.0, scrapes)
        if rollout.verdict != HOLD:
            break
    return rollout, rollout.decision()


def test_slow_answers_of_larger_requests_hold_and_errors_do_not() -> None:
    larger, slower = {CANDIDATE: 1.3, BASELINE: 1.15}, {CANDIDATE: 40, BASELINE: 20}
    _, record = sized(larger, slow=slower)
    assert record.verdict == HOLD and ("mix_differs", "rows") in codes(record)
    assert sized(larger, slow=slower, errors=10)[1].verdict == ROLLBACK
    assert codes(sized(dict.fromkeys(larger, 1.15), slow=slower)[1]) == [("candidate_worse", "slower_than_100ms")]


def test_rows_that_ran_for_answers_that_failed_excuse_no_outage() -> None:
    """Four of five requests end in a 500 after they ran: five times the rows of what was answered."""
    record = sized(dict.fromkeys((CANDIDATE, BASELINE), 1.15), slow=dict.fromkeys((CANDIDATE, BASELINE), 20), errors=800)[1]
    assert codes(record)[0] == ("candidate_far_worse", "errors")


def test_a_few_more_rows_are_no_other_mix() -> None:
    assert sized({CANDIDATE: 1.17, BASELINE: 1.15}, slow=dict.fromkeys((CANDIDATE, BASELINE), 20))[1].verdict == PROMOTE


# ---- as they are scraped ---------------------------------------------------------------------------------------------------

PAGE = """evenkeel_requests_total{model="a",code="200"} 5
evenkeel_requests_total{model="b",code="200"} 7
evenkeel_requests_total{model="b",code="500"} 1
evenkeel_request_seconds_bucket{model="a",le="0.1"} 4
evenkeel_request_seconds_bucket{model="a",le="+Inf"} 5
evenkeel_batch_rows_sum 40
"""


def test_a_page_is_taken_apart_by_the_label() -> None:
    found = scrape.build(scrape.from_text(PAGE), Key(CANDIDATE, "c"), 0.0, strata="model")
    assert found.strata == (
        StratumCounters("a", {"200": 5}, ((0.1, 4), (INF, 5))), StratumCounters("b", {"200": 7, "500": 1})
    )  # fmt: skip
    assert found.codes == {"200": 12, "500": 1} and found.rows == 40
    assert Scrape.from_json(found.to_json()) == found
    assert scrape.build(scrape.from_text(PAGE), Key(CANDIDATE, "c"), 0.0, strata="route").strata == ()


def test_a_label_with_too_many_values_is_no_stratum() -> None:
    page = "".join(f'evenkeel_requests_total{{user="{i}",code="200"}} 5\n' for i in range(40))
    assert scrape.build(scrape.from_text(page), Key(CANDIDATE, "c"), 0.0, strata="user").strata == ()
