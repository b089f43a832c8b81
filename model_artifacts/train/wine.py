"""Makes model_artifacts/wine: a small MLP that tells a wine's grower from 13 measurements, as a torch.export program.

    python -m model_artifacts.train.wine [--out FOLDER]

Standardisation is part of the model, so a user posts the measurements in their own units.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from model_artifacts.train import data, folder
from model_artifacts.train.data import Array, Split
from model_artifacts.train.fit import Classifier, Recipe, fit, repeatable

RECIPE = Recipe(seed=0, epochs=40, batch=32, peak_rate=1e-2, weight_decay=0.1, label_smoothing=0.05)


class Network(Classifier):
    """Measurements (rows, 13) to probabilities (rows, 3)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, rows: Array) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(rows.mean(axis=0)))
        self.register_buffer("std", torch.from_numpy(rows.std(axis=0)))
        self.layers = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers((rows - self.mean) / self.std)
        return logits

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.logits(features), dim=1)


def make(out: Path) -> float:
    """Train, export, write every file of the folder; the held-out accuracy of the file that was written."""
    out.mkdir(parents=True, exist_ok=True)
    split, model = data.wine(), out / "model.pt2"
    repeatable(RECIPE.seed)
    network = Network(split.train)
    fit(network, split, RECIPE)
    export(network, model)
    scores = run(model, split.held_out)
    accuracy = split.accuracy(scores)
    folder.copy_manifest("wine", out)
    folder.write_samples(out, bodies(split), lambda rows: run(model, rows), named=True)
    folder.write_provenance(out, model, split, RECIPE, {
        "held_out_accuracy": round(accuracy, 4), "held_out_wrong": round((1 - accuracy) * len(scores)),
        "parameters": sum(p.numel() for p in network.parameters())})  # fmt: skip
    return accuracy


def export(network: Network, model: Path) -> None:
    """The exporter's notes (source lines, paths on this machine) are left out."""
    example = (torch.zeros(2, 13, dtype=torch.float32),)  # two rows: an example of one would fix the free axis at one
    program = torch.export.export(network, example, dynamic_shapes=({0: torch.export.Dim("rows", min=1)},))
    for node in program.graph.nodes:
        for note in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
            node.meta.pop(note, None)
    torch.export.save(program, model)


def run(model: Path, rows: Array) -> Array:
    """The model file run directly, one row at a time: what a single caller gets, whatever the batch."""
    program = torch.export.load(model).module()
    features = torch.from_numpy(rows.astype(np.float32))
    with torch.inference_mode():
        scores: Array = torch.cat([program(features[i : i + 1]) for i in range(len(features))]).numpy()
    return scores


def bodies(split: Split) -> dict[str, Array]:
    """Real wines that the model never saw."""
    rows, labels = split.held_out, split.held_out_labels
    first = [int(np.flatnonzero(labels == grower)[0]) for grower in range(3)]
    return {"one_of_each.json": rows[first], "five.csv": rows[:5]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=folder.ARTIFACTS / "wine")
    target = parser.parse_args().out
    print(f"{target}: held-out accuracy {make(target):.4f}")
