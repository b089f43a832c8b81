"""The user's own metrics: how they are written, how they are counted, and what they do to the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from evenkeel.sidecar.rollout import own_counters, own_metrics, replay, scrape
from evenkeel.sidecar.rollout.counters import Key, Scrape
from evenkeel.sidecar.rollout.judge_errors import BadMetrics, BadRule
from evenkeel.sidecar.rollout.own_counters import OwnCount, OwnCounts
from evenkeel.sidecar.rollout.own_metrics import LabelMatch, OwnMetric, SeriesSelector
from evenkeel.sidecar.rollout.reasons import RolloutVerdict
from evenkeel.sidecar.rollout.rollout import Record, Rollout
from evenkeel.sidecar.rollout.rule import Arm, Rule
from evenkeel.sidecar.rollout.spec import from_json
from tests.sidecar.rollout.traffic import BASELINE, CANDIDATE

REFUNDS = "refunds=shop_refunds_total/shop_orders_total"
ORDERS = "orders=shop_orders_total/shop_visits_total;better=more"


def one(text: str) -> OwnMetric:
    (metric,) = own_metrics.read([text])
    return metric


# ---- as they are written -------------------------------------------------------------------------------------------------


def test_a_share_has_events_labels_sums_and_options() -> None:
    metric = one('lost = a_total{kind="x;y",code!="2\\"0"} + b_total / c_total ; weight=2; budget = 1%; bad-ratio=1.5')
    assert metric.events == (
        SeriesSelector("a_total", (LabelMatch("kind", "x;y"), LabelMatch("code", '2"0', False))),
        SeriesSelector("b_total"),
    )
    assert metric.out_of == (SeriesSelector("c_total"),)
    assert (metric.weight, metric.budget, metric.bad_ratio, metric.is_critical) == (2.0, 0.01, 1.5, False)
    assert one("rest=1-a/b").is_rest and one(ORDERS).more_is_better and one(REFUNDS).is_critical


def test_a_histogram_has_an_edge() -> None:
    metric = one('slow=basket_seconds{kind="paid"}>0.5')
    assert metric.edge == 0.5 and metric.series == {"basket_seconds_bucket"}


@pytest.mark.parametrize(
    "text",
    ["", "x", "x=", "x=a", "x=a/", "x=/b", "x=a/b/c", "X=a/b", "x=a>0", "x=a>-1", "x=a>1e999", "x=a+b>1", "x=1-a>1", "x=a/a",
     "x=a/b;weight=-1", "x=a/b;weight=nan", "x=a/b;budget=100%", "x=a/b;better=worse", "x=a/b;budget=1%;better=more",
     "x=a/b;bad-ratio=1", "x=a{k=v}/b", 'x=a{k="v"/b', "errors=a/b", "slower_than_9ms=a/b", "x" * 50 + "=a/b", "x=" + "a" * 2000]
)  # fmt: skip
def test_what_is_no_metric_is_refused(text: str) -> None:
    with pytest.raises(BadRule):
        own_metrics.read([text])


def test_names_are_unique_and_there_are_not_too_many() -> None:
    with pytest.raises(BadRule, match="refunds is given twice"):
        own_metrics.read([REFUNDS, REFUNDS])
    with pytest.raises(BadRule, match="at most 8"):
        own_metrics.read([f"m{i}=a/b" for i in range(9)])


def test_an_order_and_a_rule_carry_them_through_json() -> None:
    order = from_json({"baseline": ["b:1"], "candidate": ["c:1"], "metric": [REFUNDS, ORDERS]}, "x")
    assert from_json(json.loads(json.dumps(order.to_json())), "") == order
    assert Rule.from_json(json.loads(json.dumps(order.rule().to_json()))) == order.rule()
    assert "own" not in Rule("x").to_json(), "older logs hold rules without it"
    with pytest.raises(BadRule, match="metric: 'Slow' is no name"):
        from_json({"baseline": ["b:1"], "candidate": ["c:1"], "metric": ["Slow=a/b"]}, "x")


# ---- as they are counted -------------------------------------------------------------------------------------------------


def counted(text: str, page: str) -> OwnCount | None:
    samples = scrape.from_text(page + "evenkeel_ready 1\n", [one(text)])
    (count,) = scrape.build(samples, Key(CANDIDATE, "c"), 0.0, own=[one(text)]).own
    return count


PAGE = """shop_refunds_total{kind="auto"} 3
shop_refunds_total{kind="hand"} 4
shop_orders_total 100
shop_basket_seconds_bucket{le="0.5"} 70
shop_basket_seconds_bucket{le="1"} 90
shop_basket_seconds_bucket{le="+Inf"} 95
"""


def test_counters_are_summed_by_their_labels() -> None:
    assert counted(REFUNDS, PAGE) == OwnCount(100, 7)
    assert counted('x=shop_refunds_total{kind="auto"}/shop_orders_total', PAGE) == OwnCount(100, 3)
    assert counted('x=shop_refunds_total{kind!="auto"}/shop_orders_total', PAGE) == OwnCount(100, 4)
    assert counted("x=1-shop_refunds_total/shop_orders_total", PAGE) == OwnCount(100, 93)
    assert counted("x=shop_basket_seconds>0.5", PAGE) == OwnCount(95, 25)


def test_what_is_not_there_is_not_measured_and_events_to_come_are_none_yet() -> None:
    assert counted("x=shop_refunds_total/shop_visits_total", PAGE) is None
    assert counted("x=shop_basket_seconds>0.7", PAGE) is None, "a histogram with other edges"
    assert counted("x=shop_orders_total/shop_refunds_total", PAGE) is None, "more events than there are"
    assert counted("x=shop_typo_total/shop_orders_total", PAGE) == OwnCount(100, 0, is_named=False)
    assert counted('x=shop_refunds_total{kind="new"}/shop_orders_total', PAGE) == OwnCount(100, 0)


@pytest.mark.parametrize("value", ["-1", "NaN", "+Inf", "1e300"])
def test_a_counter_that_none_can_be_makes_the_page_unreadable(value: str) -> None:
    with pytest.raises(BadMetrics, match="shop_orders_total is negative"):
        counted(REFUNDS, PAGE.replace("shop_orders_total 100", f"shop_orders_total {value}"))


def test_a_counter_that_fell_tells_nothing_of_its_window() -> None:
    before, after = (OwnCount(100, 7),), (OwnCount(90, 8),)
    assert own_counters.grown(before, after, reset=False) == (None,)
    assert own_counters.grown(before, after, reset=True) == after
    assert own_counters.grown((None,), after, reset=False) == (None,)


# ---- the verdict ---------------------------------------------------------------------------------------------------------

Tell = Callable[[int, Arm], OwnCounts]  # (look, arm) -> what the own metrics counted in that window


def played(metrics: list[str], tell: Tell, looks: int = 180) -> tuple[Rollout, Record]:
    """2 errors of 1,000 requests a window in both arms; what the own metrics say is the test's."""
    rule = Rule("test", latency=False, own=own_metrics.read(metrics))
    rollout, sums = Rollout(rule), dict[Arm, list[OwnCount | None]]()
    for look in range(looks + 1):
        scrapes = []
        for arm in (CANDIDATE, BASELINE):
            before = sums.setdefault(arm, [OwnCount(0, 0)] * len(metrics))
            sums[arm] = after = [_added(b, n) for b, n in zip(before, tell(look, arm), strict=True)]
            codes = {"200": 998 * look, "500": 2 * look}
            scrapes.append(Scrape(Key(arm, "a"), look * 10.0, codes, (), {}, 0, True, "READY", own=tuple(after)))
        rollout.observe(look * 10.0, scrapes)
        if rollout.verdict != RolloutVerdict.HOLD or rollout.decision().final:
            break
    return rollout, rollout.decision()


def _added(before: OwnCount | None, new: OwnCount | None) -> OwnCount | None:
    if new is None:
        return None
    return OwnCount((before.whole if before else 0) + new.whole, (before.events if before else 0) + new.events, new.is_named)


def codes(record: Record) -> list[tuple[str, str]]:
    return [(f.reason.value, f.about) for f in record.findings]


def test_more_of_what_is_bad_rolls_back_and_as_much_promotes() -> None:
    _, worse = played([REFUNDS], lambda k, arm: (OwnCount(500, 15 if arm == CANDIDATE else 5),))
    assert codes(worse) == [("candidate_worse", "refunds")]
    rollout, fine = played([REFUNDS], lambda k, arm: (OwnCount(500, 5),))
    assert fine.verdict == RolloutVerdict.PROMOTE and ("not_worse", "refunds") in codes(fine)
    assert replay.read(rollout.log()).agrees


def test_fewer_of_what_is_good_roll_back_and_more_of_it_promotes() -> None:
    _, worse = played([ORDERS], lambda k, arm: (OwnCount(500, 10 if arm == CANDIDATE else 30),))
    assert codes(worse) == [("candidate_worse", "orders")]
    ours, _, theirs = worse.findings[0].words.partition(",")
    assert 3 * int(ours.split()[0]) == int(theirs.split()[0]), "each arm's own events are told"
    _, fine = played([ORDERS], lambda k, arm: (OwnCount(500, 40 if arm == CANDIDATE else 30),))
    assert fine.verdict == RolloutVerdict.PROMOTE
    ratio = fine.to_json()["metrics"]["orders"]["ratio"]
    assert ratio["low"] < 4 / 3 < ratio["high"] and ratio["low"] > 0.8


def votes(*worse: int) -> Tell:
    return lambda k, arm: tuple(OwnCount(500, 15 if arm == CANDIDATE and i in worse else 5) for i in range(3))


def test_metrics_with_a_weight_roll_back_by_half_of_it() -> None:
    metrics = ["a=a_total/n_total;weight=1", "b=b_total/n_total;weight=1", "c=c_total/n_total;weight=6"]
    _, two_small = played(metrics, votes(0, 1))
    assert two_small.verdict == RolloutVerdict.PROMOTE and [about for _, about in codes(two_small)] == ["errors", "c"]
    _, the_large = played(metrics, votes(2))
    assert codes(the_large) == [("candidate_worse", "c")]
    critical = [*metrics[1:], "a=a_total/n_total"]
    _, small_and_critical = played(critical, votes(2))
    assert codes(small_and_critical) == [("candidate_worse", "a")]


def test_a_weight_that_is_not_proven_holds_above_a_quarter() -> None:
    metrics = ["a=a_total/n_total;weight=1", "b=b_total/n_total;weight=1", "c=c_total/n_total;weight=1"]
    _, one_of_three = played(metrics, votes(1), looks=70)
    assert one_of_three.verdict == RolloutVerdict.HOLD and ("not_yet_proven", "b") in codes(one_of_three)


@pytest.mark.parametrize(
    ("count", "words"),
    [(None, "shows not what it is made of"), (OwnCount(500, 0, is_named=False), "nobody shows shop_refunds_total"),
     (OwnCount(0, 0), "an arm has counted nothing yet")],
)  # fmt: skip
def test_what_is_not_measured_holds_and_says_so(count: OwnCount | None, words: str) -> None:
    _, record = played(
        [REFUNDS + ";budget=50%"], lambda k, arm: (count if arm == CANDIDATE else OwnCount(500, 0, is_named=False),)
    )
    assert record.verdict == RolloutVerdict.HOLD
    (found,) = [f for f in record.findings if f.reason.value == "metric_not_measured"]
    assert found.about == "refunds" and words in found.words


def test_without_own_metrics_errors_keep_their_part_of_alpha() -> None:
    own = Rule("x", own=own_metrics.read([REFUNDS, ORDERS]))
    names = ["errors", "slower_than_1ms", "slower_than_2ms"]
    assert sum(1 / Rule("x").rollback_at(n) for n in names) == pytest.approx(0.01)
    assert sum(1 / own.rollback_at(n) for n in [*names, "refunds", "orders"]) == pytest.approx(0.01)
