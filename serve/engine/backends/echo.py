"""The backend that returns its inputs: for trying clients and measuring everything around a model.

It owns nothing and imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.engine.backends.base import Array, Capabilities, LoadOptions
from evenkeel.serve.errors import BadModel

PLAIN = (TensorSpec("x", "float32", ("n",)),)


class EchoBackend:
    capabilities = Capabilities()

    def __init__(self, signature: Signature) -> None:
        self.signature = signature

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        return inputs

    def describe(self) -> Mapping[str, Any]:
        return {"framework": "none", "device": "cpu", "threads": 1}


def load(manifest: Manifest, options: LoadOptions) -> EchoBackend:
    inputs = PLAIN if manifest.inputs is None else manifest.inputs
    if manifest.outputs is not None and manifest.outputs != inputs:
        raise BadModel("model.toml: outputs: the echo backend returns its inputs; leave [[outputs]] out")
    rows_axis = True if manifest.rows_axis is None else manifest.rows_axis
    return EchoBackend(Signature(inputs, inputs, rows_axis))
