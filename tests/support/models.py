"""Models whose answers a test knows without running them, and the replicas made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serve.batching.cost import CostModel
from serve.contract.manifest import Manifest
from serve.contract.signature import Signature, TensorSpec
from serve.engine.replica import Replica
from serve.engine.tensors import Gather, Scatter
from serve.transport.layout import Layout

Array = np.ndarray[Any, Any]
Run = Callable[[Sequence[Array]], Sequence[Any]]


class ScriptedBackend:
    """A tensor backend that does what the test says, and remembers the batches it was given."""

    def __init__(self, signature: Signature, run: Run) -> None:
        self.signature = signature
        self._run = run
        self.batches: list[list[Array]] = []

    def run(self, inputs: Sequence[Array]) -> Sequence[Any]:
        self.batches.append([np.array(a) for a in inputs])
        return self._run(inputs)

    def describe(self) -> Mapping[str, Any]:
        return {"framework": "scripted"}

    @property
    def sizes(self) -> list[int]:
        """Rows of each batch so far."""
        return [len(b[0]) for b in self.batches]


class ScriptedHandler:
    """A raw backend: one reply or exception for each request."""

    def __init__(self, handle: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        self.handle = handle

    def describe(self) -> Mapping[str, Any]:
        return {"framework": "scripted"}


def spec(name: str, *dims: int | str, dtype: str = "float32", **more: Any) -> TensorSpec:
    return TensorSpec(name, dtype, dims, **more)


def signature(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], rows_axis: bool = True) -> Signature:
    return Signature(tuple(inputs), tuple(outputs), rows_axis)


def twice_plus_one(inputs: Sequence[Array]) -> list[Array]:
    return [inputs[0] * 2 + 1]


def replica(
    sig: Signature, run: Run = twice_plus_one, rows_max: int = 8, pad_waste: float = 0.25, free_rows: bool = True
) -> Replica:
    """`free_rows`: a batch costs the same at every size, so that the engine takes all that is queued."""
    manifest = Manifest(folder=Path("."), name="scripted", version="1", backend="echo", file=None, rows_max=rows_max)
    cost = CostModel()
    if free_rows:
        cost.learn((), [(1, 0.001), (rows_max, 0.001)])
    inputs, outputs = Layout(sig.inputs, sig.rows_axis), Layout(sig.outputs, sig.rows_axis)
    gather, scatter = Gather(sig, inputs, pad_waste), Scatter(sig, outputs)
    rows = rows_max if sig.rows_axis else 1
    return Replica(manifest, ScriptedBackend(sig, run), cost, rows, sig, inputs, outputs, gather, scatter)


def raw_replica(handle: Callable[[Sequence[Any]], Sequence[Any]], rows_max: int = 1) -> Replica:
    manifest = Manifest(folder=Path("."), name="scripted", version="1", backend="handler", file=None, rows_max=rows_max)
    return Replica(manifest, ScriptedHandler(handle), CostModel(), rows_max)
