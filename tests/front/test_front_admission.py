"""What is accepted now: a burst wholly, of an overload that lasts no more than keeps the engines busy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.front.admission import (
    BELIEVED_MAX,
    CALM_S,
    PROBE_S,
    ROWS_SURE_MAX,
    STANDING_S,
    WAIT_SHARE_MAX,
    Accepted,
    Running,
    overrun,
    row_cost,
    rows_sure,
)

STEP_S = 0.05


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


@pytest.mark.parametrize(("row_s", "rows"), [(0.0, 64), (0.001, 64), (0.1, 8), (1.0, 0)])
def test_rows_that_surely_fit_are_not_looked_at(row_s: float, rows: int) -> None:
    assert rows_sure(0.8, row_s) == min(rows, ROWS_SURE_MAX)


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
