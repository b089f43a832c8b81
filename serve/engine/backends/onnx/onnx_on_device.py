"""ONNX models on a GPU: a batch is launched, and completed later. How it travels is in onnx_device.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.backends.base import Array, Capabilities, LoadOptions
from evenkeel.serve.engine.backends.gpu.cuda_graphs import Graphs
from evenkeel.serve.engine.backends.onnx import onnx_device, providers
from evenkeel.serve.engine.backends.onnx.onnx_backend import OnnxBackend, OnnxOnHost, failed, plain_options
from evenkeel.serve.engine.backends.onnx.onnx_device import OnnxPendingOutputs, OnnxTransfers
from evenkeel.serve.engine.backends.onnx.onnx_graphs import OnnxGraph
from evenkeel.serve.engine.backends.onnx.onnx_run import DeviceRun


class OnnxOnDevice(OnnxBackend):
    """`run` launches and completes."""

    def __init__(self, session: Any, manifest: Manifest, options: LoadOptions, device: OnnxTransfers,
                 graphs_bytes: int = 0) -> None:  # fmt: skip
        """`graphs_bytes`: what the replica may allocate, if CUDA graphs are to be recorded; else 0."""
        self._device = device
        super().__init__(session, manifest, options, "device")
        graphs: Graphs[OnnxGraph] | None = Graphs(graphs_bytes, self.signature.rows_axis) if graphs_bytes else None
        self._run: DeviceRun = DeviceRun(device, session, plain_options, self.signature, graphs)

    def _runs(self, signature: Signature) -> DeviceRun:
        return DeviceRun(self._device, self._session, plain_options, signature)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(launching=self, preparing=self)

    def prepare(self, inputs: Sequence[Array]) -> None:
        self._run.prepare(inputs)

    def lend(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        try:
            return self._run.lend(shapes)
        except Exception as e:  # as in `run`
            raise failed(e) from e

    def launch(self, inputs: Sequence[Array]) -> OnnxPendingOutputs:
        try:
            return self._run.launch(inputs)
        except Exception as e:  # as in `run`
            raise failed(e) from e

    def complete(self, ticket: OnnxPendingOutputs) -> Sequence[Array]:
        try:
            return self._device.complete(ticket)
        except Exception as e:  # as in `run`
            raise failed(e) from e

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "graphs": self._run.describe()}


def backend_of(
    session: Any, manifest: Manifest, options: LoadOptions, device: OnnxTransfers | str, graphs_bytes: int
) -> OnnxBackend:
    """`device`: or why it cannot be used for more than `run`. `graphs_bytes`: as OnnxOnDevice says."""
    if session.get_providers()[0] == providers.CPU:
        return OnnxOnHost(session, manifest, options)
    why = device if isinstance(device, str) else onnx_device.why_not(session)
    if isinstance(device, str) or why:
        level = "warning" if isinstance(device, str) else "info"
        log("io_binding_off", f"batches are copied and computed one after the other: {why}", level=level)
        return OnnxBackend(session, manifest, options, f"host: {why}")
    return OnnxOnDevice(session, manifest, options, device, graphs_bytes)
