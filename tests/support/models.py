"""Models whose answers a test knows without running them, and the replicas made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evenkeel.serve.batching.cost import CostModel
from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.engine.backends.base import Capabilities
from evenkeel.serve.engine.cycle.tensors import Gather, Scatter
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.transport.layout import Layout, numpy_dtype
from tests.support.clock import ManualClock

Array = np.ndarray[Any, Any]
Run = Callable[[Sequence[Array]], Sequence[Any]]


class ScriptedBackend:
    """A tensor backend that does what the test says, and remembers the batches it was given."""

    def __init__(self, signature: Signature, run: Run) -> None:
        self.signature = signature
        self._run = run
        self.batches: list[list[Array]] = []
        self.lent: list[Array] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    def run(self, inputs: Sequence[Array]) -> Sequence[Any]:
        self.batches.append([np.array(a) for a in inputs])
        return self._run(inputs)

    def lend(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Asked by those that launch. Full of garbage, as memory is that was used before."""
        dtypes = [numpy_dtype(spec.dtype) for spec in self.signature.inputs]
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)]
        self.lent = [np.full(size, 0xFF, np.uint8).view(dtype).reshape(shape)
                     for size, shape, dtype in zip(sizes, shapes, dtypes, strict=True)]  # fmt: skip
        return self.lent

    def describe(self) -> Mapping[str, Any]:
        return {"framework": "scripted"}

    @property
    def sizes(self) -> list[int]:
        """Rows of each batch so far."""
        return [len(b[0]) for b in self.batches]


class ScriptedDevice(ScriptedBackend):
    """A backend whose batches run one after the other on a device of its own, by the test's clock: each takes `takes_s`, and
    waiting for one moves the clock to its end. Raises at the wait, as a device does; `room` is how many rows fit into its
    memory, of all batches in it. `did` tells the order of things."""

    def __init__(self, signature: Signature, run: Run, clock: ManualClock, takes_s: float = 0.01) -> None:
        super().__init__(signature, run)
        self._clock, self.takes_s = clock, takes_s
        self._free_at_s = 0.0
        self._flying: list[tuple[list[Array], float]] = []
        self.did: list[str] = []
        self.room = 10**9
        self.on_complete: Callable[[], None] = lambda: None

    def run(self, inputs: Sequence[Array]) -> Sequence[Any]:
        self.did.append(f"run {len(inputs[0])}")
        assert not self._flying, "what runs at once runs alone"
        self._fit(len(inputs[0]))
        self._clock.advance(self.takes_s)
        return super().run(inputs)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(launching=self)

    def launch(self, inputs: Sequence[Array]) -> list[Array]:
        rows = len(inputs[0])
        self.did.append(f"launch {rows}")
        self._fit(rows + sum(len(batch[0]) for batch, _ in self._flying))
        batch = [np.array(a) for a in inputs]
        self._free_at_s = max(self._clock(), self._free_at_s) + self.takes_s
        self._flying.append((batch, self._free_at_s))
        return batch

    def complete(self, ticket: list[Array]) -> Sequence[Any]:
        batch, done_s = self._flying[0]
        assert ticket is batch, "in the order of the launches, each once"
        self.did.append(f"complete {len(batch[0])}")
        self._clock.now_s = max(self._clock(), done_s)
        self.on_complete()
        del self._flying[0]
        return ScriptedBackend.run(self, batch)

    def _fit(self, rows: int) -> None:
        if rows > self.room:
            raise MemoryError(f"{rows} rows")


class ScriptedHandler:
    """A raw backend: one reply or exception for each request."""

    capabilities = Capabilities()

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
    return Replica(manifest, cost, rows, ScriptedBackend(sig, run), None, sig, inputs, outputs, gather, scatter)


def raw_replica(handle: Callable[[Sequence[Any]], Sequence[Any]], rows_max: int = 1) -> Replica:
    manifest = Manifest(folder=Path("."), name="scripted", version="1", backend="handler", file=None, rows_max=rows_max)
    return Replica(manifest, CostModel(), rows_max, handler=ScriptedHandler(handle))
