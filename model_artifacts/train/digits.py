"""Makes model_artifacts/digits: a small CNN that reads 8x8 handwritten digits, as ONNX.

    python -m model_artifacts.train.digits [--out FOLDER]

Scaling and the channel axis are part of the model, so a user posts the pixels as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from model_artifacts.train import data, folder
from model_artifacts.train.data import Array, Split
from model_artifacts.train.fit import Classifier, Recipe, fit, repeatable

RECIPE = Recipe(seed=0, epochs=12, batch=32, peak_rate=5e-3, weight_decay=0.05, label_smoothing=0.1)
OPSET = 18


class Network(Classifier):
    """Raw pixels (rows, 8, 8) to probabilities (rows, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(32 * 4 * 4, 10))  # fmt: skip

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(rows.unsqueeze(1) / 16)
        return logits

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.logits(image), dim=1)


def make(out: Path) -> float:
    """Train, export, write every file of the folder; the held-out accuracy of the file that was written."""
    out.mkdir(parents=True, exist_ok=True)
    split, model = data.digits(), out / "model.onnx"
    repeatable(RECIPE.seed)
    network = Network()
    fit(network, split, RECIPE)
    export(network, model)
    scores = run(model, split.held_out)
    accuracy = split.accuracy(scores)
    folder.copy_manifest("digits", out)
    folder.write_samples(out, bodies(split), lambda rows: run(model, rows))
    folder.write_provenance(out, model, split, RECIPE, {
        "held_out_accuracy": round(accuracy, 4), "held_out_wrong": round((1 - accuracy) * len(scores)),
        "parameters": sum(p.numel() for p in network.parameters()), "opset": OPSET})  # fmt: skip
    return accuracy


def export(network: Network, model: Path) -> None:
    """One file without external data. The exporter's notes (source lines, paths on this machine) are left out."""
    example = (torch.zeros(2, 8, 8, dtype=torch.float32),)  # two rows: an example of one would fix the free axis at one
    program = torch.onnx.export(
        network, example, input_names=["image"], output_names=["scores"], opset_version=OPSET, dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("rows", min=1)},), verbose=False)  # fmt: skip
    assert program is not None, "the dynamo exporter returns its program"
    proto = program.model_proto
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    del graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, model)


def run(model: Path, rows: Array) -> Array:
    """The model file run directly, one row at a time: what a single caller gets, whatever the batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    pixels = rows.astype(np.float32)
    return np.concatenate([session.run(["scores"], {"image": pixels[i : i + 1]})[0] for i in range(len(pixels))])


def bodies(split: Split) -> dict[str, Array]:
    """Real digits that the model never saw."""
    rows, labels = split.held_out, split.held_out_labels
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    small = {"seven.json": rows[first[7:8]], "three.csv": rows[:3]}
    return {**small, "zero_to_nine.json": rows[first], "sixteen.npy": rows[:16]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=folder.ARTIFACTS / "digits")
    target = parser.parse_args().out
    print(f"{target}: held-out accuracy {make(target):.4f}")
