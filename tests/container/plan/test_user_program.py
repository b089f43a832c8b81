"""Which script is meant, as the SageMaker SDK says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.container import environment
from evenkeel.container.plan.user_program import is_elsewhere, user_program
from evenkeel.serve.contract import catalogue, manifest
from evenkeel.serve.errors import BadModel, BadSetting


@pytest.mark.parametrize(("program", "submitted", "meant"), [
    ("run.py", "", "run.py"),
    ("", "", ""),
    ("run.py", "/opt/ml/model/code", "run.py"),
    ("run.py", "file:///opt/ml/model/code/", "run.py"),
    ("run.py", "/opt/ml/model", "run.py"),
    ("run.py", "/opt/ml/model/src", "src/run.py"),
    ("", "/opt/ml/model/src/deep", "src/deep/inference.py"),
    ("run.py", "/tmp/m/src", "src/run.py"),
    ("run.py", "s3://bucket/sourcedir.tar.gz", "run.py"),
])  # fmt: skip
def test_the_script_is_looked_for_where_it_was_submitted(program: str, submitted: str, meant: str) -> None:
    assert user_program(program, submitted, Path("/tmp/m")) == meant


@pytest.mark.parametrize("submitted", ["/srv/code", "/opt/ml/model/../other", "/opt/ml/modelled"])
def test_a_folder_outside_of_the_model_stops_the_start(submitted: str) -> None:
    env = environment.read({"SAGEMAKER_SUBMIT_DIRECTORY": submitted, "EVENKEEL_MODEL_DIR": "/tmp/m"})
    with pytest.raises(BadSetting, match="is outside of the model folder /tmp/m"):
        _ = env.program


def test_only_an_address_is_elsewhere() -> None:
    assert [is_elsewhere(s) for s in ("s3://b/k", "https://h/x", "file:///a", "/a", "")] == [True, True, False, False, False]


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("names", [["model.onnx"], ["code/inference.py", "model.pt"], ["other.py"], []])
def test_a_script_that_is_named_and_absent_stops_the_start_whatever_else_is_there(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(BadModel, match=r"SAGEMAKER_PROGRAM=run\.py: neither code/run\.py nor run\.py is in "):
        manifest.load(made(tmp_path, *names), program="run.py")


def test_what_model_toml_names_itself_goes_before(tmp_path: Path) -> None:
    made(tmp_path, "model.onnx")
    (tmp_path / "model.toml").write_text('backend = "onnx"')
    assert manifest.load(tmp_path, program="run.py").backend == "onnx"


def test_a_script_beside_folders_of_models_is_the_model(tmp_path: Path) -> None:
    folder = made(tmp_path, "run.py", "models/encoder/model.onnx", "models/decoder/model.onnx")
    assert catalogue.read(folder, "run.py").name == ""
    assert catalogue.read(folder).name == "models"
    assert manifest.load(folder, program="run.py").file == tmp_path / "run.py"


def test_versions_may_hold_the_named_script_alone(tmp_path: Path) -> None:
    folder = made(tmp_path, "m/1/code/run.py", "m/2/run.py")
    assert catalogue.read(folder, "run.py").versions == ("1", "2")
