"""Run now or wait: the one decision, by example and by property."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.batching.cost import Curve
from evenkeel.serve.batching.policy import SLACK_S, WAIT_S_MAX, Policy, QueueView, Run, Wait, next_step

FLAT = Curve([1, 2, 4, 8, 16, 32, 64], [0.010] * 7)  # a batch costs the same at any size: waiting can pay
LINEAR = Curve([1, 2, 4, 8], [0.010, 0.020, 0.040, 0.080])  # batching brings nothing
NO_SLO = Policy(rows_max=64, slo_s=None)


def view(rows: int = 1, oldest_s: float = 10.0, deadline_s: float = 70.0, rate: float = 0.0, expected: float = 0.0,
         waited_s: float = 0.0) -> QueueView:  # fmt: skip
    return QueueView(rows, oldest_s, deadline_s, rate, expected, waited_s)


def test_a_lone_request_runs_at_once() -> None:
    assert next_step(view(rows=1), 10.0, FLAT, NO_SLO) == Run(1)


def test_everything_queued_runs_together_where_batching_helps() -> None:
    assert next_step(view(rows=40), 10.0, FLAT, NO_SLO) == Run(40)


def test_one_row_at_a_time_runs_where_batching_brings_nothing() -> None:
    assert next_step(view(rows=40), 10.0, LINEAR, NO_SLO) == Run(1)


def test_a_full_batch_never_waits() -> None:
    assert next_step(view(rows=64, rate=1e6, expected=1000.0), 10.0, FLAT, NO_SLO) == Run(64)


def test_it_waits_when_many_more_rows_are_about_to_come() -> None:
    step = next_step(view(rows=2, rate=10_000.0, expected=20.0), 10.0, FLAT, NO_SLO)
    assert step == Wait(10.0 + 20 / 10_000)


def test_it_does_not_wait_for_rows_that_come_too_slowly() -> None:
    assert next_step(view(rows=2, rate=10.0, expected=20.0), 10.0, FLAT, NO_SLO) == Run(2)


def test_it_does_not_wait_when_nobody_is_expected() -> None:
    assert next_step(view(rows=2, rate=10_000.0, expected=0.0), 10.0, FLAT, NO_SLO) == Run(2)


def test_it_does_not_wait_where_batching_brings_nothing() -> None:
    assert next_step(view(rows=1, rate=10_000.0, expected=20.0), 10.0, LINEAR, NO_SLO) == Run(1)


def test_it_does_not_go_on_waiting_for_ever() -> None:
    patient = view(rows=2, rate=10_000.0, expected=20.0, waited_s=0.005)
    assert next_step(patient, 10.0, FLAT, NO_SLO) == Run(2)


def test_it_does_not_wait_when_the_deadline_would_not_hold() -> None:
    hurried = view(rows=2, rate=10_000.0, expected=20.0, deadline_s=10.013)
    assert next_step(hurried, 10.0, FLAT, NO_SLO) == Run(2)


def test_the_latency_objective_limits_the_size_of_a_batch() -> None:
    curve = Curve([1, 2, 4, 8], [0.010, 0.012, 0.016, 0.024])
    assert next_step(view(rows=8), 10.0, curve, Policy(8, None)) == Run(8)
    assert next_step(view(rows=8), 10.0, curve, Policy(8, 0.020)) == Run(4)


def test_a_missed_objective_is_forgotten_and_the_batch_runs_at_full_size() -> None:
    curve = Curve([1, 2, 4, 8], [0.010, 0.012, 0.016, 0.024])
    assert next_step(view(rows=8, oldest_s=9.0), 10.0, curve, Policy(8, 0.020)) == Run(8)


def test_a_deadline_that_cannot_be_met_is_forgotten_and_the_batch_runs_at_full_size() -> None:
    """In an overload the oldest is always nearly late: small batches for its sake would make all the others late too."""
    for deadline_s in (9.0, 10.0, 10.005):
        assert next_step(view(rows=8, deadline_s=deadline_s), 10.0, FLAT, NO_SLO) == Run(8)


def test_a_deadline_that_a_smaller_batch_meets_makes_the_batch_smaller() -> None:
    curve = Curve([1, 2, 4, 8], [0.010, 0.012, 0.016, 0.024])
    assert next_step(view(rows=8, deadline_s=10.020), 10.0, curve, NO_SLO) == Run(4)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    sizes = [2**i for i in range(draw(st.integers(1, 8)))]
    seconds, last = [], 0.0
    for _ in sizes:
        last += draw(st.floats(1e-5, 0.1))
        seconds.append(last)
    return Curve(sizes, seconds)


RATE_MAX = 1_000_000
DECISIONS_MAX = round(RATE_MAX * WAIT_S_MAX) + 10  # a wait is for one row at least, so none is shorter than 1 / RATE_MAX
VIEWS = st.builds(
    QueueView, rows=st.integers(1, 300), oldest_s=st.floats(990, 1000), deadline_s=st.floats(990, 1100),
    rate=st.floats(0, RATE_MAX), expected=st.floats(0, 1000), waited_s=st.floats(0, 0.1))  # fmt: skip
POLICIES = st.builds(Policy, rows_max=st.integers(1, 256), slo_s=st.none() | st.floats(0.001, 10))


@given(VIEWS, curves(), POLICIES)
def test_a_decision_is_always_within_what_is_queued_and_allowed(view: QueueView, curve: Curve, policy: Policy) -> None:
    step = next_step(view, 1000.0, curve, policy)
    if isinstance(step, Run):
        assert 1 <= step.rows <= min(view.rows, policy.rows_max)
    else:
        assert 1000.0 < step.until_s <= 1000.0 + WAIT_S_MAX


@given(VIEWS, curves(), POLICIES)
def test_a_wait_and_the_batch_after_it_end_before_the_deadline(view: QueueView, curve: Curve, policy: Policy) -> None:
    step = next_step(view, 1000.0, curve, policy)
    can_be_met = view.deadline_s - 1000.0 - SLACK_S >= curve.predict(1)  # else full speed is the best for all
    if isinstance(step, Wait) and can_be_met:
        rows = int(view.rows + min(view.expected, policy.rows_max - view.rows))
        assert step.until_s + curve.predict(rows) <= view.deadline_s
        if policy.slo_s is not None and view.oldest_s + policy.slo_s > 1000.002:
            assert step.until_s + curve.predict(rows) <= view.oldest_s + policy.slo_s


@given(VIEWS, curves(), POLICIES)
def test_waiting_comes_to_an_end(view: QueueView, curve: Curve, policy: Policy) -> None:
    """Held back step after step with nobody arriving, a batch runs after WAIT_S_MAX at the latest."""
    now_s, waited_s = 1000.0, view.waited_s
    for _ in range(DECISIONS_MAX):
        step = next_step(QueueView(view.rows, view.oldest_s, view.deadline_s, view.rate, view.expected, waited_s),
                         now_s, curve, policy)  # fmt: skip
        if isinstance(step, Run):
            return
        waited_s += step.until_s - now_s
        now_s = step.until_s
        assert now_s <= 1000.0 + WAIT_S_MAX
    raise AssertionError(f"still waiting after {DECISIONS_MAX} decisions")
