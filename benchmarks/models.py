"""The models that the benchmark serves, made here from fixed seeds so that nothing has to be downloaded.

T is a tiny MLP (the server is all the cost), S an MLP of about a millisecond that gains tenfold from batching, M a
CNN of ResNet-18's size and shape that gains nothing from it, `echo` returns its input. Each folder under `.models/`
can be served as it is, and also holds what the load sends and what must come back:

    model.onnx              the model; its first axis is named "rows"
    body.json, body.npy     one row as a request, JSON with 6 digits
    rows.npy, answers.npy   several rows and their reference answers; body.* is the first of them

The reference answers come from onnx's own evaluator in numpy, so ONNX Runtime is checked against something else.

usage: python -m benchmarks.models [--again]
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

MODELS_DIR = Path(__file__).parent / ".models"
SEED = 20240611
# Old enough that every runtime we compare with reads it.
OPSET, IR_VERSION = 17, 8
RECIPE = "1"  # raise it when a model or a body changes: folders of another recipe are made again
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """What one row of a model looks like, in and out."""

    row: tuple[int, ...]
    answer: tuple[int, ...]


SHAPES = {
    "T": Shape((32,), (3,)),
    "S": Shape((64,), (16,)),
    "M": Shape((3, 224, 224), (1000,)),
    "echo": Shape((32,), (32,)),
}
# numpy takes seconds for one row of M, so it gets fewer reference rows.
REFERENCE_ROWS = {"T": 64, "S": 64, "M": 2, "echo": 64}


@dataclass(slots=True)
class Graph:
    """Collects nodes and weights while a model is written down layer by layer."""

    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append one operator and return the name of its output."""
        out = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def weight(self, shape: tuple[int, ...], scale: float) -> str:
        name = f"w_{len(self.weights)}"
        values = (self.random.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def dense(self, x: str, n_in: int, n_out: int) -> str:
        return self.op("Gemm", x, self.weight((n_out, n_in), (2 / n_in) ** 0.5), self.weight((n_out,), 0.1), transB=1)

    def conv(self, x: str, channels: tuple[int, int], kernel: int, stride: int, gain: float = 1.0) -> str:
        """A convolution with bias, as an exporter leaves it once batch normalisation is folded in."""
        n_in, n_out = channels
        scale = gain * (2 / (n_in * kernel * kernel)) ** 0.5
        w, b = self.weight((n_out, n_in, kernel, kernel), scale), self.weight((n_out,), 0.05)
        return self.op("Conv", x, w, b, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)


def mlp(sizes: tuple[int, ...]) -> Callable[[Graph], None]:
    def build(g: Graph) -> None:
        x = "x"
        for n_in, n_out in pairwise(sizes[:-1]):
            x = g.op("Relu", g.dense(x, n_in, n_out))
        g.dense(x, sizes[-2], sizes[-1])

    return build


def resnet18(g: Graph) -> None:
    x = g.op("Relu", g.conv("x", (3, 64), 7, 2))
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for stage, width_next in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            x = residual(g, x, (width, width_next), stride)
            width = width_next
    pooled = g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)
    g.dense(pooled, 512, 1000)


def residual(g: Graph, x: str, channels: tuple[int, int], stride: int) -> str:
    n_in, n_out = channels
    y = g.op("Relu", g.conv(x, (n_in, n_out), 3, stride))
    y = g.conv(y, (n_out, n_out), 3, 1, gain=0.5)  # a smaller gain keeps eight residual sums from growing
    shortcut = x if stride == 1 and n_in == n_out else g.conv(x, (n_in, n_out), 1, stride)
    return g.op("Relu", g.op("Add", y, shortcut))


BUILDERS: dict[str, Callable[[Graph], None]] = {
    "T": mlp((32, 64, 64, 3)),
    "S": mlp((64, 1024, 1024, 1024, 1024, 16)),
    "M": resnet18,
}


def onnx_model(name: str) -> onnx.ModelProto:
    g = Graph(np.random.default_rng([SEED, ord(name)]))
    BUILDERS[name](g)
    g.nodes[-1].output[0] = "y"  # every model ends with the layer that makes its answer
    shape = SHAPES[name]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", *shape.row])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", *shape.answer])
    graph = helper.make_graph(g.nodes, name, [x], [y], g.weights)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="evenkeel-benchmarks",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


ECHO_TOML = """backend = "echo"

[[inputs]]
name = "x"
dtype = "float32"
shape = ["rows", 32]
"""


def make(name: str, folder: Path) -> None:
    """Write one model folder. It appears whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    random = np.random.default_rng([SEED, 1])
    rows = random.standard_normal((REFERENCE_ROWS[name], *SHAPES[name].row)).round(6).astype(np.float32)
    if name == "echo":
        (part / "model.toml").write_text(ECHO_TOML)
        answers = rows
    else:
        model = onnx_model(name)
        onnx.save(model, part / "model.onnx")
        (answers,) = ReferenceEvaluator(model).run(None, {"x": rows})
    (part / "body.json").write_bytes(instances(rows[:1]))
    np.save(part / "body.npy", rows[:1])
    np.save(part / "rows.npy", rows)
    np.save(part / "answers.npy", answers)
    (part / "recipe").write_text(RECIPE)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def digits(rows: Array) -> list[object]:
    """Rows as nested lists with 6 digits, as a client would send them after rounding."""
    nested: list[object] = rows.astype(np.float64).round(6).tolist()
    return nested


def instances(rows: Array) -> bytes:
    return json.dumps({"instances": digits(rows)}).encode()


def ensure(root: Path = MODELS_DIR, *, again: bool = False) -> Path:
    """Make the folders that are missing or of another recipe."""
    for name in SHAPES:
        folder = root / name
        stamp = folder / "recipe"
        if again or not stamp.is_file() or stamp.read_text() != RECIPE:
            print(f"making benchmark model {name} in {folder}", flush=True)
            make(name, folder)
    return root


if __name__ == "__main__":
    ensure(again="--again" in sys.argv[1:])
