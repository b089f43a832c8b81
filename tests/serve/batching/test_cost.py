"""The learned cost of a batch, and the batch size that it makes worth running."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.batching.cost import (
    EXPLORE_EVERY,
    EXPLORE_RUNS,
    FIRST_BATCHES,
    GAIN,
    SAME_RATE,
    SHAPES_MAX,
    STEP_LIMIT,
    CostModel,
    Curve,
    best_rows,
    explore,
)

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
    assert [curve.predict(n) for n in (1, 2, 3, 4, 5)] == [1.0, 2.0, 4.0, 6.0, 7.5]


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


CLOSE = Curve([1, 2, 4, 8], [0.025, 0.052, 0.106, 0.214])  # 40 rows/s at one, 37 to 38 above


def tries(curve: Curve, chosen: int, rows_max: int, batches: int, within_s: float = math.inf) -> list[int]:
    """The sizes other than `chosen` that are tried in so many batches."""
    found = []
    for _ in range(batches):
        rows = explore(curve, chosen, rows_max, within_s)
        curve.observe(rows, curve.predict(rows))
        found += [rows] if rows != chosen else []
    return found


def fresh(curve: Curve) -> Curve:
    return Curve(list(curve.sizes), list(curve.seconds))


def test_a_size_that_is_close_is_tried_now_and_then_and_not_for_ever() -> None:
    found = tries(fresh(CLOSE), 1, 64, 100 * EXPLORE_EVERY)
    assert found == [2] * EXPLORE_RUNS
    assert tries(fresh(CLOSE), 1, 64, EXPLORE_EVERY - 1) == []


def test_a_size_that_is_clearly_worse_is_never_tried() -> None:
    assert tries(fresh(TINY), 64, 64, 10_000) == []
    assert tries(Curve([1, 2], [0.01, 0.04]), 1, 64, 10_000) == []


def test_a_larger_size_is_tried_only_when_its_rows_are_there_and_its_time_is() -> None:
    assert tries(fresh(CLOSE), 1, 1, 10_000) == []
    assert tries(fresh(CLOSE), 1, 64, 10_000, within_s=0.03) == []


def test_a_curve_that_was_wrong_about_a_close_size_finds_out_in_service() -> None:
    """Two rows really take 0.040 s, 50 rows/s; warm-up, in noise, saw 0.052."""
    curve = fresh(CLOSE)
    for _ in range(EXPLORE_RUNS * EXPLORE_EVERY):
        rows = explore(curve, best_rows(curve, 2, math.inf), 2, math.inf)
        curve.observe(rows, 0.025 if rows == 1 else 0.040)
    assert best_rows(curve, 2, math.inf) == 2


def test_batches_are_counted_by_size_rounded_up() -> None:
    curve = Curve([1, 2, 4], [1.0, 2.0, 4.0])
    for rows in (1, 2, 3, 4, 5, 64, 4096, 9999):
        curve.observe(rows, 1.0)
    assert [n for n, runs in enumerate(curve.runs) if runs] == [0, 1, 2, 3, 6, 12] and curve.runs[2] == 2 and curve.batches == 8
    curve.forget_runs()
    assert sum(curve.runs) == curve.batches == 0


def test_a_further_shape_measured_at_a_few_sizes_takes_the_rest_from_the_default_in_proportion() -> None:
    model = CostModel()
    model.learn("first", [(1, 0.001), (2, 0.0015), (4, 0.002), (8, 0.003)])
    model.learn_shape("second", [(1, 0.010), (4, 0.020)])
    assert model.curve("second").predict(8) == pytest.approx(0.030)
    assert model.default.predict(8) == 0.003


def test_a_guess_is_replaced_by_the_first_batch_and_then_by_any_faster_one() -> None:
    cost = CostModel(default=Curve([1, 64], [1e-3, 1.01e-3], guesses=FIRST_BATCHES))
    cost.observe((), 1, 1.0)
    assert cost.curve(()).predict(1) == pytest.approx(1.0)
    cost.observe((), 1, 0.25)
    cost.observe((), 1, 4.0)
    assert cost.curve(()).predict(1) == pytest.approx(0.25), "the first one had things to load"
    cost.observe((), 1, 0.5)
    assert cost.curve(()).predict(1) == pytest.approx(0.25 * (1 + GAIN)), "from now on it moves slowly"
