"""The learned cost of a batch, and the batch size that it makes worth running."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.batching.cost import GAIN, SAME_RATE, SHAPES_MAX, STEP_LIMIT, CostModel, Curve, best_rows

RESNET = Curve([1, 2, 4, 8], [0.025, 0.053, 0.108, 0.218])  # 40 rows/s at 1, 37 to 38 above
TINY = Curve([1, 2, 4, 8, 16, 32, 64], [0.00033, 0.00033, 0.00034, 0.00036, 0.0004, 0.0005, 0.00064])


def test_a_model_that_batching_does_not_help_runs_one_row_at_a_time() -> None:
    assert best_rows(RESNET, 64, math.inf) == 1


@pytest.mark.parametrize("queued", [1, 5, 48, 64])
def test_a_model_that_batching_helps_takes_all_that_is_queued(queued: int) -> None:
    assert best_rows(TINY, queued, math.inf) == queued


def test_sizes_that_take_longer_than_allowed_are_out() -> None:
    assert best_rows(TINY, 64, 0.00045) == 16


def test_one_row_runs_even_when_it_takes_too_long() -> None:
    assert best_rows(TINY, 64, 0.0) == 1


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    sizes = [2**i for i in range(draw(st.integers(1, 8)))]
    seconds, last = [], 0.0
    for _ in sizes:
        last += draw(st.floats(0, 0.1))
        seconds.append(last + 1e-6)
    return Curve(sizes, seconds)


@given(curves(), st.integers(1, 300), st.floats(1e-6, 1) | st.just(math.inf))
def test_the_chosen_size_is_allowed_and_nearly_as_fast_as_any(curve: Curve, queued: int, within_s: float) -> None:
    chosen = best_rows(curve, queued, within_s)
    assert 1 <= chosen <= queued
    allowed = [n for n in [*curve.sizes, queued] if n <= queued and curve.predict(n) <= within_s]
    if allowed:
        assert curve.predict(chosen) <= within_s
        best = max(n / curve.predict(n) for n in allowed)
        assert chosen / curve.predict(chosen) >= SAME_RATE * best * (1 - 1e-9)


@given(curves(), st.lists(st.integers(1, 500), min_size=2, max_size=6))
def test_more_rows_never_cost_less(curve: Curve, rows: list[int]) -> None:
    costs = [curve.predict(n) for n in sorted(rows)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(costs))


def test_between_two_points_the_cost_is_a_line_and_beyond_the_last_it_goes_on() -> None:
    curve = Curve([1, 2, 4], [1.0, 2.0, 6.0])
    assert [curve.predict(n) for n in (1, 2, 3, 4, 5)] == [1.0, 2.0, 4.0, 6.0, 8.0]


def test_a_curve_of_one_point_is_proportional() -> None:
    assert Curve([1], [0.5]).predict(4) == 2.0


@given(curves(), st.lists(st.tuples(st.integers(1, 300), st.floats(1e-7, 10)), max_size=50))
def test_whatever_is_observed_the_curve_never_falls_and_stays_positive(curve: Curve, seen: list[tuple[int, float]]) -> None:
    for rows, took_s in seen:
        curve.observe(rows, took_s)
    assert all(a <= b for a, b in zip(curve.seconds, curve.seconds[1:], strict=False))
    assert curve.seconds[0] > 0


def test_a_curve_comes_close_to_what_is_observed_again_and_again() -> None:
    curve = Curve([1, 2, 4, 8], [0.001, 0.001, 0.001, 0.001])
    for _ in range(100):
        curve.observe(4, 0.003)
    assert curve.predict(4) == pytest.approx(0.003, rel=0.05)


def test_one_pause_moves_the_curve_a_little_only() -> None:
    curve = Curve([1, 2, 4], [0.001, 0.002, 0.004])
    curve.observe(2, 60.0)
    assert curve.predict(2) == pytest.approx(0.002 * (1 + GAIN * (STEP_LIMIT - 1)))


def test_what_was_measured_is_what_is_predicted() -> None:
    model = CostModel()
    model.learn("shape", [(1, 0.002), (2, 0.001), (4, 0.005)])
    assert model.curve("shape").seconds == [0.001, 0.001, 0.005], "a smaller batch that was slower is noise, which adds time"


def test_a_shape_never_seen_starts_from_the_last_one_measured_and_learns_on_its_own() -> None:
    model = CostModel()
    model.learn("known", [(1, 0.002), (2, 0.003)])
    model.observe("new", 1, 0.004)
    assert model.curve("new").predict(1) > 0.002
    assert model.curve("known").predict(1) == 0.002


def test_the_number_of_shapes_is_bounded() -> None:
    model = CostModel()
    for i in range(10 * SHAPES_MAX):
        model.observe(i, 1, 0.001)
    assert len(model.curves) <= SHAPES_MAX
    assert model.curve("yet another").predict(1) > 0


def test_a_duration_of_zero_is_not_believed() -> None:
    model = CostModel()
    model.learn("shape", [(1, 0.002)])
    model.observe("shape", 1, 0.0)
    assert model.curve("shape").predict(1) == 0.002
