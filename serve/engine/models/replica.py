"""One loaded model: manifest -> backend -> what the cycle needs. Warm-up and proof are in warmup.py.

Everything that can stop a start raises BadModel with one line. The cycle gets a Replica and never asks how it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evenkeel.serve.batching.cost import FIRST_BATCHES, CostModel, Curve
from evenkeel.serve.contract import manifest as manifests
from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.backends import loader
from evenkeel.serve.engine.backends.base import LoadOptions, RawBackend, TensorBackend
from evenkeel.serve.engine.cycle.tensors import Gather, Scatter
from evenkeel.serve.transport.descriptor import model_ref
from evenkeel.serve.transport.layout import Layout


@dataclass(slots=True)
class Replica:
    """What the cycle needs. For a raw backend `signature`, `gather` and `scatter` are None."""

    manifest: Manifest
    backend: Any  # TensorBackend when signature is set, else RawBackend
    cost: CostModel
    rows_max: int
    signature: Signature | None = None
    inputs: Layout | None = None
    outputs: Layout | None = None
    gather: Gather | None = None
    scatter: Scatter | None = None
    rehearsals: list[dict[str, str]] = field(default_factory=list)  # what fronts send once before traffic comes
    number: int = 0  # the model's in its engine; together with the edition it is what records name
    edition: int = 0  # which loading of a version this is, and where fronts count its answers
    tally: int = 0
    rows_fit: int | None = None  # of a batch, learned when a larger one did not fit into memory

    @property
    def ref(self) -> int:
        return model_ref(self.number, self.edition)

    def card(self) -> dict[str, Any]:
        """What fronts are told at HELLO, as JSON."""
        return {
            "name": self.manifest.name, "version": self.manifest.version, "rows_max": self.rows_max,
            "signature": self.signature.to_json() if self.signature else None, "rehearsals": self.rehearsals,
            "number": self.number, "edition": self.edition, "tally": self.tally,
            "reads_headers": getattr(self.backend, "reads_headers", False),
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
        # Nothing is known of its cost: suppose that a batch costs hardly more than one, until batches have run.
        cost.default = Curve([1, manifest.rows_max], [1e-3, 1.01e-3], guesses=FIRST_BATCHES)
        return Replica(manifest, raw, cost, manifest.rows_max if raw.batched else 1)
    tensor: TensorBackend = backend  # type: ignore[assignment]
    sig = tensor.signature
    inputs, outputs = Layout(sig.inputs, sig.rows_axis), Layout(sig.outputs, sig.rows_axis)
    return Replica(
        manifest, tensor, cost, manifest.rows_max if sig.rows_axis else 1, sig, inputs, outputs,
        Gather(sig, inputs, manifest.pad_waste), Scatter(sig, outputs))  # fmt: skip
