"""One loaded model: manifest -> backend -> what the cycle needs. Warm-up and proof are in warmup.py.

Everything that can stop a start raises BadModel with one line. The cycle gets a Replica and never asks how it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evenkeel.serve.batching.cost import CostModel, supposed
from evenkeel.serve.contract import manifest as manifests
from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.backends import loader
from evenkeel.serve.engine.backends.base import (
    Array,
    Capabilities,
    LaunchingBackend,
    LoadOptions,
    RawBackend,
    RawRequest,
    RawResult,
    TensorBackend,
)
from evenkeel.serve.engine.cycle.tensors import Gather, Scatter
from evenkeel.serve.transport.descriptor import model_ref
from evenkeel.serve.transport.layout import Layout


@dataclass(slots=True)
class Replica:
    """What the cycle needs. Either `tensors` runs it, and then all from `signature` to `scatter` is there, or `handler` does."""

    manifest: Manifest
    cost: CostModel
    rows_max: int
    tensors: TensorBackend | None = None
    handler: RawBackend | None = None
    signature: Signature | None = None
    inputs: Layout | None = None
    outputs: Layout | None = None
    gather: Gather | None = None
    scatter: Scatter | None = None
    warmup_requests: list[dict[str, str]] = field(default_factory=list)  # what fronts send once before traffic comes
    number: int = 0  # the model's in its engine; together with the revision it is what records name
    revision: int = 0  # which loading of a version this is, and where fronts count its answers
    counters: int = 0
    rows_fit: int | None = None  # of a batch, learned when a larger one did not fit into memory

    @property
    def backend(self) -> TensorBackend | RawBackend:
        backend = self.tensors or self.handler
        assert backend is not None, "a replica has one of the two"
        return backend

    def run(self, batch: Sequence[Array]) -> Sequence[Array]:
        """Of a tensor replica. Hot paths call its backend themselves."""
        assert self.tensors is not None, "only tensor replicas run batches"
        return self.tensors.run(batch)

    def handle(self, requests: Sequence[RawRequest]) -> Sequence[RawResult]:
        assert self.handler is not None, "only handlers take whole requests"
        return self.handler.handle(requests)

    @property
    def capabilities(self) -> Capabilities:
        return self.backend.capabilities

    @property
    def device(self) -> LaunchingBackend:
        """The backend of a replica whose batches are launched."""
        launching = self.capabilities.launching
        assert launching is not None, "asked where it launches"
        return launching

    @property
    def by_columns(self) -> bool:
        """Whether requests of one row can be handled as rows of one table, both ways."""
        inputs, outputs = self.inputs, self.outputs
        return inputs is not None and outputs is not None and bool(inputs.single and outputs.single and inputs.rows_axis)

    @property
    def ref(self) -> int:
        return model_ref(self.number, self.revision)

    def info(self) -> dict[str, Any]:
        """What fronts are told at HELLO, as JSON."""
        return {
            "name": self.manifest.name, "version": self.manifest.version, "rows_max": self.rows_max,
            "signature": self.signature.to_json() if self.signature else None, "warmup_requests": self.warmup_requests,
            "number": self.number, "revision": self.revision, "counters": self.counters,
            "reads_headers": self.capabilities.reads_headers,
        }  # fmt: skip


def load(folder: Path, options: LoadOptions, name: str = "", version: str = "", program: str = "") -> Replica:
    """Load the model in `folder`; `name` and `version` are those of a versioned folder. Raises BadModel."""
    ledger = options.ledger
    manifest = manifests.load(folder, name, version, program)
    with ledger.phase("import"):
        load_backend = loader(manifest.backend)
    with ledger.phase("load"):
        backend = load_backend(manifest, options)
    cost = CostModel()
    if manifest.backend == "handler":
        raw: RawBackend = backend  # type: ignore[assignment]
        rows = manifest.rows_max if raw.capabilities.batched else 1
        cost.default = supposed(rows)
        return Replica(manifest, cost, rows, handler=raw)
    tensor: TensorBackend = backend  # type: ignore[assignment]
    sig = tensor.signature
    inputs, outputs = Layout(sig.inputs, sig.rows_axis), Layout(sig.outputs, sig.rows_axis)
    return Replica(
        manifest, cost, manifest.rows_max if sig.rows_axis else 1, tensor, None, sig, inputs, outputs,
        Gather(sig, inputs, manifest.pad_waste), Scatter(sig, outputs))  # fmt: skip
