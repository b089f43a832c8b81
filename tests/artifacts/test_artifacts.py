"""The committed artifacts are what their README says: accurate on rows they never saw, repeatable, small, servable.

Tests that need torch or scikit-learn are skipped where these are not installed; the rest needs NumPy only.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenkeel.serve.contract import manifest

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "model_artifacts"
NAMES = ("digits", "wine", "echo")
MADE = {"digits": "model.onnx", "wine": "model.pt2"}
Array = np.ndarray[Any, Any]


def run_model(name: str, rows: Array) -> Array:
    """The model run directly, all rows as one batch, without any of our serving code."""
    rows = rows.astype(np.float32)
    if name == "echo":
        return rows
    path = ARTIFACTS / name / MADE[name]
    if name == "digits":
        session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
        scores: Array = session.run(["scores"], {"image": rows})[0]
        return scores
    torch = pytest.importorskip("torch")
    program = torch.export.load(path)
    assert program.graph_signature.user_inputs == ("features",)
    with torch.inference_mode():
        result: Array = program.module()(torch.from_numpy(rows)).numpy()
    return result


def read_body(path: Path, row_shape: tuple[int, ...]) -> Array:
    if path.suffix == ".npy":
        rows: Array = np.load(path, allow_pickle=False)
        return rows
    if path.suffix == ".csv":
        return np.loadtxt(path, delimiter=",", ndmin=2).reshape(-1, *row_shape)
    instances = json.loads(path.read_text())["instances"]
    return np.array([row["features"] if isinstance(row, dict) else row for row in instances])


def sample_cases() -> list[Any]:
    return [pytest.param(name, sample, id=f"{name}-{sample.input.name}") for name in NAMES
            for sample in manifest.load(ARTIFACTS / name).samples]  # fmt: skip


def held_out(name: str) -> Any:
    pytest.importorskip("sklearn")
    from model_artifacts.train import data

    return {"digits": data.digits, "wine": data.wine}[name]()


def provenance(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((ARTIFACTS / name / "provenance.json").read_text())
    return record


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_loads_and_has_a_golden_sample(name: str) -> None:
    loaded = manifest.load(ARTIFACTS / name)
    assert loaded.name == name
    assert loaded.version == "1"
    assert loaded.samples and all(sample.output is not None for sample in loaded.samples)


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_file_is_named_in_the_manifest(name: str) -> None:
    named = {path for sample in manifest.load(ARTIFACTS / name).samples for path in (sample.input, sample.output)}
    assert named == set((ARTIFACTS / name / "samples").iterdir())


@pytest.mark.parametrize(("name", "sample"), sample_cases())
def test_a_golden_sample_is_what_the_model_answers(name: str, sample: manifest.ModelSample) -> None:
    rows = read_body(sample.input, {"digits": (8, 8), "wine": (13,), "echo": (3,)}[name])
    assert sample.output is not None
    expected = json.loads(sample.output.read_text())["predictions"]
    np.testing.assert_allclose(run_model(name, rows), expected, rtol=sample.rtol, atol=sample.atol)


def test_the_digit_for_the_curl_line_is_a_seven_and_fits_on_it() -> None:
    samples = ARTIFACTS / "digits" / "samples"
    assert len((samples / "seven.json").read_text()) < 250
    assert int(np.argmax(json.loads((samples / "seven.expected.json").read_text())["predictions"][0])) == 7


@pytest.mark.parametrize(("name", "bar"), [("digits", 0.97), ("wine", 0.94)])
def test_the_model_is_accurate_on_rows_it_never_saw(name: str, bar: float) -> None:
    split = held_out(name)
    measured = split.accuracy(run_model(name, split.held_out))
    assert measured >= bar
    assert measured == pytest.approx(provenance(name)["held_out_accuracy"], abs=1e-4)


@pytest.mark.parametrize("name", MADE)
def test_no_held_out_row_was_trained_on(name: str) -> None:
    split = held_out(name)
    trained = {row.tobytes() for row in split.train}
    assert not [row for row in split.held_out if row.tobytes() in trained]
    assert split.sha256 == provenance(name)["data"]["sha256"], "scikit-learn ships other data than it did"


@pytest.mark.parametrize(("name", "row_shape"), [("digits", (8, 8)), ("wine", (13,))])
def test_a_row_gets_the_same_scores_in_a_batch_of_any_size(name: str, row_shape: tuple[int, ...]) -> None:
    rows = np.random.RandomState(1).uniform(0, 16, (64, *row_shape))
    whole = run_model(name, rows)
    for count in (1, 3):
        np.testing.assert_allclose(run_model(name, rows[:count]), whole[:count], atol=1e-6)
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", MADE)
def test_the_provenance_is_that_of_the_committed_file(name: str) -> None:
    data, record = (ARTIFACTS / name / MADE[name]).read_bytes(), provenance(name)["model"]
    assert record == {"file": MADE[name], "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_the_files_are_small() -> None:
    for name in NAMES:
        for path in (ARTIFACTS / name).rglob("*"):
            assert path.is_dir() or path.stat().st_size < 300_000, path


@pytest.fixture(scope="module")
def remade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both artifacts made once more, in a process of its own: the scripts set torch's threads and default dtype."""
    for needed in ("torch", "sklearn", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    out = tmp_path_factory.mktemp("remade")
    code = (
        "import pathlib, sys; from model_artifacts.train import digits, wine; out = pathlib.Path(sys.argv[1]); "
        "digits.make(out / 'digits'); wine.make(out / 'wine')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("name", MADE)
def test_making_an_artifact_again_gives_the_same_predictions(name: str, remade: Path) -> None:
    for sample in manifest.load(remade / name).samples:
        committed = ARTIFACTS / name / "samples" / sample.input.name
        assert sample.input.read_bytes() == committed.read_bytes()
        assert sample.output is not None
        again = json.loads(sample.output.read_text())["predictions"]
        before = json.loads((ARTIFACTS / name / "samples" / sample.output.name).read_text())["predictions"]
        np.testing.assert_allclose(again, before, atol=1e-5)
    again_wrong = json.loads((remade / name / "provenance.json").read_text())["held_out_wrong"]
    assert again_wrong == provenance(name)["held_out_wrong"]
