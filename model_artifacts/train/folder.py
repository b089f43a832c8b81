"""Writes the files of an artifact beside its model: manifest, sample bodies with their answers, provenance.

The manifest is written by hand and lives in the committed folder; an artifact made elsewhere gets a copy.
No file holds a date, a host or a path, so making an artifact again changes nothing that did not change.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from model_artifacts.train.data import SPLIT_SEED, Array, Split
from model_artifacts.train.fit import Recipe

ARTIFACTS = Path(__file__).resolve().parent.parent
Run = Callable[[Array], Array]  # the finished model file: raw rows to scores


def copy_manifest(name: str, folder: Path) -> None:
    committed = ARTIFACTS / name / "model.toml"
    if committed.parent != folder.resolve():
        shutil.copyfile(committed, folder / "model.toml")


def write_samples(folder: Path, bodies: dict[str, Array], run: Run, named: bool = False) -> None:
    """One request body per file name, in the format of its suffix, and the answer beside it as *.expected.json."""
    samples = folder / "samples"
    samples.mkdir(exist_ok=True)
    for file_name, rows in bodies.items():
        path = samples / file_name
        if path.suffix == ".npy":
            np.save(path, rows.astype("<f4"))
        elif path.suffix == ".csv":
            path.write_text("".join(",".join(map(str, _plain(row.ravel()))) + "\n" for row in rows))
        else:
            instances = [{"features": _plain(row)} if named else _plain(row) for row in rows]
            path.write_text(json.dumps({"instances": instances}, separators=(",", ":")) + "\n")
        answer = {"predictions": [_shortest(scores) for scores in run(rows)]}
        path.with_suffix(".expected.json").write_text(json.dumps(answer, separators=(",", ":")) + "\n")


def write_provenance(folder: Path, model: Path, split: Split, recipe: Recipe, about: dict[str, Any]) -> None:
    """What the model was made from, by what, and how good it is on rows it never saw."""
    record = {
        "model": {"file": model.name, "bytes": model.stat().st_size, "sha256": _sha256(model.read_bytes())},
        **about,
        "data": {"source": split.source, "sha256": split.sha256, "rows_train": len(split.train),
                 "rows_held_out": len(split.held_out), "split_seed": SPLIT_SEED},
        "recipe": asdict(recipe),
        "versions": {name: version(name).split("+")[0] for name in ("torch", "onnx", "onnxscript", "onnxruntime",
                                                                    "scikit-learn", "numpy")},
    }  # fmt: skip
    (folder / "provenance.json").write_text(json.dumps(record, indent=2) + "\n")


def _plain(row: Array) -> list[Any]:
    """Whole numbers as integers, as a person would type them."""
    values: list[Any] = row.astype(np.int64).tolist() if np.all(row == np.trunc(row)) else row.tolist()
    return values


def _shortest(scores: Array) -> list[float]:
    """float32 written with as few digits as give the same float32 back, as the server writes it."""
    return [float(str(score)) for score in scores.astype(np.float32)]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
