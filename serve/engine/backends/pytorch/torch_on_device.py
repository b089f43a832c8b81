"""PyTorch programs on a GPU: a batch is launched, and completed later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from evenkeel.serve.contract.manifest import Manifest
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.backends.base import Array, Capabilities, LoadOptions
from evenkeel.serve.engine.backends.gpu.cuda_graphs import Graphs
from evenkeel.serve.engine.backends.pytorch.torch_backend import PytorchBackend
from evenkeel.serve.engine.backends.pytorch.torch_device import TorchTransfers
from evenkeel.serve.engine.backends.pytorch.torch_graphs import TorchGraph
from evenkeel.serve.engine.backends.pytorch.torch_program import TorchProgram
from evenkeel.serve.engine.backends.pytorch.torch_run import TorchDeviceRun, TorchPendingOutputs, translated
from evenkeel.serve.engine.backends.pytorch.torch_tensors import TORCH_DTYPES, joined


class PytorchOnDevice(PytorchBackend):
    """`run` launches and completes."""

    def __init__(self, program: TorchProgram, manifest: Manifest, options: LoadOptions, device: TorchTransfers) -> None:
        self._device, self._graphs = device, cast(Graphs[TorchGraph] | None, None)
        super().__init__(program, manifest, options, device)
        if manifest.gpu.graphs:
            self._graphs = device.graphs(self.signature.rows_axis)
            self._run = self._runs(self.signature)

    def _runs(self, signature: Signature) -> TorchDeviceRun:
        ours, outs = [spec.name for spec in signature.inputs], self._program.outs
        places = {f.name: i for i, f in enumerate(outs)}
        return TorchDeviceRun(
            self._device, self._program.forward,
            [(ours.index(f.name), TORCH_DTYPES[f.dtype]) for f in self._program.ins], len(outs),
            [(places[spec.name], TORCH_DTYPES[outs[places[spec.name]].dtype]) for spec in signature.outputs],
            signature.rows_axis, self._graphs)  # fmt: skip

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(launching=self, preparing=self)

    def prepare(self, inputs: Sequence[Array]) -> None:
        run = self._run
        assert isinstance(run, TorchDeviceRun), "made by _runs above"
        if len(self._parts(inputs)) > 1:
            return
        with suppress(Exception):  # foreign code; its next run meets that error where it is told
            rows = inputs[0].shape[0] if self.signature.rows_axis else 1
            self._device.measure(rows, lambda: run.run(inputs, None))
            if self._graphs is not None:
                self._graphs.add(run, inputs)

    def describe(self) -> Mapping[str, Any]:
        graphs = "off" if self._graphs is None else self._graphs.describe()
        return {**super().describe(), **self._device.describe(), "graphs": graphs}

    def lend(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        run = self._run
        assert isinstance(run, TorchDeviceRun), "made by _runs above"
        return run.lend(shapes)

    def launch(self, inputs: Sequence[Array]) -> list[TorchPendingOutputs]:
        run = self._run
        assert isinstance(run, TorchDeviceRun), "made by _runs above"
        with translated():
            return [run.launch(part) for part in self._parts(inputs)]

    def complete(self, ticket: list[TorchPendingOutputs]) -> Sequence[Array]:
        with translated():
            parts = [pending.wait() for pending in ticket]
        return parts[0] if len(parts) == 1 else joined(parts)
