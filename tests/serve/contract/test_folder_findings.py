"""What a folder without a model is told: what lies there, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.serve.contract import manifest
from evenkeel.serve.errors import BadModel

SLIPS = [
    (["model.tar.gz"], "model.tar.gz is an archive: unpack it here"),
    (["sub/model.onnx"], "sub/model.onnx lies one level too deep"),
    (["inner/code/inference.py"], "inner/code/inference.py lies one level too deep"),
    (["inference.py", "model.pth"], "move it to code/inference.py"),
    (["iris.onnx"], 'iris.onnx is there: call it model.onnx, or say file = "iris.onnx" in model.toml'),
    (["a.onnx", "b.onnx"], "a.onnx, b.onnx are there: say which one serves by file ="),
    (
        ["config.json", "model.safetensors"],
        "model of Hugging Face, which needs a script; in code/inference.py: from transformers",
    ),
    (["model.pkl"], "model.pkl is a pickle, which needs a script; in code/inference.py: import joblib"),
    (["model.pth"], "model.pth holds weights: export the model as model.pt2"),
    (["readme.md"], "there is only readme.md"),
]


@pytest.mark.parametrize(("names", "told"), SLIPS, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_folder_without_a_model_is_told_what_was_found_and_what_to_do(tmp_path: Path, names: list[str], told: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadModel, match="no model in") as e:
        manifest.load(tmp_path)
    assert told in e.value.message and "expected one of" in e.value.message and "\n" not in e.value.message


def test_an_empty_folder_is_told_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"no model in .*: expected one of code/inference.py, model.onnx"):
        manifest.load(tmp_path)


def test_names_without_end_are_told_in_part(tmp_path: Path) -> None:
    for i in range(50):
        (tmp_path / f"file{i:02}").touch()
    with pytest.raises(BadModel, match=r"there is only file00, .*file05 and 44 more;"):
        manifest.load(tmp_path)


def test_a_second_model_in_the_folder_is_named_unless_model_toml_chose(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.pt2"):
        (tmp_path / name).write_bytes(b"x")
    assert manifest.unused(manifest.load(tmp_path)) == ["model.pt2"]
    (tmp_path / "model.toml").write_text('file = "model.pt2"\n')
    assert manifest.unused(manifest.load(tmp_path)) == []
