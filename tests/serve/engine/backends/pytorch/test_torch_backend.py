from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_folder import Folder

from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.errors import BadModel, ModelFailed

torch = pytest.importorskip("torch")

from evenkeel.serve.engine.backends.pytorch.torch_backend import PytorchBackend  # noqa: E402
from evenkeel.serve.engine.backends.pytorch.torch_load import load  # noqa: E402

ONE = LoadOptions(threads=1)
Dim, AUTO = torch.export.Dim, torch.export.Dim.AUTO


class Scores(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: Any, mask: Any) -> dict[str, Any]:
        return {"scores": (x * mask).sum(-1), "same": x}


class Sum(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return x.sum()


class Doubled(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> tuple[Any, Any]:
        return x * 2, x.to(torch.int64)


class Half(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> tuple[Any, Any]:
        return x.to(torch.bfloat16), x.to(torch.float32)


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .pt2 files of all tests: an export takes seconds."""
    at = tmp_path_factory.mktemp("pt2")
    rows = Dim("batch", min=1, max=8)
    x, mask = torch.zeros(3, 5), torch.ones(3, 5)
    programs: dict[str, tuple[Any, tuple[Any, ...], Any]] = {
        "scores": (Scores(), (x, mask), {"x": {0: rows, 1: AUTO}, "mask": {0: rows, 1: AUTO}}),
        "sum": (Sum(), (x,), {"x": {0: AUTO}}),
        "fixed": (Doubled(), (torch.zeros(1, 3),), None),
        "doubled": (Doubled(), (x,), {"x": {0: AUTO}}),
        "half": (Half(), (torch.zeros(3, 2, dtype=torch.bfloat16),), {"x": {0: AUTO}}),
    }
    for name, (module, args, shapes) in programs.items():
        torch.export.save(torch.export.export(module.eval(), args, dynamic_shapes=shapes), at / f"{name}.pt2")
    return at


def exported(folder: Folder, archives: Path, name: str, data: Mapping[str, Any] | None = None) -> PytorchBackend:
    folder.put("model.pt2", (archives / f"{name}.pt2").read_bytes())
    return load(folder.manifest(data), ONE)


def scripted(folder: Folder, module: Any, data: Mapping[str, Any] | None = None) -> PytorchBackend:
    torch.jit.script(module.eval()).save(str(folder.path / "model.pt"))
    return load(folder.manifest(data), ONE)


def described(backend: PytorchBackend) -> tuple[list[str], list[str], bool]:
    s = backend.signature
    return [i.describe(s.rows_axis) for i in s.inputs], [o.describe(s.rows_axis) for o in s.outputs], s.rows_axis


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


# torch.export ---------------------------------------------------------------------------------------------------------


def test_an_export_says_its_names_its_free_dims_and_its_rows(folder: Folder, archives: Path) -> None:
    backend = exported(folder, archives, "scores")
    inputs, outputs, rows_axis = described(backend)
    width = backend.signature.inputs[0].dims[0]
    assert isinstance(width, str)
    assert inputs == [f"x: float32[rows, {width}]", f"mask: float32[rows, {width}]"]
    assert (outputs, rows_axis) == (["scores: float32[rows]", f"same: float32[rows, {width}]"], True)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    scores, same = backend.run([x, np.ones_like(x)])
    assert (scores.tolist(), same.tolist()) == ([3.0, 12.0], x.tolist())


def test_the_outputs_of_a_tuple_are_numbered_or_named_by_the_manifest(folder: Folder, archives: Path) -> None:
    assert described(exported(folder, archives, "doubled"))[1] == [
        "output_0: float32[rows, 5]", "output_1: int64[rows, 5]"]  # fmt: skip
    said = {"outputs": [{"name": "twice", "shape": ["rows", 5]},
                        {"name": "whole", "dtype": "int64", "shape": ["rows", 5]}]}  # fmt: skip
    assert [o.name for o in exported(folder, archives, "doubled", said).signature.outputs] == ["twice", "whole"]


def test_one_output_of_several_may_be_chosen(folder: Folder, archives: Path) -> None:
    said = {"outputs": [{"name": "output_1", "dtype": "int64", "shape": ["rows", 5]}]}
    (whole,) = exported(folder, archives, "doubled", said).run([zeros(2, 5) + 3])
    assert whole.tolist() == [[3] * 5] * 2


def test_a_fixed_first_axis_makes_a_request_one_item(folder: Folder, archives: Path) -> None:
    assert described(exported(folder, archives, "fixed")) == (
        ["x: float32[1, 3]"], ["output_0: float32[1, 3]", "output_1: int64[1, 3]"], False)  # fmt: skip


def test_rows_in_the_manifest_need_a_free_first_axis_in_the_export(folder: Folder, archives: Path) -> None:
    with pytest.raises(BadModel, match=r"inputs\[0\].shape\[0\]: 'rows' is free, but model.pt2 fixes it"):
        exported(folder, archives, "fixed", {"inputs": [{"name": "x", "shape": ["rows", 3]}]})


def test_an_output_that_sums_the_rows_away_turns_batching_off(folder: Folder, archives: Path) -> None:
    backend = exported(folder, archives, "sum")
    assert backend.signature.rows_axis is False
    assert backend.run([zeros(2, 5) + 1])[0].item() == 10.0


def test_more_rows_than_the_export_allows_run_in_parts(folder: Folder, archives: Path) -> None:
    x = np.random.default_rng(0).random((20, 3), dtype=np.float32)  # the export allows 8
    scores, same = exported(folder, archives, "scores").run([x, np.ones_like(x)])
    assert np.allclose(scores, x.sum(-1))
    assert np.array_equal(same, x)


def test_bfloat16_travels_as_bit_patterns(folder: Folder, archives: Path) -> None:
    backend = exported(folder, archives, "half")
    assert backend.signature.inputs[0].dtype == "bfloat16"
    one, two = 0x3F80, 0x4000
    bits, wide = backend.run([np.array([[one, two]], np.uint16)])
    assert (bits.dtype, bits.tolist(), wide.tolist()) == (np.dtype(np.uint16), [[one, two]], [[1.0, 2.0]])


def test_a_guard_of_the_export_is_a_model_error_in_one_line(folder: Folder, archives: Path) -> None:
    with pytest.raises(ModelFailed, match=r"^torch: Guard failed: ") as e:
        exported(folder, archives, "doubled").run([zeros(2, 6)])
    assert "\n" not in e.value.message


def test_a_read_only_input_is_taken_without_a_warning(folder: Folder, archives: Path, recwarn: Any) -> None:
    x = zeros(1, 5)
    x.flags.writeable = False
    exported(folder, archives, "doubled").run([x])
    assert [str(w.message) for w in recwarn if "writable" in str(w.message)] == []


def test_the_manifest_decides_on_threads(folder: Folder, archives: Path) -> None:
    assert exported(folder, archives, "doubled").describe()["threads"] == 1
    assert exported(folder, archives, "doubled", {"threads": 2}).describe()["threads"] == 2


# TorchScript ----------------------------------------------------------------------------------------------------------


class Linear(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class ScriptDict(torch.nn.Module):  # type: ignore[misc]
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"joined": torch.cat([a, b], dim=1), "long": a.sum(-1).to(torch.int64)}


class ScriptPool(torch.nn.Module):  # type: ignore[misc]
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pictures, 2)


class ScriptSum(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


class ScriptText(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> str:
        return "text"


ROW_OF_4 = {"inputs": [{"name": "x", "shape": ["rows", 4]}]}


def test_torchscript_needs_its_inputs_in_the_manifest(folder: Folder) -> None:
    with pytest.raises(BadModel, match=r'does not say the shapes .* \[\[inputs\]\] name = "x"'):
        scripted(folder, Linear())


def test_the_outputs_of_torchscript_are_learnt_by_running_it(folder: Folder) -> None:
    backend = scripted(folder, Linear(), ROW_OF_4)
    assert described(backend) == (["x: float32[rows, 4]"], ["output_0: float32[rows, 2]"], True)
    assert backend.run([zeros(3, 4)])[0].shape == (3, 2)


def test_free_dims_are_followed_into_the_outputs(folder: Folder) -> None:
    said = {"inputs": [{"name": "pictures", "shape": ["rows", 3, "high", "wide"]}]}
    assert described(scripted(folder, ScriptPool(), said))[1] == ["output_0: float32[rows, 3, dim_0, dim_1]"]
    said = {"inputs": [{"name": "a", "shape": ["rows", "n"]}, {"name": "b", "shape": ["rows", 2]}]}
    assert described(scripted(folder, ScriptDict(), said))[1] == ["joined: float32[rows, dim_0]", "long: int64[rows]"]


def test_inputs_are_passed_by_the_names_of_the_arguments(folder: Folder) -> None:
    said = {"inputs": [{"name": "b", "shape": ["rows", 1]}, {"name": "a", "shape": ["rows", 1]}]}
    joined, _ = scripted(folder, ScriptDict(), said).run([zeros(1, 1) + 2, zeros(1, 1) + 1])
    assert joined.tolist() == [[1.0, 2.0]]


def test_a_name_that_is_no_argument_is_refused(folder: Folder) -> None:
    said = {"inputs": [{"name": "a", "shape": ["rows", 1]}, {"name": "c", "shape": ["rows", 1]}]}
    with pytest.raises(BadModel, match=r"'c' is no argument of model.pt, which takes a, b"):
        scripted(folder, ScriptDict(), said)
    with pytest.raises(BadModel, match=r"\[\[inputs\]\] has 1 entries, but model.pt takes a, b"):
        scripted(folder, ScriptDict(), {"inputs": [{"name": "a", "shape": ["rows", 1]}]})


def test_rows_that_torchscript_sums_away_are_refused(folder: Folder) -> None:
    with pytest.raises(BadModel, match="does not keep one row for each row of input"):
        scripted(folder, ScriptSum(), ROW_OF_4)
    assert scripted(folder, ScriptSum(), {"inputs": [{"name": "x", "shape": [2, 2]}]}).signature.rows_axis is False


def test_inputs_that_do_not_fit_torchscript_fail_at_load(folder: Folder) -> None:
    with pytest.raises(BadModel, match=r"trial run on zeros of shapes \[2, 5\] failed: RuntimeError: mat1 and mat2"):
        scripted(folder, Linear(), {"inputs": [{"name": "x", "shape": ["rows", 5]}]})


def test_declared_outputs_spare_the_trial(folder: Folder) -> None:
    said = {**ROW_OF_4, "outputs": [{"name": "y", "shape": ["rows", 2]}]}
    assert described(scripted(folder, Linear(), said))[1] == ["y: float32[rows, 2]"]


def test_more_outputs_declared_than_given_is_a_model_error(folder: Folder) -> None:
    outputs = [{"name": name, "dtype": "float32", "shape": ["rows", 2]} for name in "yz"]
    said = {**ROW_OF_4, "outputs": outputs}
    with pytest.raises(ModelFailed, match="gave 1 outputs where 2 were expected"):
        scripted(folder, Linear(), said).run([zeros(1, 4)])


def test_what_torchscript_leaves_open_must_be_said_or_is_learnt(folder: Folder) -> None:
    with pytest.raises(BadModel, match=r"inputs\[0\].shape is missing: model.pt is TorchScript"):
        scripted(folder, Linear(), {"inputs": [{"name": "x", "allow_nan": True}]})
    backend = scripted(folder, Linear(), {**ROW_OF_4, "outputs": [{"name": "y", "allow_nan": True}]})
    assert described(backend) == (["x: float32[rows, 4]"], ["y: float32[rows, 2]"], True)
    with pytest.raises(BadModel, match=r"outputs\[0\].name = 'y' is not in model.pt; it has output_0"):
        scripted(folder, Linear(), {**ROW_OF_4, "outputs": [{"name": "y"}, {"name": "z"}]})


def test_torchscript_that_gives_no_tensors_is_refused(folder: Folder) -> None:
    with pytest.raises(BadModel, match="must give a tensor, a tuple or list of tensors, or a dict of tensors"):
        scripted(folder, ScriptText(), ROW_OF_4)


# Files that cannot be served ------------------------------------------------------------------------------------------


def test_a_checkpoint_is_sent_to_a_handler(folder: Folder) -> None:
    torch.save(Linear().state_dict(), folder.path / "model.pt")
    with pytest.raises(BadModel, match=r"pickled checkpoint.*code/inference.py.*weights_only=True"):
        load(folder.manifest(), ONE)


def test_a_file_cut_short_is_refused(folder: Folder, archives: Path) -> None:
    folder.put("model.pt2", (archives / "sum.pt2").read_bytes()[:-200])
    with pytest.raises(BadModel, match="a zip archive that is cut short"):
        load(folder.manifest(), ONE)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"),
    (b"\x08\x0a\x12\x00", "neither a torch.export archive nor TorchScript$"),
    (b"version https://git-lfs.github.com/spec/v1\n", "but a Git LFS pointer"),
])  # fmt: skip
def test_another_file_is_refused_by_what_it_is(folder: Folder, content: bytes, message: str) -> None:
    folder.put("model.pt2", content)
    with pytest.raises(BadModel, match=message):
        load(folder.manifest(), ONE)


def test_an_onnx_name_on_a_torch_file_is_seen_through(folder: Folder, archives: Path) -> None:
    onnx = pytest.importorskip("evenkeel.serve.engine.backends.onnx.onnx_load")
    folder.put("model.onnx", (archives / "sum.pt2").read_bytes())
    with pytest.raises(BadModel, match=r"is not an ONNX model but a torch.export archive: backend pytorch"):
        onnx.load(folder.manifest(), ONE)


def test_torch_has_no_strings(folder: Folder) -> None:
    with pytest.raises(BadModel, match=r"inputs\[0\].dtype: torch .* has no string tensors"):
        scripted(folder, Linear(), {"inputs": [{"name": "x", "dtype": "string", "shape": ["rows"]}]})
