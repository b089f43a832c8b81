from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from model_folder import Folder

from evenkeel.serve.engine.backends.base import BoundRun, LoadOptions
from evenkeel.serve.errors import BadModel, ModelFailed

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper

from evenkeel.serve.engine.backends.onnx.onnx_backend import OnnxBackend, OnnxOnHost
from evenkeel.serve.engine.backends.onnx.onnx_load import load

logging.getLogger("onnx").setLevel(logging.ERROR)
ONE = LoadOptions(threads=1)
Shape = Sequence[int | str | None] | None
TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16,
         "bfloat16": TensorProto.BFLOAT16, "bool": TensorProto.BOOL, "string": TensorProto.STRING,
         "int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int16": TensorProto.INT16,
         "uint16": TensorProto.UINT16, "int32": TensorProto.INT32, "uint32": TensorProto.UINT32,
         "int64": TensorProto.INT64, "uint64": TensorProto.UINT64}  # fmt: skip


def tensor(name: str, shape: Shape, dtype: str = "float32") -> Any:
    return helper.make_tensor_value_info(name, TYPES[dtype], shape)


def model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], **kw: Any) -> bytes:
    opsets = [helper.make_opsetid("", kw.get("opset", 21)), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, kw.get("constants", []))
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = kw.get("ir", 10)
    return bytes(made.SerializeToString())


def identity(shape_in: Shape, shape_out: Shape, dtype: str = "float32", **kw: Any) -> bytes:
    return model([helper.make_node("Identity", ["x"], ["y"])],
                 [tensor("x", shape_in, dtype)], [tensor("y", shape_out, dtype)], **kw)  # fmt: skip


def loaded(folder: Folder, content: bytes, data: Mapping[str, Any] | None = None) -> OnnxBackend:
    folder.put("model.onnx", content)
    return load(folder.manifest(data), ONE)


def described(backend: OnnxBackend) -> tuple[list[str], list[str], bool]:
    s = backend.signature
    return [i.describe(s.rows_axis) for i in s.inputs], [o.describe(s.rows_axis) for o in s.outputs], s.rows_axis


# What the file says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["N", None, "unk__7"])
def test_a_free_first_axis_counts_rows(folder: Folder, first: str | None) -> None:
    assert described(loaded(folder, identity([first, 4], [first, 4]))) == (
        ["x: float32[rows, 4]"], ["y: float32[rows, 4]"], True)  # fmt: skip


def test_a_fixed_first_axis_makes_a_request_one_item(folder: Folder) -> None:
    backend = loaded(folder, identity([1, 4], [1, 4]))
    assert described(backend) == (["x: float32[1, 4]"], ["y: float32[1, 4]"], False)
    assert backend.describe()["batching"] == "off: the first axis of input 'x' [1, 4] is fixed"


def test_a_scalar_a_row_has_no_dims(folder: Folder) -> None:
    assert described(loaded(folder, identity(["N"], ["N"]))) == (["x: float32[rows]"], ["y: float32[rows]"], True)


def test_a_scalar_without_an_axis_has_no_rows(folder: Folder) -> None:
    assert described(loaded(folder, identity([], []))) == (["x: float32[]"], ["y: float32[]"], False)


def test_free_inner_dims_keep_their_names_and_unnamed_ones_get_one(folder: Folder) -> None:
    inputs, outputs, _ = described(loaded(folder, identity(["N", "T", None, None], ["N", "T", None, None])))
    assert inputs == ["x: float32[rows, T, dim_0, dim_1]"]
    assert outputs == ["y: float32[rows, T, dim_2, dim_3]"]


def test_an_output_that_reduces_the_rows_away_turns_batching_off(folder: Folder) -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)
    backend = loaded(folder, model([node], [tensor("x", ["N", 4])], [tensor("y", [])]))
    assert described(backend) == (["x: float32[N, 4]"], ["y: float32[]"], False)


def test_an_output_of_unknown_rank_is_found_by_running_the_model(folder: Folder) -> None:
    backend = loaded(folder, model([helper.make_node("Expand", ["x", "s"], ["y"])],
                                   [tensor("x", ["N", 4])], [tensor("y", None)],
                                   constants=[helper.make_tensor("s", TensorProto.INT64, [3], [1, 1, 1])]))  # fmt: skip
    assert backend.signature.rows_axis is False  # [N, 4] became [1, N, 4]
    assert described(backend)[1] == ["y: float32[1, N, 4]"]


def test_an_output_with_a_first_axis_of_its_own_is_not_taken_for_rows(folder: Folder) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["places"]), helper.make_node("Transpose", ["places"], ["found"])]
    backend = loaded(folder, model(nodes, [tensor("x", ["N", 4])], [tensor("found", ["n_found", 2], "int64")]))
    assert backend.signature.rows_axis is False
    assert "found" in backend.describe()["batching"]
    assert backend.run([np.ones((1, 4), np.float32)])[0].shape == (4, 2)


def test_an_output_whose_first_axis_has_another_name_but_follows_the_rows_keeps_them(folder: Folder) -> None:
    assert described(loaded(folder, identity(["N", 4], ["output_dim_0", 4])))[2] is True


def test_when_no_trial_can_tell_whether_rows_are_kept_they_are_not_batched_unless_the_manifest_says_so(
    folder: Folder,
) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [5, 2], [1.0] * 10)  # K is free in the file, but must be 5
    graph = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor("x", ["N", "K"])], [tensor("y", ["M", 2])],
                  constants=[weight])  # fmt: skip
    assert loaded(folder, graph).signature.rows_axis is False
    said = {"inputs": [{"name": "x", "shape": ["rows", "K"]}]}
    assert described(loaded(folder, graph, said)) == (["x: float32[rows, K]"], ["y: float32[rows, 2]"], True)


@pytest.mark.parametrize("unknown", ["?", "unk__7", "", "None", "floor(h/2) + 1"])
def test_a_size_without_a_real_name_is_one_of_its_own_each_time(folder: Folder, unknown: str) -> None:
    graph = identity(["N", 3, unknown, unknown], ["N", 3, unknown, unknown])
    assert described(loaded(folder, graph))[0] == ["x: float32[rows, 3, dim_0, dim_1]"]


def test_the_first_axis_of_several_inputs_counts_rows_under_names_that_are_made_up(folder: Folder) -> None:
    graph = model([helper.make_node("Add", ["a", "b"], ["y"])], [tensor("a", ["unk__1", 4]), tensor("b", ["unk__2", 4])],
                  [tensor("y", ["unk__3", 4])])  # fmt: skip
    assert described(loaded(folder, graph)) == (["a: float32[rows, 4]", "b: float32[rows, 4]"], ["y: float32[rows, 4]"], True)


ROWS_TO_COLUMN = [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)]


def test_an_output_that_the_file_fixes_although_it_follows_the_rows_is_found_by_running(folder: Folder) -> None:
    """As onnxmltools writes the label of LightGBM."""
    graph = model(ROWS_TO_COLUMN, [tensor("x", [None, 4])], [tensor("y", [1])], opset=17)
    assert described(loaded(folder, graph)) == (["x: float32[rows, 4]"], ["y: float32[rows]"], True)


def turned(shape_in: Shape, shape_out: Shape) -> bytes:
    """Gives [c, a, b] of [a, b, c] by a way that no shape inference follows, so that the runtime believes the file."""
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]), helper.make_node("Shape", ["t"], ["s"]),
             helper.make_node("NonZero", ["s"], ["all"]), helper.make_node("Squeeze", ["all"], ["flat"]),
             helper.make_node("Gather", ["s", "flat"], ["same"]), helper.make_node("Reshape", ["t", "same"], ["y"])]  # fmt: skip
    return model(nodes, [tensor("x", shape_in)], [tensor("y", shape_out)])


def test_an_output_of_another_rank_than_declared_is_found_by_running(folder: Folder) -> None:
    """As ddddocr's: declared [1, seqlen], given [width / 8, 1, characters]."""
    graph = turned([1, 5, "width"], [1, "seqlen"])
    backend = loaded(folder, graph)
    assert described(backend)[1] == ["y: float32[width, 1, 5]"]
    assert backend.run([np.ones((1, 5, 7), np.float32)])[0].shape == (7, 1, 5)


def test_a_free_output_that_two_runs_give_alike_stays_free(folder: Folder) -> None:
    """Frames of 512 samples: 64 and 96 samples are one frame, a second is 32."""
    nodes = [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[512], strides=[512], ceil_mode=1, auto_pad="SAME_UPPER")]
    graph = model(nodes, [tensor("x", [1, 1, "samples"])], [tensor("y", [1, 1, "frames"])])
    assert described(loaded(folder, graph))[1] == ["y: float32[1, 1, frames]"]


def test_a_model_of_one_item_whose_batch_axis_is_called_free_is_not_batched(folder: Folder) -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [1, -1])
    nodes = [helper.make_node("Reshape", ["x", "s"], ["flat"]), helper.make_node("Concat", ["x", "flat"], ["y"], axis=0)]
    backend = loaded(folder, model(nodes, [tensor("x", ["batch", 4])], [tensor("y", [2, 4])], constants=[shape]))
    assert backend.signature.rows_axis is False


def test_pairs_of_rows_are_not_rows(folder: Folder) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    assert loaded(folder, model(nodes, [tensor("x", ["N", 4])], [tensor("y", ["N", "N"])])).signature.rows_axis is False


def test_inputs_whose_first_axes_have_different_names_are_not_batched(folder: Folder) -> None:
    graph = model([helper.make_node("MatMul", ["a", "b"], ["y"])], [tensor("a", ["N", "K"]), tensor("b", ["K", "M"])],
                  [tensor("y", ["N", "M"])])  # fmt: skip
    assert described(loaded(folder, graph)) == (["a: float32[N, K]", "b: float32[K, M]"], ["y: float32[N, M]"], False)


# Running --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", sorted(set(TYPES) - {"string", "bfloat16"}))
def test_every_plain_dtype_passes_through_unchanged(folder: Folder, dtype: str) -> None:
    backend = loaded(folder, identity(["N", 2], ["N", 2], dtype))
    x = np.array([[0, 1], [1, 0]]).astype(dtype)
    (y,) = backend.run([x])
    assert y.dtype == x.dtype
    assert np.array_equal(x, y)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bool", "int8", "uint8", "int64", "uint64"])
def test_a_run_from_and_into_memory_that_is_bound_sees_what_lies_there_each_time(folder: Folder, dtype: str) -> None:
    backend = loaded(folder, identity(["N", 3], ["N", 3], dtype))
    assert isinstance(backend, OnnxOnHost)
    x, y = np.zeros((1, 3), dtype), np.ones((1, 3), dtype)
    bound = backend.bind([x], [y])
    assert bound is not None
    for values in ([1, 0, 1], [0, 1, 1]):
        x[:] = values
        bound.run()
        assert y.tolist() == x.tolist() == np.array([values], dtype).tolist()


def once(bound: BoundRun) -> None:
    """As a row runner does it."""
    try:
        bound.run()
    except Exception as e:
        raise bound.failed(e) from e


def test_the_private_calls_of_the_runtime_that_save_time_are_there_and_used(folder: Folder) -> None:
    """A version that renames them is served by the public ones, which take far longer: nobody else would notice."""
    backend = loaded(folder, identity(["N", 3], ["N", 3]))
    assert isinstance(backend, OnnxOnHost)
    inner = backend._session._sess
    bare = inspect.getclosurevars(backend._run).nonlocals["bare"]
    assert bare.__self__ is inner, "InferenceSession._sess.run is what batches run by"
    bound = backend.bind([np.zeros((1, 3), np.float32)], [np.zeros((1, 3), np.float32)])
    assert bound is not None and isinstance(bound.run, partial)
    assert bound.run.func.__self__ is inner, "InferenceSession._sess.run_with_iobinding is what rows run by"
    assert type(bound.run.args[0]) is type(backend._session.io_binding()._iobinding), "and IOBinding._iobinding what they bind"


@pytest.mark.parametrize("dtype", ["bfloat16", "string"])
def test_types_that_numpy_has_not_are_not_bound(folder: Folder, dtype: str) -> None:
    backend = loaded(folder, identity(["N", 3], ["N", 3], dtype))
    assert isinstance(backend, OnnxOnHost)
    assert backend.bind([np.zeros((1, 3), np.uint16)], [np.zeros((1, 3), np.uint16)]) is None


def test_what_fails_in_a_bound_run_is_a_model_error_and_leaves_it_usable(folder: Folder) -> None:
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    table = helper.make_tensor("table", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    backend = loaded(folder, model([node], [tensor("x", ["N", 2], "int64")], [tensor("y", ["N", 2])], constants=[table]))
    assert isinstance(backend, OnnxOnHost)
    x, y = np.array([[7, 0]]), np.zeros((1, 2), np.float32)
    bound = backend.bind([x], [y])
    assert bound is not None
    with pytest.raises(ModelFailed, match="onnxruntime:"):
        once(bound)
    x[:] = [[2, 0]]
    once(bound)
    assert y.tolist() == [[3.0, 1.0]]


def test_an_output_of_another_size_than_its_memory_is_a_model_error(folder: Folder) -> None:
    backend = loaded(folder, identity(["N", 3], ["N", 3]))
    assert isinstance(backend, OnnxOnHost)
    bound = backend.bind([np.zeros((1, 3), np.float32)], [np.zeros((1, 2), np.float32)])
    assert bound is not None
    with pytest.raises(ModelFailed):
        once(bound)


def test_strings_are_object_arrays_of_str(folder: Folder) -> None:
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="UPPER", is_case_sensitive=1,
                            locale="C")  # fmt: skip
    backend = loaded(folder, model([node], [tensor("x", ["N"], "string")], [tensor("y", ["N"], "string")]))
    (y,) = backend.run([np.array(["ab", ""], dtype=object)])
    assert (y.dtype, y.tolist()) == (np.dtype(object), ["AB", ""])


def test_bfloat16_travels_as_bit_patterns_beside_other_dtypes(folder: Folder) -> None:
    nodes = [helper.make_node("Cast", ["a"], ["wide"], to=TensorProto.FLOAT),
             helper.make_node("Cast", ["b"], ["narrow"], to=TensorProto.BFLOAT16)]  # fmt: skip
    backend = loaded(folder, model(nodes, [tensor("a", ["N", 2], "bfloat16"), tensor("b", ["N"])],
                                   [tensor("wide", ["N", 2]), tensor("narrow", ["N"], "bfloat16")]))  # fmt: skip
    one, two, four = 0x3F80, 0x4000, 0x4080
    columns = np.array([[one, 0], [two, 0]], np.uint16).T  # not contiguous, as a slice of a batch may be
    wide, narrow = backend.run([columns, np.array([1, 4], np.float32)])
    assert wide.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert (narrow.dtype, narrow.tolist()) == (np.dtype(np.uint16), [one, four])


def test_several_inputs_and_outputs_keep_the_order_of_the_signature(folder: Folder) -> None:
    nodes = [helper.make_node("Sub", ["a", "b"], ["less"]), helper.make_node("Add", ["a", "b"], ["more"])]
    graph = model(nodes, [tensor("a", ["N"]), tensor("b", ["N"])], [tensor("less", ["N"]), tensor("more", ["N"])])
    five, two = np.array([5], np.float32), np.array([2], np.float32)
    assert [y.item() for y in loaded(folder, graph).run([five, two])] == [3, 7]
    said = {"inputs": [{"name": "b", "shape": ["rows"]}, {"name": "a", "shape": ["rows"]}],
            "outputs": [{"name": "more", "shape": ["rows"]}]}  # fmt: skip
    assert [y.item() for y in loaded(folder, graph, said).run([two, five])] == [7]


def test_an_input_the_model_refuses_is_a_model_error_in_one_line(folder: Folder) -> None:
    backend = loaded(folder, identity(["N", 4], ["N", 4]))
    with pytest.raises(ModelFailed, match=r"^onnxruntime: Got invalid dimensions for input: x .* Got: 5") as e:
        backend.run([np.zeros((1, 5), np.float32)])
    assert "\n" not in e.value.message


def test_a_failure_inside_the_model_is_a_model_error_and_leaves_it_usable(folder: Folder) -> None:
    node = helper.make_node("Gather", ["t", "x"], ["y"])
    table = helper.make_tensor("t", TensorProto.FLOAT, [2], [10.0, 20.0])
    backend = loaded(folder, model([node], [tensor("x", ["N"], "int64")], [tensor("y", ["N"])], constants=[table]))
    with pytest.raises(ModelFailed, match="out of data bounds"):
        backend.run([np.array([99])])
    assert backend.run([np.array([1])])[0].tolist() == [20.0]


def test_its_errors_write_nothing_beside_the_log(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    backend = loaded(folder, identity(["N", 4], ["N", 4]))
    with pytest.raises(ModelFailed):
        backend.run([np.zeros((1, 5), np.float32)])
    assert capfd.readouterr() == ("", "")


def test_the_manifest_decides_on_threads(folder: Folder) -> None:
    assert loaded(folder, identity(["N"], ["N"])).describe()["threads"] == 1
    assert loaded(folder, identity(["N"], ["N"]), {"threads": 2}).describe()["threads"] == 2


# The manifest against the file ----------------------------------------------------------------------------------------


def test_what_only_the_owner_knows_comes_from_the_manifest(folder: Folder) -> None:
    said = {"inputs": [{"name": "x", "shape": ["rows", "words"], "allow_nan": True, "pad": 0}]}
    signature = loaded(folder, identity(["N", "T"], ["N", "T"]), said).signature
    assert (signature.inputs[0].allow_nan, signature.inputs[0].pad) == (True, 0.0)
    assert signature.outputs[0].dims == ("words",)  # outputs follow the names given to the inputs


def test_what_an_entry_leaves_out_is_read_from_the_file(folder: Folder) -> None:
    said = {"inputs": [{"name": "x", "allow_nan": True}], "outputs": [{"name": "y", "allow_nan": True}]}
    backend = loaded(folder, identity(["N", "T"], ["N", "T"], "float16"), said)
    assert described(backend) == (["x: float16[rows, T]"], ["y: float16[rows, T]"], True)
    assert backend.signature.inputs[0].allow_nan and backend.signature.outputs[0].allow_nan


def test_a_padding_value_alone_takes_its_dtype_from_the_file_and_must_be_one_of_it(folder: Folder) -> None:
    graph = identity(["N", "T"], ["N", "T"], "uint8")
    assert loaded(folder, graph, {"inputs": [{"name": "x", "pad": 255}]}).signature.inputs[0].pad == 255
    with pytest.raises(BadModel, match=r"inputs\[0\].pad = 256 is not a value of uint8, which it is in model.onnx"):
        loaded(folder, graph, {"inputs": [{"name": "x", "pad": 256}]})


def test_a_size_said_of_one_entry_holds_for_the_others_that_leave_it_to_the_file(folder: Folder) -> None:
    nodes = [helper.make_node("Neg", ["b"], ["y"]), helper.make_node("Neg", ["a"], ["z"])]
    graph = model(nodes, [tensor("a", ["N", "T"]), tensor("b", ["N", "T"])], [tensor("y", None), tensor("z", ["N", "T"])])
    said = {"inputs": [{"name": "b", "shape": ["rows", 8]}, {"name": "a"}], "outputs": [{"name": "y", "allow_nan": True}]}
    backend = loaded(folder, graph, said)
    assert described(backend) == (["b: float32[rows, 8]", "a: float32[rows, 8]"], ["y: float32[rows, 8]"], True)


def test_an_output_left_to_the_file_that_does_not_keep_rows_turns_batching_off(folder: Folder) -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)
    backend = loaded(folder, model([node], [tensor("x", ["N", 4])], [tensor("y", [])]), {"outputs": [{"name": "y"}]})
    assert described(backend) == (["x: float32[N, 4]"], ["y: float32[]"], False)


def test_strings_beside_bfloat16_are_refused_in_words(folder: Folder) -> None:
    nodes = [helper.make_node("Identity", ["a"], ["y"]), helper.make_node("Identity", ["s"], ["z"])]
    graph = model(nodes, [tensor("a", ["N"], "bfloat16"), tensor("s", ["N"], "string")],
                  [tensor("y", ["N"], "bfloat16"), tensor("z", ["N"], "string")])  # fmt: skip
    with pytest.raises(BadModel, match=r"'a' is bfloat16 and the input 's' holds strings, .*: let the model cast"):
        loaded(folder, graph)


def test_the_manifest_may_narrow_a_free_dim(folder: Folder) -> None:
    said = {"inputs": [{"name": "x", "shape": ["rows", 16]}]}
    assert described(loaded(folder, identity(["N", "T"], ["N", "T"]), said))[1] == ["y: float32[rows, 16]"]


def test_the_manifest_may_take_the_rows_axis_away(folder: Folder) -> None:
    said = {"inputs": [{"name": "x", "shape": ["points", 3]}]}
    assert described(loaded(folder, identity(["N", 3], ["N", 3]), said)) == (
        ["x: float32[points, 3]"], ["y: float32[points, 3]"], False)  # fmt: skip


CONTRADICTIONS: list[tuple[Mapping[str, Any], str]] = [
    ({"name": "z", "shape": ["rows", 4]}, r"inputs\[0\].name = 'z' is not in model.onnx; it has x"),
    ({"name": "x", "shape": ["rows", 4], "dtype": "int64"}, r"inputs\[0\].dtype is int64, but 'x' in .* is float32"),
    ({"name": "x", "shape": ["rows", 5]}, r"inputs\[0\].shape\[1\]: the size is 5, but .* fixes it: 'x' \[N, 4\]"),
    ({"name": "x", "shape": ["rows", "T"]}, r"inputs\[0\].shape\[1\]: 'T' is free, but .* fixes it: 'x' \[N, 4\]"),
    ({"name": "x", "shape": ["rows", 4, 1]}, r"inputs\[0\].shape has 3 dimensions, but .* has 'x' \[N, 4\]"),
]


@pytest.mark.parametrize(("said", "message"), CONTRADICTIONS)
def test_a_manifest_that_contradicts_the_file_is_refused_by_key(folder: Folder, said: Mapping[str, Any], message: str) -> None:
    with pytest.raises(BadModel, match=message):
        loaded(folder, identity(["N", 4], ["N", 4]), {"inputs": [said]})


def test_the_manifest_overrules_what_the_file_says_of_an_output_where_a_run_agrees(folder: Folder) -> None:
    graph = turned([1, 5, 8], [1, 40])
    assert described(loaded(folder, graph, {"outputs": [{"name": "y", "shape": ["t", 1, 5]}]}))[1] == ["y: float32[t, 1, 5]"]
    with pytest.raises(
        BadModel, match=r"outputs\[0\].shape\[1\]: the size is 7.* 'y' \[1, 40\]; and the model gives 'y' \[8, 1, 5\]"
    ):
        loaded(folder, graph, {"outputs": [{"name": "y", "shape": [1, 7]}]})


def test_the_manifest_may_say_that_a_fixed_output_counts_rows_where_a_run_agrees(folder: Folder) -> None:
    graph = model(ROWS_TO_COLUMN, [tensor("x", [None, 4])], [tensor("y", [1])], opset=17)
    assert described(loaded(folder, graph, {"outputs": [{"name": "y", "shape": ["rows"]}]}))[1] == ["y: float32[rows]"]


def test_rows_in_the_manifest_need_a_free_first_axis_in_the_file(folder: Folder) -> None:
    with pytest.raises(BadModel, match=r"inputs\[0\].shape\[0\]: 'rows' is free, but .* 'x' \[1, 4\]; export it with"):
        loaded(folder, identity([1, 4], [1, 4]), {"inputs": [{"name": "x", "shape": ["rows", 4]}]})
    with pytest.raises(BadModel, match=r"outputs\[0\].shape says 'rows', but the first axis of input 'x' \[1, 4\]"):
        loaded(folder, identity([1, 4], [None, 4]), {"outputs": [{"name": "y", "shape": ["rows", 4]}]})


def test_rows_in_the_manifest_need_outputs_that_keep_them(folder: Folder) -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)
    graph = model([node], [tensor("x", ["N", 4])], [tensor("y", [])])
    with pytest.raises(BadModel, match=r"output 'y' .* does not keep one row for each row of input"):
        loaded(folder, graph, {"inputs": [{"name": "x", "shape": ["rows", 4]}]})


def test_an_undeclared_input_is_refused(folder: Folder) -> None:
    graph = model([helper.make_node("Add", ["a", "b"], ["y"])], [tensor("a", ["N"]), tensor("b", ["N"])],
                  [tensor("y", ["N"])])  # fmt: skip
    with pytest.raises(BadModel, match=r"\[\[inputs\]\] leave out 'b', which model.onnx needs"):
        loaded(folder, graph, {"inputs": [{"name": "a", "shape": ["rows"]}]})


# Files that cannot be served ------------------------------------------------------------------------------------------

WHOLE = identity(["N", 4], ["N", 4])
WRONG_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "cut short": (WHOLE[:-10], "cut short: compare its size"),
    "noise": (b"\xff" * 64, "not an ONNX file or it is cut short"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "an error page": (b"<html>403</html>", "HTML or XML text"),
    "a pickle": (b"\x80\x04\x95\x00", "a Python pickle"),
    "opset too new": (identity(["N"], ["N"], opset=99), "lower opset"),
    "IR too new": (identity(["N"], ["N"], ir=99), "IR version: 99.*lower opset"),
    "an unknown operator": (
        model([helper.make_node("Nonsense", ["x"], ["y"])], [tensor("x", ["N"])], [tensor("y", ["N"])]),
        "operators that onnxruntime alone does not have",
    ),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_file_that_cannot_be_served_is_refused_in_one_line(folder: Folder, case: str) -> None:
    content, message = WRONG_FILES[case]
    with pytest.raises(BadModel, match=message) as e:
        loaded(folder, content)
    assert "\n" not in e.value.message
    assert "onnxruntime_src" not in e.value.message


def test_a_missing_file_is_named(folder: Folder) -> None:
    path = folder.put("model.onnx", WHOLE)
    manifest = folder.manifest()
    path.unlink()
    with pytest.raises(BadModel, match=r"model.onnx: cannot be read: No such file"):
        load(manifest, ONE)


def test_missing_external_weights_are_explained(folder: Folder) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4], bytes(16), raw=True)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")
    graph = model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor("x", ["N", 4])], [tensor("y", ["N", 4])],
                  constants=[weights])  # fmt: skip
    with pytest.raises(BadModel, match="needs all of them in the model folder"):
        loaded(folder, graph)


def classifier(classes: Mapping[str, Any], key: int, give: str = "ZipMap") -> bytes:
    """As converters write them: a label, and a map from classes to scores for each row."""
    nodes = [helper.make_node(give, ["x"], ["y"], domain="ai.onnx.ml", **classes),
             helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0)]  # fmt: skip
    scores = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    maps = helper.make_value_info("y", helper.make_sequence_type_proto(scores))
    return model(nodes, [tensor("x", ["N", 2])], [tensor("label", ["N"], "int64"), maps])


@pytest.mark.parametrize(
    ("classes", "key", "names"),
    [({"classlabels_int64s": [3, 7]}, TensorProto.INT64, ("3", "7")),
     ({"classlabels_strings": ["clerk", "baker"]}, TensorProto.STRING, ("clerk", "baker"))],
)  # fmt: skip
def test_maps_of_a_classifier_are_columns_with_keys_and_batched(
    folder: Folder, classes: Mapping[str, Any], key: int, names: tuple[str, ...]
) -> None:
    backend = loaded(folder, classifier(classes, key))
    assert described(backend) == (["x: float32[rows, 2]"], ["label: int64[rows]", "y: float32[rows, 2]"], True)
    keys = backend.signature.outputs[1].keys
    assert sorted(keys) == sorted(names)
    label, scores = backend.run([np.array([[0, 1], [2, 0.5], [0, 0]], np.float32)])
    assert label.tolist() == [1, 0, 0]
    assert [dict(zip(keys, row, strict=True)) for row in scores.tolist()] == [
        dict(zip(names, row, strict=True)) for row in ([0, 1], [2, 0.5], [0, 0])]  # fmt: skip
    assert backend.bind([np.zeros((1, 2), np.float32)], [np.zeros(1, np.int64), np.zeros((1, 2), np.float32)]) is None  # type: ignore[attr-defined]


def test_a_classifier_may_give_its_label_alone(folder: Folder) -> None:
    only_label = {"outputs": [{"name": "label", "dtype": "int64", "shape": ["rows"]}]}
    graph = classifier({"classlabels_int64s": [0, 1]}, TensorProto.INT64)
    assert loaded(folder, graph, only_label).run([np.array([[0, 1]], np.float32)])[0].tolist() == [1]


def test_a_sequence_that_is_no_map_of_classes_is_refused_in_words(folder: Folder) -> None:
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["y"])]
    many = helper.make_value_info(
        "y", helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 2]))
    )
    with pytest.raises(BadModel, match=r"'y' has type seq\(tensor\(float\)\): only plain tensors"):
        loaded(folder, model(nodes, [tensor("x", ["N", 2])], [many]))


def test_a_dtype_that_cannot_travel_is_refused(folder: Folder) -> None:
    graph = model([helper.make_node("Identity", ["x"], ["y"])],
                  [helper.make_tensor_value_info("x", TensorProto.FLOAT8E4M3FN, ["N"])],
                  [helper.make_tensor_value_info("y", TensorProto.FLOAT8E4M3FN, ["N"])])  # fmt: skip
    with pytest.raises(BadModel, match=r"'x' has type tensor\(float8e4m3fn\)"):
        loaded(folder, graph)
