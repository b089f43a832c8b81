"""What is accepted now: a burst wholly, of an overload that lasts no more than keeps the engines busy."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.contract.status_page import FRONTS_MAX
from evenkeel.serve.front.routing.admission import (
    BELIEVED_MAX,
    CALM_S,
    FEW,
    PROBE_S,
    QUIET,
    ROWS_SURE_LEAST,
    STANDING_S,
    WAIT_SHARE_MAX,
    Accept,
    Accepted,
    AcceptedWaits,
    Asked,
    EngineLoad,
    Hold,
    Refuse,
    Running,
    decide,
    is_empty,
    overrun,
    row_cost,
    rows_sure,
    spread,
)

STEP_S = 0.05
IDLE = EngineLoad(engines=1, ahead=0, rows=0, large=0, turn_rows=64, row_s=0.001, running=Running(), untried_s=0.0)
ONE = Asked(rows=1, left_s=60.0, timeout_s=60.0, waiting=0)
WAITS = AcceptedWaits.start(60.0, 0.0, 2.0)


def under(accepted: Accepted, seconds: float, refusing: bool, batch_s: float = 0.01) -> Accepted:
    now_s = accepted.at_s
    for _ in range(round(seconds / STEP_S)):
        now_s += STEP_S
        accepted = (accepted.refused(now_s, math.inf) if refusing else accepted).later(now_s, batch_s)
    return accepted


def test_until_somebody_is_refused_most_of_the_deadline_may_be_waited() -> None:
    start = Accepted.start(10.0, 0.0)
    assert under(start, 60.0, refusing=False).limit_s == start.limit_s == WAIT_SHARE_MAX * 10.0


def test_where_many_wait_it_is_seconds_of_work_whatever_the_deadline_but_never_more_than_that() -> None:
    assert Accepted.start(60.0, 0.0, 2.0).full_s == 2.0
    assert Accepted.start(1.0, 0.0, 2.0).full_s == WAIT_SHARE_MAX
    assert Accepted.start(600.0, 0.0, float("inf")).full_s == WAIT_SHARE_MAX * 600, "a batch job"


def test_an_overload_that_lasts_leaves_a_short_queue_and_calm_gives_the_long_one_back() -> None:
    start = Accepted.start(10.0, 0.0)
    surge = under(start, 20.0, refusing=True)
    assert surge.limit_s == STANDING_S
    assert under(surge, CALM_S - 0.1, refusing=False).limit_s == STANDING_S, "not between two refusals"
    assert under(surge, 30.0, refusing=False).limit_s == start.full_s


def test_callers_whom_the_full_limit_would_serve_are_not_refused_for_ever() -> None:
    """A hundred of them wait for a second each, and a surge has shrunk the limit to less."""
    accepted = under(Accepted.start(60.0, 0.0, 2.0), 5.0, refusing=True)
    assert accepted.limit_s == STANDING_S
    now_s = accepted.at_s
    for _ in range(round((PROBE_S + 4.0) / STEP_S)):
        now_s += STEP_S
        accepted = (accepted.refused(now_s, 1.0) if accepted.limit_s < 1.0 else accepted).later(now_s, 0.01)
    assert accepted.limit_s > 1.0


def test_an_overload_that_lasts_is_met_by_a_short_queue_most_of_the_time() -> None:
    """The queue is always as long as it may be: now and then that is tried, and shrinks again."""
    accepted, now_s, short = Accepted.start(60.0, 0.0, 2.0), 0.0, 0
    for _ in range(round(300.0 / STEP_S)):
        now_s += STEP_S
        accepted = accepted.refused(now_s, accepted.limit_s + 0.01).later(now_s, 0.01)
        short += accepted.limit_s <= 2 * STANDING_S
    assert 0.6 < short * STEP_S / 300.0 < 1.0


def test_a_burst_that_just_met_the_limit_refuses_nobody_while_its_queue_drains_at_half_load() -> None:
    accepted, wait_s = Accepted.start(10.0, 0.0).refused(0.0, 9.0), 8.0
    for i in range(1, 400):
        accepted = accepted.later(i * STEP_S, 0.01)
        wait_s -= 0.5 * STEP_S
        assert wait_s <= accepted.limit_s + 1e-9 or wait_s <= 0


def test_what_is_kept_is_several_batches_of_a_slow_model_but_never_more_than_the_deadline_allows() -> None:
    assert under(Accepted.start(60.0, 0.0), 200.0, True, batch_s=1.0).limit_s == 4.0
    assert under(Accepted.start(1.0, 0.0), 200.0, True, batch_s=1.0).limit_s == WAIT_SHARE_MAX


@given(st.lists(st.tuples(st.floats(0.001, 5.0), st.booleans(), st.floats(0, 10)), max_size=60), st.floats(0.01, 3600))
def test_the_limit_is_always_between_what_keeps_the_engines_busy_and_what_the_deadline_allows(
    steps: list[tuple[float, bool, float]], timeout_s: float
) -> None:
    accepted, now_s = Accepted.start(timeout_s, 0.0), 0.0
    for passed_s, refused, batch_s in steps:
        now_s += passed_s
        accepted = (accepted.refused(now_s, math.inf) if refused else accepted).later(now_s, batch_s)
        assert min(accepted.full_s, STANDING_S) <= accepted.limit_s <= accepted.full_s


@pytest.mark.parametrize(("row_s", "rows"), [(0.0, 64), (0.001, 64), (0.1, 8), (1.0, 0), (1e-5, 5000)])
def test_rows_that_surely_fit_are_not_looked_at(row_s: float, rows: int) -> None:
    assert rows_sure(0.8, row_s) == rows


@given(st.floats(0.0, 100.0), st.just(0.0) | st.floats(1e-9, 10.0))
def test_what_all_workers_send_without_a_look_fits_or_is_few_from_each(limit_s: float, row_s: float) -> None:
    sure = rows_sure(limit_s, row_s)
    assert sure <= ROWS_SURE_LEAST or sure * FRONTS_MAX * row_s <= limit_s * 1.001
    assert sure * row_s <= limit_s * 1.001 or not row_s


def test_where_nothing_is_known_a_batch_is_believed_before_it_ends() -> None:
    assert row_cost(0.001, Running(4, 2.0)) == 0.5
    assert row_cost(0.001, Running(4, 0.0)) == row_cost(0.001, Running()) == 0.001


def test_where_batches_are_predicted_one_that_stumbles_says_little_of_those_behind_it() -> None:
    stumbling = Running(rows=64, for_s=1.0, predicted_s=0.064)
    assert row_cost(0.001, stumbling) == BELIEVED_MAX * 0.001
    assert row_cost(0.001, Running(64, 0.128, 0.064)) == 0.002, "a little slower is believed"


def test_who_comes_while_a_batch_is_late_waits_for_that_too() -> None:
    assert overrun(Running(64, 3.0, 0.5)) == 2.5
    assert overrun(Running(64, 0.4, 0.5)) == overrun(Running()) == overrun(Running(64, 3.0, 0.0)) == 0.0


# ---- the decision ----------------------------------------------------------------------------------------------------


def refusal(asked: Asked, load: EngineLoad, waits: AcceptedWaits = WAITS, now_s: float = 0.0) -> Refuse:
    found = decide(asked, load, waits, now_s)
    assert isinstance(found, Refuse)
    return found


def test_a_request_is_accepted_by_an_idle_engine_and_held_while_none_is_up() -> None:
    assert decide(ONE, IDLE, WAITS, 0.0) == Accept()
    assert decide(ONE, None, WAITS, 0.0) == Hold()


def test_where_few_wait_most_of_the_deadline_may_be_waited_however_long_they_have_been_there() -> None:
    assert decide(ONE._replace(waiting=FEW - 1), IDLE._replace(ahead=47_000), WAITS, 999.0) == Accept()
    refused = refusal(ONE._replace(waiting=FEW - 1), IDLE._replace(ahead=49_000))
    assert (refused.error.code, refused.error.retry_after_s, refused.many_waiting) == ("overloaded", 49, False)


def test_many_may_wait_as_long_while_they_are_one_burst_and_then_no_longer() -> None:
    many, load = ONE._replace(waiting=FEW), IDLE._replace(ahead=5000)
    assert decide(many, load, WAITS, 1.9) == Accept()
    assert refusal(many, load, WAITS, 2.0).many_waiting
    assert decide(many, load, WAITS.later(1.5, 0.01, empty=True), 3.4) == Accept(), "it was empty again"


def test_a_queue_counts_as_empty_while_fewer_wait_than_an_overload_ever_leaves() -> None:
    assert is_empty(QUIET - 1, 1) and not is_empty(QUIET, 1) and is_empty(QUIET, 2) and is_empty(0, 0)
    assert QUIET < FEW


def large(rows: int, load: EngineLoad = IDLE, left_s: float = 60.0) -> Accept | Hold | Refuse:
    return decide(ONE._replace(rows=rows, left_s=left_s), load, WAITS, 0.0)


def fitting(found: Accept | Hold | Refuse) -> int:
    assert isinstance(found, Refuse)
    return int(found.error.message.rpartition("about ")[2].split()[0])


@pytest.mark.parametrize(
    "load", [IDLE, IDLE._replace(ahead=64, rows=20_000, large=1), IDLE._replace(ahead=300, rows=300)]
)  # fmt: skip
def test_the_number_of_rows_that_would_fit_does_fit_and_not_many_more_do(load: EngineLoad) -> None:
    fits = fitting(large(400_000, load))
    assert isinstance(large(fits, load), Accept)
    assert isinstance(large(fits + 2, load), Refuse)


def test_rows_that_would_not_fit_an_idle_engine_are_413_and_others_429() -> None:
    assert refusal(ONE._replace(rows=50_000), IDLE).error.status == 413
    assert refusal(ONE._replace(rows=40_000), IDLE._replace(ahead=10_000, rows=10_000)).error.status == 429


def test_the_time_that_has_passed_is_not_there_any_more() -> None:
    assert isinstance(large(40_000, left_s=60.0), Accept)
    assert isinstance(large(40_000, left_s=30.0), Refuse)


def test_of_another_large_request_only_so_much_counts_as_is_done_meanwhile() -> None:
    assert isinstance(large(1000, IDLE._replace(ahead=64, rows=47_900, large=1)), Accept)


def test_what_fits_one_batch_is_never_refused_for_its_own_rows() -> None:
    """What a batch costs could not be learned anew: a model that had a bad moment would be shut for ever."""
    assert isinstance(large(64, IDLE._replace(row_s=100.0)), Accept)


def test_where_only_large_requests_come_a_cost_that_is_old_is_tried_again() -> None:
    stale = IDLE._replace(row_s=1.0, untried_s=PROBE_S)
    assert isinstance(large(1000, stale), Accept)
    assert isinstance(large(1000, stale._replace(untried_s=PROBE_S - 1)), Refuse)
    assert isinstance(large(1000, stale._replace(rows=1)), Refuse), "one is being tried"


@pytest.mark.parametrize(
    ("ahead", "count", "shares"),
    [
        ([0], 5, [5]),
        ([0, 0], 5, [3, 2]),
        ([4, 0], 3, [0, 3]),
        ([4, 0], 6, [1, 5]),
        ([9, 0, 2], 4, [0, 3, 1]),
        ([3, 3], 0, [0, 0]),
    ],
)
def test_rows_are_spread_so_that_the_fullest_engine_has_as_few_as_can_be(ahead: list[int], count: int, shares: list[int]) -> None:
    assert spread(ahead, count) == shares


def test_all_rows_are_spread_and_as_evenly_as_one_by_one_would() -> None:
    seed = random.randrange(1 << 30)
    print(f"SEED={seed}")
    dice = random.Random(seed)
    for _ in range(500):
        ahead, count = [dice.randrange(20) for _ in range(dice.randint(1, 5))], dice.randrange(70)
        shares, one_by_one = spread(ahead, count), list(ahead)
        for _ in range(count):
            one_by_one[one_by_one.index(min(one_by_one))] += 1
        assert sum(shares) == count and min(shares) >= 0
        assert sorted(a + n for a, n in zip(ahead, shares, strict=True)) == sorted(one_by_one)
