"""model.toml, key by key: what is wrong is named, and what is left out is found in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evenkeel.serve.contract import manifest
from evenkeel.serve.contract.manifest import Gpu
from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.errors import BadModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("model.onnx", "x.json", "y.json", "x.dat", "model.bin"):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "z.npy").write_bytes(b"")
    return tmp_path


def load(folder: Path, text: str) -> manifest.Manifest:
    (folder / "model.toml").write_text(text)
    return manifest.load(folder)


IN = '[[inputs]]\nname = "x"\nshape = ["rows", 4]\n'

WRONG: list[tuple[str, str]] = [
    # text of model.toml -> what the one line of the error must name
    ("nmae = 'x'", "nmae"),
    ("name = 3", "name = 3"),
    ("version = 1.0", "version = 1.0"),
    ("backend = 'keras'", "backend = 'keras'"),
    ("backend = ['onnx']", "backend"),
    ("file = 'nothing.onnx'", "file = 'nothing.onnx'"),
    ("file = '/etc/passwd'", "file = '/etc/passwd'"),
    ("file = '../model.onnx'", "file = '../model.onnx'"),
    ("file = 'model.bin'", "file = 'model.bin'"),
    ("file = 7", "file = 7"),
    ("batching = 3", "batching = 3"),
    ("[batching]\nrows = 4", "batching.rows"),
    ("[batching]\nrows_max = 0", "batching.rows_max = 0"),
    ("[batching]\nrows_max = 5000", "batching.rows_max = 5000"),
    ("[batching]\nrows_max = 2.5", "batching.rows_max = 2.5"),
    ("[batching]\nrows_max = true", "batching.rows_max"),
    ("[batching]\nrows_max = '8'", "batching.rows_max"),
    ("[batching]\nslo_ms = 0", "batching.slo_ms = 0"),
    ("[batching]\nslo_ms = -5", "batching.slo_ms = -5"),
    ("[batching]\nslo_ms = nan", "batching.slo_ms = nan"),
    ("[batching]\npad_waste = 0.95", "batching.pad_waste = 0.95"),
    ("[batching]\nenabled = 'no'", "batching.enabled"),
    ("[handler]\nbatched = true", "[handler]"),
    ("threads = 0", "threads = 0"),
    ("[onnx]\nprovider = 'CPU'", "onnx"),
    ("inputs = 'x'", "inputs"),
    ("inputs = ['x']", "inputs"),
    ("[inputs]\nname = 'x'", "inputs"),
    ("[[inputs]]\nshape = [4]", "inputs[0].name"),
    ("[[inputs]]\nname = ''\nshape = [4]", "inputs[0].name"),
    ("backend = 'echo'\n[[inputs]]\nname = 'x'", "inputs[0].shape"),
    ("backend = 'pytorch'\nfile = 'model.onnx'", "backend = 'pytorch', but file = 'model.onnx'"),
    ("[[inputs]]\nname = 'x'\nshape = 4", "inputs[0].shape"),
    ("[[inputs]]\nname = 'x'\nshape = [0]", "inputs[0].shape"),
    ("[[inputs]]\nname = 'x'\nshape = [-1]", "inputs[0].shape"),
    ("[[inputs]]\nname = 'x'\nshape = [1.5]", "inputs[0].shape"),
    ("[[inputs]]\nname = 'x'\nshape = [true]", "inputs[0].shape"),
    ("[[inputs]]\nname = 'x'\nshape = ['']", "inputs[0].shape"),
    ("[[inputs]]\nname = 'x'\nshape = [4, 'rows']", "inputs[0].shape"),
    ("[[inputs]]\nname = 'x'\nshape = [4]\ndtype = 'float'", "inputs[0].dtype = 'float'"),
    ("[[inputs]]\nname = 'x'\nshape = [4]\nallow_nan = 1", "inputs[0].allow_nan"),
    ("[[inputs]]\nname = 'x'\nshape = [4]\npad = 'zero'", "inputs[0].pad"),
    ("[[inputs]]\nname = 'x'\nshape = [4]\npad = nan", "inputs[0].pad"),
    ("[[inputs]]\nname = 'x'\nshape = ['n']\npad = 0\ndtype = 'string'", "inputs[0].pad"),
    ("[[inputs]]\nname = 'x'\nshape = ['n']\npad = inf\ndtype = 'int64'", "inputs[0].pad"),
    ("[[inputs]]\nname = 'x'\nshape = ['n']\npad = 300\ndtype = 'uint8'", "inputs[0].pad"),
    ("[[inputs]]\nname = 'x'\nshape = [4]\nunit = 'm'", "inputs[0].unit"),
    (IN + IN, "[[inputs]]"),
    (IN + '[[inputs]]\nname = "z"\nshape = [4]', "[[inputs]]"),
    (IN + '[[outputs]]\nname = "y"\nshape = [4]', "rows"),
    (IN + '[[outputs]]\nname = "y"\nshape = ["rows", 0]', "outputs[0].shape"),
    ("samples = 'x.json'", "samples"),
    ("[[samples]]\noutput = 'y.json'", "samples[0].input"),
    ("[[samples]]\ninput = 'none.json'", "samples[0].input = 'none.json'"),
    ("[[samples]]\ninput = '../x.json'", "samples[0].input = '../x.json'"),
    ("[[samples]]\ninput = 'sub'", "samples[0].input = 'sub'"),
    ("[[samples]]\ninput = 'x.dat'", "samples[0].content_type"),
    ("[[samples]]\ninput = 'x.json'\noutput = 'none.json'", "samples[0].output = 'none.json'"),
    ("[[samples]]\ninput = 'x.json'\nrtol = -1", "samples[0].rtol = -1"),
    ("[[samples]]\ninput = 'x.json'\natol = nan", "samples[0].atol = nan"),
    ("[[samples]]\ninput = 'x.json'\n\n[[samples]]\ninput = 3", "samples[1].input"),
    ("gpu = 1", "gpu"),
    ("[gpu]\ndtype = 'fp8'", "gpu.dtype = 'fp8'"),
    ("[gpu]\ntensorrt = 1", "gpu.tensorrt"),
    ("[gpu]\nmemory = 1", "gpu.memory"),
    ("[gpu]\nmemory_mb = 0", "gpu.memory_mb = 0 must be between 1 and"),
    ("[gpu]\ndtype = 'bf16'", "gpu.dtype = 'bf16'"),
    ("[gpu]\ndtype = 'fp16'", "or set gpu.tensorrt = true"),
    ("backend = 'echo'\n[gpu]\ndtype = 'tf32'", "[gpu]"),
    ("name = 'x", "TOML"),
    ("name = 'a'\nname = 'b'", "TOML"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "named"), WRONG, ids=[t.replace("\n", " ") for t, _ in WRONG])
def test_a_wrong_key_is_named_in_one_line(folder: Path, text: str, named: str) -> None:
    with pytest.raises(BadModel) as e:
        load(folder, text)
    assert named in e.value.message and "model.toml" in e.value.message and "\n" not in e.value.message


CONTRADICTIONS = [
    ("backend = 'echo'\nfile = 'model.onnx'", "file"),
]


def test_an_unknown_key_is_told_with_the_nearest_where_one_is_near(folder: Path) -> None:
    with pytest.raises(BadModel, match=r"unknown key bachend; did you mean backend\?; known here: backend,"):
        load(folder, "bachend = 'onnx'")
    with pytest.raises(BadModel, match="unknown key xyz; known here"):
        load(folder, "xyz = 1")


@pytest.mark.parametrize(("text", "named"), CONTRADICTIONS, ids=[t.replace("\n", " ") for t, _ in CONTRADICTIONS])
def test_two_keys_that_contradict_each_other_are_refused(folder: Path, text: str, named: str) -> None:
    with pytest.raises(BadModel) as e:
        load(folder, text)
    assert named in e.value.message


def test_what_holds_on_a_gpu_is_read_and_tensorrt_is_for_onnx_alone(folder: Path) -> None:
    assert load(folder, "").gpu == Gpu("", False)
    assert load(folder, "[gpu]\ndtype = 'tf32'").gpu == Gpu("tf32", False)
    assert load(folder, "[gpu]\ndtype = 'fp16'\ntensorrt = true").gpu == Gpu("fp16", True)
    assert load(folder, "[gpu]\nmemory_mb = 2048").gpu == Gpu(memory_mb=2048)
    (folder / "model.pt2").write_bytes(b"")
    assert load(folder, "file = 'model.pt2'\n[gpu]\ndtype = 'bf16'").gpu.dtype == "bf16"
    with pytest.raises(BadModel, match=r"gpu.tensorrt = true makes no sense with backend = 'pytorch'"):
        load(folder, "file = 'model.pt2'\n[gpu]\ntensorrt = true")
    assert load(folder, "file = 'model.pt2'\n[gpu]\ngraphs = true").gpu.graphs
    with pytest.raises(BadModel, match=r"gpu.graphs = true makes no sense with tensorrt = true"):
        load(folder, "[gpu]\ngraphs = true\ntensorrt = true")
    assert load(folder, "[gpu]\ngraphs = true").gpu.graphs


def test_a_manifest_that_is_not_utf8_is_refused(folder: Path) -> None:
    (folder / "model.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(BadModel, match="TOML"):
        manifest.load(folder)


def test_a_manifest_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / "model.toml").mkdir()
    with pytest.raises(BadModel):
        manifest.load(folder)


def test_a_folder_that_does_not_exist_is_named_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="EVENKEEL_MODEL_DIR"):
        manifest.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("files", "backend", "chosen"),
    [
        (["model.onnx"], "onnx", "model.onnx"),
        (["model.pt2"], "pytorch", "model.pt2"),
        (["model.pt"], "pytorch", "model.pt"),
        (["code/inference.py"], "handler", "code/inference.py"),
        (["model.pt", "model.pt2"], "pytorch", "model.pt2"),
        (["model.pt", "code/inference.py"], "handler", "code/inference.py"),
        (["model.onnx", "model.pt"], "onnx", "model.onnx"),
    ],
)
def test_a_bare_folder_is_served_by_what_lies_in_it(tmp_path: Path, files: list[str], backend: str, chosen: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = manifest.load(tmp_path)
    assert (found.backend, found.file, found.name) == (backend, tmp_path / chosen, tmp_path.name)


def test_an_empty_folder_is_told_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"model\.onnx.*model\.pt2"):
        manifest.load(tmp_path)


def test_the_backend_decides_between_files(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.pt"):
        (tmp_path / name).write_bytes(b"")
    assert load(tmp_path, "backend = 'pytorch'").file == tmp_path / "model.pt"


@pytest.mark.parametrize(
    ("name", "backend"), [("net.onnx", "onnx"), ("net.pth", "pytorch"), ("serve.py", "handler"), ("deep/net.pt2", "pytorch")]
)
def test_the_suffix_of_a_named_file_tells_the_backend(tmp_path: Path, name: str, backend: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    assert load(tmp_path, f"file = '{name}'").backend == backend


def test_everything_that_can_be_said_is_understood(folder: Path) -> None:
    found = load(
        folder,
        """
name = "digits"
version = "7"
file = "model.onnx"
threads = 2
[batching]
rows_max = 32
slo_ms = 50
pad_waste = 0.5
[[inputs]]
name = "x"
shape = ["rows", 3, "n"]
pad = 0
[[inputs]]
name = "m"
dtype = "bool"
shape = ["rows"]
allow_nan = true
[[outputs]]
name = "y"
dtype = "bfloat16"
shape = ["rows", 10]
[[samples]]
input = "x.json"
output = "y.json"
rtol = 0.01
[[samples]]
input = "sub/z.npy"
content_type = "tensor/pt"
""",
    )
    assert (found.name, found.version, found.backend, found.rows_max) == ("digits", "7", "onnx", 32)
    assert (found.slo_s, found.pad_waste, found.threads, found.rows_axis) == (0.05, 0.5, 2, True)
    assert found.inputs == (TensorSpec("x", "", (3, "n"), pad=0.0), TensorSpec("m", "bool", (), allow_nan=True))
    assert found.outputs == (TensorSpec("y", "bfloat16", (10,)),)
    first, second = found.samples
    assert (first.content_type, first.rtol, first.atol) == ("application/json", 0.01, 1e-5)
    assert first.output == folder / "y.json"
    assert (second.content_type, second.output) == ("tensor/pt", None)


@pytest.mark.parametrize("data", [{}, {"batching": {}}, {"samples": []}])
def test_what_is_left_out_has_a_default(folder: Path, data: dict[str, Any]) -> None:
    found = manifest.parse(data, folder)
    assert (found.version, found.rows_max, found.slo_s, found.inputs, found.rows_axis) == ("1", 64, None, None, None)


def test_batching_can_be_switched_off(folder: Path) -> None:
    assert load(folder, "[batching]\nenabled = false").rows_max == 1


def test_tensors_without_rows_are_one_item(folder: Path) -> None:
    found = load(folder, "[[inputs]]\nname = 'x'\nshape = [3, 'n']")
    assert found.rows_axis is False and found.inputs == (TensorSpec("x", "", (3, "n")),)


def test_what_an_entry_leaves_out_is_left_to_the_file(folder: Path) -> None:
    found = load(folder, "[[inputs]]\nname = 'x'\nallow_nan = true\n[[outputs]]\nname = 'y'\nshape = ['rows', 2]")
    assert found.inputs == (TensorSpec("x", "", manifest.UNSAID, allow_nan=True),)
    assert found.outputs == (TensorSpec("y", "", (2,)),) and found.rows_axis is True
