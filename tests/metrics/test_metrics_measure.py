"""Rates, quantiles, saturation and headroom, from pages that a test has written."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import TIME_CELLS, Engine, Front, Main, StatusPage, time_bucket, time_edge
from evenkeel.serve.errors import NUMBER, BadShape, ModelFailed, Overloaded
from evenkeel.sidecar.watch import rates
from evenkeel.sidecar.watch.rates import Capacity, RatePoint, Rates, busy_share_max, headroom, quantile, wait_p99_s


def answer(page: StatusPage, count: int, seconds: float, rows: int = 1) -> None:
    page.front(0).count[Front.LATENCY + time_bucket(seconds)] += count
    page.engine(0).count[Engine.ROWS] += count * rows


def ready(page: StatusPage, row_cost_s: float = 0.001, place: int = 0) -> None:
    page.engine(place).count[Engine.STATE] = ReplicaState.READY
    page.engine(place).value[Engine.ROW_COST_S] = row_cost_s


# ---- points ----------------------------------------------------------------------------------------------------------


def test_before_the_second_sample_nothing_is_known_and_nothing_is_published(page: StatusPage) -> None:
    measures = Rates()
    assert measures.now() == RatePoint(0.0) and measures.points() == [] and measures.headroom_rps is None
    measures.sample(page, 100.0)
    assert measures.points() == [] and page.main.value[Main.MEASURED_S] == 0


def test_what_was_counted_before_the_first_sample_is_not_a_rate(page: StatusPage) -> None:
    answer(page, 1_000_000, 0.001)
    measures = Rates()
    measures.sample(page, 100.0)
    measures.sample(page, 101.0)
    assert measures.now().requests_per_s == 0 and measures.now().p99_s is None


def test_a_point_tells_of_the_time_since_the_one_before(page: StatusPage) -> None:
    measures, front = Rates(), page.front(0).count
    measures.sample(page, 100.0)
    answer(page, 30, 0.001)
    front[Front.ERRORS + NUMBER[BadShape]] = 6
    front[Front.ERRORS + NUMBER[Overloaded]], front[Front.ERRORS + NUMBER[ModelFailed]] = 2, 4
    front[Front.IN_FLIGHT], page.engine(0).count[Engine.QUEUE_ROWS] = 5, 9
    measures.sample(page, 102.0)
    (point,) = measures.points()
    assert (point.at_s, point.requests_per_s, point.errors_per_s) == (102.0, 21.0, 3.0), "the client's own faults are no errors"
    assert (point.in_flight, point.queue_rows) == (5, 9)
    assert point.p50_s == pytest.approx(0.001, rel=0.25)


def test_now_is_over_ten_seconds_and_the_points_over_ten_minutes(page: StatusPage) -> None:
    measures = Rates()
    for second in range(1000):
        measures.sample(page, float(second))
        answer(page, 100 if second < 990 else 200, 0.001)
    points = measures.points()
    assert len(points) == 600 and (points[0].at_s, points[-1].at_s) == (400.0, 999.0)
    assert points[-1].requests_per_s == 200
    assert measures.now().requests_per_s == pytest.approx((100 + 9 * 200) / 10)


@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_lies_in_the_cell_of_the_value_that_it_estimates(values: list[float], q: float) -> None:
    cells = [0] * TIME_CELLS
    for v in values:
        cells[time_bucket(v)] += 1
    true = sorted(values)[max(0, math.ceil(q * len(values) - 1e-9) - 1)]
    found = quantile(cells, q)
    assert found is not None
    cell = time_bucket(true)
    assert (time_edge(cell - 1) if cell else 0) <= found <= time_edge(cell) * (1 + 1e-12)


def test_the_quantile_of_nothing_is_unknown_and_that_of_the_last_cell_its_lower_edge() -> None:
    assert quantile([0] * TIME_CELLS, 0.99) is None
    assert quantile([0] * (TIME_CELLS - 1) + [3], 0.5) == time_edge(TIME_CELLS - 2)


# ---- saturation ------------------------------------------------------------------------------------------------------


def test_saturation_is_the_busy_share_of_the_ready_engines(page: StatusPage) -> None:
    page.main.count[Main.ENGINES] = 3
    ready(page, place=0)
    ready(page, place=1)
    page.engine(2).value[Engine.BUSY_SUM_S] = 50.0  # not ready: no part of it
    measures = Rates()
    measures.sample(page, 100.0)
    page.engine(0).value[Engine.BUSY_SUM_S], page.engine(1).value[Engine.BUSY_SUM_S] = 4.0, 1.0
    page.engine(2).value[Engine.BUSY_SUM_S] = 60.0
    measures.sample(page, 110.0)
    assert measures.now().saturation == pytest.approx(0.25)
    assert page.main.value[Main.SATURATION] == pytest.approx(0.25) and page.main.value[Main.MEASURED_S] == 110.0


def test_a_batch_that_has_not_ended_yet_counts_up_to_now(page: StatusPage) -> None:
    ready(page)
    measures = Rates()
    measures.sample(page, 100.0)
    page.engine(0).value[Engine.RUN_STARTED_S] = 105.0
    measures.sample(page, 110.0)
    assert measures.now().saturation == pytest.approx(0.5)


def test_an_engine_that_was_ended_in_its_batch_makes_no_nonsense(page: StatusPage) -> None:
    ready(page)
    page.engine(0).value[Engine.RUN_STARTED_S] = 90.0
    measures = Rates()
    measures.sample(page, 100.0)
    page.engine(0).value[Engine.RUN_STARTED_S] = 0.0  # what the supervisor does; the ten seconds are in no sum
    measures.sample(page, 101.0)
    assert measures.now().saturation == 0.0
    page.engine(0).count[Engine.STATE] = ReplicaState.LOADING
    measures.sample(page, 102.0)
    assert measures.now().saturation == 0.0 and measures.headroom_rps is None


# ---- headroom --------------------------------------------------------------------------------------------------------


def test_without_an_objective_headroom_is_what_the_engines_can_do_less_what_they_do() -> None:
    capacity = Capacity((0.001, 0.004), batch_rows=8, slo_s=None)
    assert headroom(50.0, 2.0, capacity) == pytest.approx((1000 + 250) / 2 - 50)
    assert headroom(1e6, 2.0, capacity) == 0.0, "never below nothing"


def test_headroom_is_unknown_while_no_engine_knows_its_cost() -> None:
    assert headroom(5.0, 1.0, Capacity((), 1, None)) is None
    assert headroom(5.0, 1.0, Capacity((0.0,), 1, None)) is None


def test_an_objective_shorter_than_one_batch_leaves_nothing_and_a_long_one_nearly_all() -> None:
    assert busy_share_max(batch_s=0.010, slo_s=0.009) == 0.0
    assert busy_share_max(batch_s=0.010, slo_s=None) == 1.0
    assert busy_share_max(batch_s=0.010, slo_s=100.0) > 0.999


@given(st.floats(1e-5, 1.0), st.floats(1.01, 1000.0))
def test_at_the_largest_busy_share_wait_and_run_are_just_within_the_objective(batch_s: float, times: float) -> None:
    slo_s = batch_s * times
    share = busy_share_max(batch_s, slo_s)
    assert 0 < share < 1
    assert batch_s + wait_p99_s(share, batch_s) <= slo_s
    assert batch_s + wait_p99_s(share + 1e-6, batch_s) > slo_s or share > 1 - 1e-5 or share <= 0.011


def test_the_predicted_wait_is_close_to_a_simulated_queue() -> None:
    """Constant service, random arrivals: the formula's assumption, not its algebra. Seeded."""
    for share in (0.5, 0.7, 0.9):
        rng, free_at, now, waits = random.Random(7), 0.0, 0.0, []
        for _ in range(200_000):
            now += rng.expovariate(share)  # service time 1
            waits.append(max(0.0, free_at - now))
            free_at = max(free_at, now) + 1.0
        simulated = sorted(waits)[int(0.99 * len(waits))]
        assert simulated * 0.95 < wait_p99_s(share, 1.0) < simulated * 1.2, share


def test_headroom_from_a_page_uses_what_requests_lately_carried(page: StatusPage) -> None:
    ready(page, row_cost_s=0.001)
    measures = Rates()
    measures.sample(page, 100.0)
    assert measures.headroom_rps is None
    measures.sample(page, 101.0)
    assert measures.headroom_rps == pytest.approx(1000.0), "before the first request: of one row each"
    answer(page, 100, 0.002, rows=4)
    measures.sample(page, 102.0)
    assert measures.headroom_rps == pytest.approx(250 - 50)
    assert page.main.value[Main.HEADROOM_RPS] == measures.headroom_rps
    for second in range(103, 120):
        measures.sample(page, float(second))
    assert measures.headroom_rps == pytest.approx(250), "still four rows each, though none came lately"


def explain(page: StatusPage, slo_s: float | None) -> None:
    page.write_text(0, {"batching": {"chosen_rows": 4, "slo_s": slo_s, "learned": [
        {"rows": 1, "seconds": 0.004}, {"rows": 4, "seconds": 0.008}, {"rows": 8, "seconds": 0.008}]}})  # fmt: skip


def test_the_objective_and_the_batch_size_come_from_what_the_engine_explains(page: StatusPage) -> None:
    ready(page, row_cost_s=0.001)  # of the cheapest size, 8 rows; the size in force costs twice that
    explain(page, slo_s=0.020)
    found = rates.read_capacity(page, rates.read(page, 1.0), page.read_text(0))
    assert found == Capacity((pytest.approx(0.002),), 4, 0.020)
    measures = Rates()
    measures.sample(page, 100.0)
    measures.sample(page, 101.0)
    assert measures.headroom_rps == pytest.approx(500 * busy_share_max(0.008, 0.020))


def test_headroom_is_unknown_while_nothing_is_measured(page: StatusPage) -> None:
    ready(page, row_cost_s=0.001)  # what the engine supposes
    page.write_text(0, {"batching": {"chosen_rows": 1, "learned": [], "learned_in": "nothing"}})
    measures = Rates()
    measures.sample(page, 100.0)
    measures.sample(page, 101.0)
    assert measures.headroom_rps is None and math.isnan(page.main.value[Main.HEADROOM_RPS])


def test_headroom_of_what_is_learned_in_service_is_by_the_sizes_that_ran(page: StatusPage) -> None:
    """A handler of 50 ms: about 20 requests a second, and not a 63rd of that."""
    ready(page, row_cost_s=0.05 / 64)
    page.write_text(0, {"batching": {"chosen_rows": 1, "learned_in": "service", "learned": [{"rows": 1, "seconds": 0.05}]}})
    measures = Rates()
    measures.sample(page, 100.0)
    answer(page, 8, 0.05)
    measures.sample(page, 101.0)
    assert measures.headroom_rps == pytest.approx(20 - 8)


def test_one_slow_answer_is_no_objective_missed(page: StatusPage) -> None:
    ready(page, row_cost_s=0.0001)
    explain(page, slo_s=0.020)
    measures = Rates()
    measures.sample(page, 100.0)
    answer(page, 99, 0.001)
    for second, slow in enumerate((1, 1, 1), 101):
        answer(page, slow, 0.500)
        measures.sample(page, float(second))
        assert measures.headroom_rps is not None and measures.headroom_rps > 0, slow
    answer(page, 10, 0.500)
    measures.sample(page, 104.0)
    assert measures.headroom_rps == 0.0


def test_an_objective_that_is_missed_leaves_no_headroom_whatever_was_learned(page: StatusPage) -> None:
    ready(page, row_cost_s=0.0001)
    explain(page, slo_s=0.020)
    measures = Rates()
    measures.sample(page, 100.0)
    answer(page, 99, 0.500)
    measures.sample(page, 101.0)
    assert measures.headroom_rps is not None and measures.headroom_rps > 0, "too few to say"
    answer(page, 1, 0.500)
    measures.sample(page, 102.0)
    assert measures.headroom_rps == 0.0


def test_an_engine_that_died_while_explaining_itself_does_not_hold_up_the_watch(
    page: StatusPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(page)
    explain(page, slo_s=0.020)
    measures = Rates()
    measures.sample(page, 100.0)
    measures.sample(page, 101.0)
    before = measures.headroom_rps
    from evenkeel.serve.contract import status_page

    page._view[status_page._TEXT_AT : status_page._TEXT_AT + 8].cast("Q")[0] += 1
    monkeypatch.setattr("time.sleep", lambda s: pytest.fail("the watch waits for nobody"))
    measures.sample(page, 102.0)
    assert measures.headroom_rps == before
