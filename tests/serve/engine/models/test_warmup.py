"""Warm-up of scripted models under a clock that only the models move."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenkeel.serve.batching.cost import best_rows
from evenkeel.serve.contract.manifest import ModelSample
from evenkeel.serve.contract.shape_uses import ShapeUse
from evenkeel.serve.engine.models.batch_proof import CYCLE_S
from evenkeel.serve.engine.models.golden import GoldenFailed
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup import Warmup
from evenkeel.serve.engine.models.warmup_report import Report
from evenkeel.serve.engine.models.warmup_time import RUNS_MAX
from evenkeel.serve.errors import BadModel, ModelFailed
from tests.support.models import ScriptedBackend, replica, signature, spec, twice_plus_one

Arrays = Sequence[np.ndarray[Any, Any]]
FIXED = signature([spec("x", 4)], [spec("y", 4)])
FREE = signature([spec("ids", "length", pad=0)], [spec("y", "length")])
Cost = Callable[[int, int], float]  # rows, and how many runs there were -> seconds


class ManualClock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def timed(clock: ManualClock, cost: Cost, run: Callable[[Arrays], Any] = twice_plus_one) -> Callable[[Arrays], Any]:
    """A model whose batches take what `cost` says."""
    count = 0

    def go(inputs: Arrays) -> Any:
        nonlocal count
        clock.now_s += cost(len(inputs[0]), count)
        count += 1
        return run(inputs)

    return go


def warm(cost: Cost = lambda rows, nth: 0.001, run: Callable[[Arrays], Any] = twice_plus_one, sig: Any = FIXED, rows_max: int = 8,
         used: Sequence[ShapeUse] = (), **manifest: Any) -> tuple[Replica, Report]:  # fmt: skip
    clock = ManualClock()
    made = replica(sig, timed(clock, cost, run), rows_max=rows_max)
    made.manifest = replace(made.manifest, **manifest)
    return made, Warmup(made, used, clock=clock).run()


def golden_sample(folder: Path, instances: object, expected: object) -> ModelSample:
    (folder / "in.json").write_text(json.dumps({"instances": instances}))
    (folder / "out.json").write_text(json.dumps({"predictions": expected}))
    return ModelSample(folder / "in.json", "application/json", folder / "out.json", 1e-3, 1e-5)


# How long -----------------------------------------------------------------------------------------------------------


def test_every_batch_size_runs_until_it_has_settled() -> None:
    _, report = warm()
    assert [(e.key, e.rows) for e in report.plan] == [("4", n) for n in (1, 2, 4, 8)]
    assert all(e.converged and 9 <= e.runs < 50 for e in report.plan)


def test_a_model_that_compiles_at_its_first_calls_runs_until_that_is_over() -> None:
    _, report = warm(lambda rows, nth: 1.0 if nth < 3 else 0.001, warmup_s=60)
    assert all(e.converged for e in report.plan)


def test_a_model_that_never_settles_ends_by_time_and_says_so() -> None:
    _, report = warm(lambda rows, nth: 0.002 * (1, 5, 25)[nth // 3 % 3], rows_max=1, warmup_s=5)
    (entry,) = report.plan
    assert not entry.converged and entry.runs < RUNS_MAX and report.seconds < 5


def test_the_runs_of_a_fast_model_that_never_settles_are_bounded() -> None:
    _, report = warm(lambda rows, nth: 1e-7 * 1.2 ** (nth // 50), rows_max=1)
    assert report.plan[0].runs == RUNS_MAX and not report.plan[0].converged


def test_a_very_slow_model_runs_each_size_twice_at_least_and_stops_in_time() -> None:
    _, report = warm(lambda rows, nth: 3.0 * rows, warmup_s=10)
    assert report.plan[0].runs >= 2
    assert report.seconds < 60, "one row alone to compare with, two to warm, and three rounds of what was measured"


def test_shapes_for_which_no_time_is_left_are_in_the_report_as_not_run() -> None:
    used = [ShapeUse(((n,),), ((1, 10),)) for n in (10, 13, 17)]
    _, report = warm(lambda rows, nth: 0.4, sig=FREE, rows_max=1, used=used, warmup_s=1.0)
    assert [e.runs for e in report.plan][-1] == 0 and not report.plan[-1].converged


# What ---------------------------------------------------------------------------------------------------------------


def test_every_shape_of_the_log_runs_at_the_sizes_that_service_will_use_and_learns_its_own_cost() -> None:
    used = [ShapeUse(((17,),), ((2, 50), (8, 1))), ShapeUse(((8,),), ((1, 5),))]
    made, report = warm(sig=FREE, rows_max=8, used=used)
    assert {(e.key, e.rows) for e in report.plan} == {(k, n) for k in ("17", "8") for n in (1, 2, 4, 8)}
    assert set(made.cost.curves) >= {((17,),), ((8,),)}
    assert isinstance(made.backend, ScriptedBackend)
    assert {b[0].shape for b in made.backend.batches} >= {(8, 17), (8, 8)}


def test_a_shape_of_the_log_that_the_model_refuses_is_left_out_with_a_word() -> None:
    def picky(inputs: Arrays) -> Arrays:
        if inputs[0].shape[1] == 22:
            raise ModelFailed("22 is not a length of mine")
        return twice_plus_one(inputs)

    _, report = warm(run=picky, sig=FREE, used=[ShapeUse(((8,),), ((1, 9),)), ShapeUse(((22,),), ((1, 3),))])
    assert {e.key for e in report.plan} == {"8"}
    assert any("22 is not a length of mine" in note for note in report.notes)


def broken(inputs: Arrays) -> Arrays:
    raise ModelFailed("no kernel")


def test_a_model_that_refuses_every_made_up_row_starts_unwarmed_and_says_which_sample_to_give() -> None:
    made, report = warm(run=broken, sig=FREE)
    (warning,) = report.warnings
    assert "no kernel" in warning and '[[samples]] input = "sample.json", with ids: float32[rows, length]' in warning
    assert report.plan == [] and made.warmup_requests == []
    assert report.to_json()["notes"] == [warning], "the page tells it"


def test_a_model_that_refuses_its_sample_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"in.json fails: .*no kernel"):
        warm(run=broken, samples=(golden_sample(tmp_path, [[1, 2, 3, 4]], []),))


@pytest.mark.parametrize("size", [64, 320, 1024])
def test_sizes_are_tried_in_turn_until_the_model_takes_one(size: int) -> None:
    def picky(inputs: Arrays) -> Arrays:
        if inputs[0].shape[1] < size:
            raise ModelFailed("too short")
        return twice_plus_one(inputs)

    sig = signature([spec("sound", "length")], [spec("y", "length")])
    _, report = warm(run=picky, sig=sig)
    assert {e.key for e in report.plan} == {str(size)} and report.warnings == []


def test_zeros_are_tried_where_ones_are_no_valid_input() -> None:
    def of_vocabulary(inputs: Arrays) -> Arrays:
        if inputs[0].max() > 0:
            raise ModelFailed("index out of bounds")
        return twice_plus_one(inputs)

    _, report = warm(run=of_vocabulary)
    assert report.plan and report.warnings == []


def test_a_logged_shape_that_is_refused_gives_way_to_one_that_is_made_up() -> None:
    def short(inputs: Arrays) -> Arrays:
        if inputs[0].shape[1] > 20:
            raise ModelFailed("too long")
        return twice_plus_one(inputs)

    _, report = warm(run=short, sig=FREE, used=[ShapeUse(((40,),), ((1, 9),))])
    assert report.plan and any("shape log is left out" in note for note in report.notes)


# Batch sizes --------------------------------------------------------------------------------------------------------


def chosen_by(cost: Cost, rows_max: int = 32) -> int:
    made, _ = warm(cost, rows_max=rows_max, warmup_s=30)
    return best_rows(made.cost.default, rows_max, float("inf"))


@pytest.mark.parametrize("seed", range(10))
def test_a_model_that_gains_a_tenth_at_eight_rows_is_found_out_in_noise(seed: int) -> None:
    noise = random.Random(seed)
    per_row = {1: 0.0250, 2: 0.0248, 4: 0.0246, 8: 0.0215}

    def cost(rows: int, nth: int) -> float:
        return rows * per_row.get(rows, 0.0240) * (1 + abs(noise.gauss(0, 0.05)))

    assert chosen_by(cost) in (8, 16, 32), f"seed {seed}"


@pytest.mark.parametrize("seed", range(10))
def test_a_model_that_gains_nothing_runs_one_row_at_a_time_in_noise(seed: int) -> None:
    noise = random.Random(seed)
    assert chosen_by(lambda rows, nth: 0.025 * rows * (1 + abs(noise.gauss(0, 0.03)))) == 1, f"seed {seed}"


def test_a_slow_moment_while_one_size_is_measured_does_not_count() -> None:
    def cost(rows: int, nth: int) -> float:
        slow = rows == 2 and nth < 60
        return (0.001 + 1e-5 * rows) * (50 if slow else 1)

    made, _ = warm(cost, rows_max=8, warmup_s=60)
    assert made.cost.default.predict(2) == pytest.approx(CYCLE_S + 0.00102, rel=0.1)
    assert best_rows(made.cost.default, 8, float("inf")) == 8


# Golden checks ------------------------------------------------------------------------------------------------------


def test_a_sample_with_the_expected_answer_passes_and_all_checks_are_counted(tmp_path: Path) -> None:
    _, report = warm(samples=(golden_sample(tmp_path, [[1, 2, 3, 4]], [[3, 5, 7, 9]]),))
    told = {"checked": 5, "passed": 5, "outputs": 1, "batches": 3}
    assert report.golden.to_json() == told, "finite, the answer, batches of 2, 4 and 8"


def test_a_sample_with_another_answer_fails_the_start_and_the_difference_is_named(tmp_path: Path) -> None:
    with pytest.raises(GoldenFailed, match=r"sample in.json: answer.predictions\[0\]\[3\] is 9, expected 8: off by 1"):
        warm(samples=(golden_sample(tmp_path, [[1, 2, 3, 4]], [[3, 5, 7, 8]]),))


def test_a_sample_that_gives_nan_fails_the_start(tmp_path: Path) -> None:
    sample = replace(golden_sample(tmp_path, [[1, 2, 3, 4]], []), output=None)
    with pytest.raises(GoldenFailed, match=r"sample in.json: output 'y' is nan at \[0, 0\]"):
        warm(run=lambda inputs: [inputs[0] * np.nan], samples=(sample,))


def test_made_up_input_that_gives_nan_is_only_noted() -> None:
    _, report = warm(run=lambda inputs: [inputs[0] * np.nan])
    assert any("made-up input" in note and "'y'" in note for note in report.notes)


def test_a_padded_sample_is_answered_as_in_service(tmp_path: Path) -> None:
    sample = golden_sample(tmp_path, [list(range(9))], [[2 * i + 1 for i in range(9)]])
    made, _ = warm(sig=FREE, samples=(sample,))
    assert isinstance(made.backend, ScriptedBackend)
    assert {b[0].shape[1] for b in made.backend.batches} == {10}


def of_the_batch(inputs: Arrays) -> Arrays:
    return [inputs[0] - inputs[0].mean(axis=0, keepdims=True)]


def test_a_model_whose_rows_depend_on_each_other_is_found_and_named(tmp_path: Path) -> None:
    sample = replace(golden_sample(tmp_path, [[1, 2, 3, 4], [9, 2, 3, 4]], []), output=None)
    with pytest.raises(GoldenFailed, match=r"the samples: rows depend on each other: row 0 of a batch of 2 gives in output 'y'"):
        warm(run=of_the_batch, samples=(sample,))


def test_it_is_found_without_any_second_row_too(tmp_path: Path) -> None:
    sample = replace(golden_sample(tmp_path, [[1, 2, 3, 4]], []), output=None)
    with pytest.raises(GoldenFailed, match="rows depend on each other"):
        warm(run=of_the_batch, samples=(sample,))


def test_a_mixed_up_order_of_rows_is_found(tmp_path: Path) -> None:
    sample = replace(golden_sample(tmp_path, [[1, 2, 3, 4]], []), output=None)
    with pytest.raises(GoldenFailed, match="rows depend on each other"):
        warm(run=lambda inputs: [inputs[0][::-1].copy()], samples=(sample,))


def odd(inputs: Arrays) -> Arrays:
    return [inputs[0] + (1.0 if len(inputs[0]) == 8 else 0.0)]


def test_a_dependence_that_shows_in_large_batches_only_is_found(tmp_path: Path) -> None:
    with pytest.raises(GoldenFailed, match="row 0 of a batch of 8"):
        warm(run=odd, samples=(replace(golden_sample(tmp_path, [[1, 2, 3, 4]], []), output=None),))


@pytest.mark.parametrize("run", [odd, of_the_batch, lambda inputs: [inputs[0][::-1].copy()]])
def test_made_up_rows_that_reach_each_other_turn_batching_off_with_a_warning(run: Callable[[Arrays], Any]) -> None:
    made, report = warm(run=run)
    assert made.rows_max == 1
    (warning,) = report.warnings
    assert "batching is off: rows depend on each other" in warning and "[[samples]]" in warning


def a_little(inputs: Arrays) -> Arrays:
    return [inputs[0] * (1 + 0.001 * len(inputs[0]))]


def test_made_up_rows_that_differ_a_little_are_told_and_batched() -> None:
    made, report = warm(run=a_little)
    assert made.rows_max == 8 and len(report.plan) == 4
    assert any("row 0 of a batch of 8" in warning for warning in report.warnings)


def test_a_tolerance_of_the_model_lets_a_small_dependence_pass(tmp_path: Path) -> None:
    sample = replace(golden_sample(tmp_path, [[1, 2, 3, 4]], []), output=None)
    with pytest.raises(GoldenFailed):
        warm(run=a_little, samples=(sample,))
    _, report = warm(run=a_little, samples=(sample,), batch_tolerance=0.2)
    assert report.golden.passed == report.golden.checked == 4


def test_a_model_that_draws_lots_cannot_be_compared_and_that_is_noted() -> None:
    lots = np.random.default_rng(1)
    _, report = warm(run=lambda inputs: [inputs[0] + lots.random(inputs[0].shape)])
    assert any("another answer each time" in note for note in report.notes)
    assert report.golden.checked == 0


def test_an_answer_of_a_wrong_shape_to_a_sample_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="output 'y' has shape"):
        warm(run=lambda inputs: [inputs[0][:1]], samples=(golden_sample(tmp_path, [[1, 2, 3, 4]] * 2, [[3, 5, 7, 9]] * 2),))


def test_a_model_that_answers_one_row_of_several_made_up_ones_runs_one_at_a_time() -> None:
    made, report = warm(run=lambda inputs: [inputs[0][:1]])
    assert made.rows_max == 1 and "output 'y' has shape (1, 4) for 2 rows" in report.warnings[0]


def test_a_backend_that_gives_views_of_memory_it_uses_again_is_compared_rightly() -> None:
    memory = np.zeros((8, 4), np.float32)

    def reuse(inputs: Arrays) -> Arrays:
        memory[: len(inputs[0])] = inputs[0] * 2
        return [memory[: len(inputs[0])]]

    _, report = warm(run=reuse)
    assert report.golden.passed == 3
