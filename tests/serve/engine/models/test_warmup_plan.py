"""What warm-up runs on: samples, the shape log, the signature, in this order; and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from evenkeel.serve.batching.split import bucket_edge
from evenkeel.serve.contract.manifest import ModelSample
from evenkeel.serve.contract.shape_uses import ShapeUse
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.backends.trial_runs import FREE_SIZE
from evenkeel.serve.engine.cycle.tensors import Gather
from evenkeel.serve.engine.models.warmup_plan import ROWS_KEPT, SHAPES_MAX, Shape, batch_sizes, made_up, shapes
from evenkeel.serve.transport.layout import Layout
from tests.support.models import signature, spec

EDGE = bucket_edge(FREE_SIZE, 0.25)
FIXED = signature([spec("x", 2)], [spec("y", 2)])
FREE = signature([spec("ids", "length", dtype="int64", pad=0)], [spec("y", 2)])


def plan(sig: Signature, samples: tuple[ModelSample, ...] = (), used: tuple[ShapeUse, ...] = ()) -> tuple[list[Shape], str]:
    return shapes(sig, Gather(sig, Layout(sig.inputs, sig.rows_axis), 0.25), samples, used)


def sample(folder: Path, name: str, instances: object) -> ModelSample:
    path = folder / name
    path.write_text(json.dumps({"instances": instances}))
    return ModelSample(path, "application/json", None, 1e-3, 1e-5)


def use(*dims: int, runs: tuple[tuple[int, int], ...] = ((1, 10),)) -> ShapeUse:
    return ShapeUse((dims,), runs)


def invented(sig: Signature) -> list[Shape]:
    return list(made_up(sig, Gather(sig, Layout(sig.inputs, sig.rows_axis), 0.25)))


def test_without_samples_and_log_nothing_is_planned_and_rows_are_made_up_from_the_signature() -> None:
    assert plan(FREE) == ([], "")
    first = invented(FREE)[0]
    assert (first.source, first.key) == ("signature", ((EDGE,),))
    assert first.rows[0][0].tolist() == [[1] * EDGE]


def test_the_same_signature_is_tried_with_the_same_shapes_in_the_same_order_each_once() -> None:
    sig = signature([spec("image", 1, "h", "w")], [spec("y", 2)])
    keys = [(s.key, float(s.rows[0][0].max())) for s in invented(sig)]
    assert keys == [(s.key, float(s.rows[0][0].max())) for s in invented(sig)] and len(set(keys)) == len(keys)
    assert {((1, 224, 224),), ((1, 320, 320),)} <= {key for key, _ in keys}


def test_samples_come_first_and_their_rows_are_kept_apart(tmp_path: Path) -> None:
    found, _ = plan(FIXED, (sample(tmp_path, "a.json", [[1, 2], [3, 4]]), sample(tmp_path, "b.json", [[5, 6]])))
    assert [s.source for s in found] == ["sample"]
    assert [r[0].tolist() for r in found[0].rows[:3]] == [[[1, 2]], [[3, 4]], [[5, 6]]]


def test_samples_of_one_bucket_are_one_shape_filled_up_as_in_service(tmp_path: Path) -> None:
    found, _ = plan(FREE, (sample(tmp_path, "a.json", [list(range(9))]), sample(tmp_path, "b.json", [list(range(10))])))
    assert [s.key for s in found] == [((10,),)]
    assert found[0].rows[0][0].tolist() == [[*range(9), 0]]


def test_shapes_of_the_log_follow_the_most_used_first_with_their_batch_sizes_and_a_samples_values(tmp_path: Path) -> None:
    log = (use(13, runs=((1, 5), (4, 1))), use(32, runs=((2, 900),)), use(3, runs=((8, 40),)))
    found, left_out = plan(FREE, (sample(tmp_path, "a.json", [[7, 8, 9]]),), log)
    assert [(s.source, s.key, s.sizes) for s in found] == [
        ("sample", ((3,),), (8,)), ("shape log", ((38,),), (2,)), ("shape log", ((13,),), (1, 4))]  # fmt: skip
    assert found[2].rows[0][0].tolist() == [[7, 8, 9, 7, 8, 9, 7, 8, 9, 7, 8, 9, 7]]
    assert left_out == ""


def test_with_a_log_and_no_sample_nothing_is_guessed() -> None:
    found, _ = plan(FREE, (), (use(32),))
    assert [(s.source, s.key) for s in found] == [("shape log", ((38,),))]


def test_a_shape_between_the_edges_of_the_buckets_is_rounded_up_to_one_and_shapes_of_one_bucket_are_one() -> None:
    found, _ = plan(FREE, (), (use(31, runs=((2, 9),)), use(32, runs=((4, 1),))))
    assert [(s.key, s.sizes) for s in found] == [(((38,),), (2, 4))]


def test_shapes_that_do_not_fit_the_model_are_left_out_with_a_word() -> None:
    strange = (use(2, 2), use(3), ShapeUse(((2,), (2,)), ((1, 1),)), use(2))
    found, left_out = plan(FIXED, (), strange)
    assert [s.key for s in found] == [((2,),)]
    assert left_out == "3 shapes of the shape log do not fit this model"


def test_a_size_that_would_fill_the_memory_is_left_out() -> None:
    found, left_out = plan(FREE, (), (use(1 << 30), use(8)))
    assert [s.key for s in found] == [((8,),)] and "1 shapes" in left_out


def test_dims_of_one_name_must_be_equal() -> None:
    twins = signature([spec("a", "n"), spec("b", "n")], [spec("y", 2)])
    found, _ = plan(twins, (), (ShapeUse(((4,), (5,)), ((1, 9),)), ShapeUse(((4,), (4,)), ((1, 1),))))
    assert [s.key for s in found] == [((4,), (4,))]


def test_the_number_of_shapes_is_bounded() -> None:
    bare = signature([spec("x", "n")], [spec("y", 2)])
    found, left_out = plan(bare, (), tuple(use(i) for i in range(1, SHAPES_MAX + 9)))
    assert len(found) == SHAPES_MAX and left_out == f"8 shapes beyond {SHAPES_MAX}"


def test_rows_are_varied_by_turning_their_values_round_never_by_new_values(tmp_path: Path) -> None:
    found, _ = plan(FIXED, (sample(tmp_path, "a.json", [[5, 9]]),))
    rows = [r[0].tolist() for r in found[0].rows]
    assert rows[:2] == [[[5, 9]], [[9, 5]]] and len(rows) <= ROWS_KEPT
    assert all(sorted(r[0]) == [5, 9] for r in rows)


def test_a_batch_repeats_the_rows_in_turn(tmp_path: Path) -> None:
    found, _ = plan(FIXED, (sample(tmp_path, "a.json", [[1, 1], [2, 2]]),))
    found[0].rows = found[0].rows[:2]
    assert np.array_equal(found[0].batch(5)[0][:, 0], [1, 2, 1, 2, 1])


def test_a_request_without_a_rows_axis_is_one_item(tmp_path: Path) -> None:
    whole = signature([spec("x", "n", 2)], [spec("y", 2)], rows_axis=False)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"inputs": {"x": [[1, 2], [3, 4], [5, 6]]}}))
    found, _ = plan(whole, (ModelSample(path, "application/json", None, 1e-3, 1e-5),))
    assert found[0].key == ((3, 2),) and [a.shape for a in found[0].rows[0]] == [(3, 2)] and len(found[0].rows) == 1


def test_invented_rows_differ_too_with_ones_and_zeros_only() -> None:
    shape = invented(signature([spec("x", 5)], [spec("y", 5)]))[0]
    rows = [tuple(r[0][0].tolist()) for r in shape.rows]
    assert rows[0] == (1,) * 5 and len(set(rows)) >= 3 and {v for r in rows for v in r} == {0, 1}


def test_sizes_are_powers_of_two_and_the_largest() -> None:
    assert (batch_sizes(1), batch_sizes(8), batch_sizes(12)) == ([1], [1, 2, 4, 8], [1, 2, 4, 8, 12])
