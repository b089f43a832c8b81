"""One session of ONNX Runtime on the device: its batches, launched and completed, and its graphs.

Imports no onnxruntime, onnx_backend.py hands its objects in. How a batch travels is in onnx_device.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.engine.backends.gpu.cuda_graphs import Graphs, NotRecordable
from evenkeel.serve.engine.backends.onnx.onnx_device import OnnxPendingOutputs, OnnxTransfers, StagingBuffer, Value
from evenkeel.serve.engine.backends.onnx.onnx_graphs import OnnxGraph, Place

TARGET = ("cuda", 0)  # the only device that an engine sees, as ONNX Runtime names it
ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16; NumPy has no such type, so its bits travel as uint16
WAIT_FOR_NOTHING = "disable_synchronize_execution_providers"  # return when all is begun: a reader waits for the slot's event
# Which graph to begin, or to record where there is none of that number. It is always set: where it is not, onnxruntime 1.31
# finds out in 25 us.
GRAPH_ID, NO_GRAPH = "gpu_graph_id", -1


class DeviceRun:
    """For inputs and outputs in the order of a signature."""

    def __init__(self, device: OnnxTransfers, session: Any, options: Callable[[], Any], signature: Signature,
                 graphs: Graphs[OnnxGraph] | None = None) -> None:  # fmt: skip
        """`options`: makes onnxruntime's RunOptions, to be filled."""
        self._device, self._session, self._options, self._graphs = device, session, options, graphs
        self._takes = [(spec.name, *_types(spec.dtype)) for spec in signature.inputs]
        self._gives = [(spec.name, *_types(spec.dtype)) for spec in signature.outputs]
        self._rows_axis = signature.rows_axis
        self._eager, self._last_graph = self._run_options(NO_GRAPH), 0

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        return self.complete(self.launch(inputs))

    def lend(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        return self._device.lend([(shape, dtype) for shape, (_, dtype, _) in zip(shapes, self._takes, strict=True)])

    def launch(self, inputs: Sequence[Array]) -> OnnxPendingOutputs:
        return self._launch(inputs, None if self._graphs is None else self._graphs.best(inputs))

    def complete(self, pending: OnnxPendingOutputs) -> Sequence[Array]:
        return self._device.complete(pending)

    def _launch(self, inputs: Sequence[Array], by: OnnxGraph | None) -> OnnxPendingOutputs:
        typed = [(array, dtype) for array, (_, dtype, _) in zip(inputs, self._takes, strict=True)]

        def compute(slot: StagingBuffer, addresses: Sequence[int]) -> Sequence[Value]:
            if by is None:
                return self._compute(inputs, addresses)
            return by.run(self._device, slot, addresses, self._rows(inputs))

        return self._device.launch(typed, compute, [dtype for _, dtype, _ in self._gives], ours=by is not None)

    def _compute(self, inputs: Sequence[Array], addresses: Sequence[int]) -> Sequence[Value]:
        # A new one each time: the runtime would write into the outputs that an old one has.
        binding = self._bound(inputs, addresses)
        for name, _, _ in self._gives:
            binding.bind_output(name, *TARGET)
        self._session.run_with_iobinding(binding, self._eager)
        values: Sequence[Value] = binding.get_outputs()
        return values

    def _bound(self, inputs: Sequence[Array], addresses: Sequence[int]) -> Any:
        binding = self._session.io_binding()
        for (name, _, element), array, address in zip(self._takes, inputs, addresses, strict=True):
            binding.bind_input(name, *TARGET, element, array.shape, address)
        return binding

    def _run_options(self, graph: int) -> Any:
        options = self._options()
        options.add_run_config_entry(WAIT_FOR_NOTHING, "1")
        options.add_run_config_entry(GRAPH_ID, str(graph))
        return options

    def _rows(self, inputs: Sequence[Array]) -> int:
        return int(inputs[0].shape[0]) if self._rows_axis else 1

    # ---- as graphs.Program -----------------------------------------------------------------------------------------

    def prepare(self, inputs: Sequence[Array]) -> None:
        if self._graphs is not None:
            self._graphs.add(self, inputs)

    def run(self, inputs: Sequence[Array], by: OnnxGraph | None) -> Sequence[Array]:
        return self.complete(self._launch(inputs, by))

    def record(self, inputs: Sequence[Array]) -> OnnxGraph:
        """The runtime itself runs twice at a new id: once as ever, so that its memory is there, and once to record."""
        rows, outputs = self._rows(inputs), self.run(inputs, None)
        if self._rows_axis and any(y.shape[:1] != (rows,) for y in outputs):
            raise NotRecordable("an output has no rows")
        takes, gives = self._places(inputs), self._places(outputs)
        binding = self._bound(inputs, [place.memory.address for place in takes])
        for (name, _, element), place in zip(self._gives, gives, strict=True):
            binding.bind_output(name, *TARGET, element, place.shape, place.memory.address)
        self._last_graph += 1
        options = self._run_options(self._last_graph)
        graph = OnnxGraph(rows, self._rows_axis, takes, gives, lambda: self._session.run_with_iobinding(binding, options))
        try:
            self.run(inputs, graph)
        except Exception:
            self._device.drain()  # what has been begun needs the graph's places
            raise
        return graph

    def _places(self, arrays: Sequence[Array]) -> list[Place]:
        return [Place(a.shape, a.nbytes, self._device.runtime.device_memory(max(1, a.nbytes))) for a in arrays]

    def allocated_bytes(self) -> int:
        """By anyone who uses the GPU, since the runtime does not say what it takes itself."""
        return self._device.runtime.taken_bytes()

    def describe(self) -> str:
        return "off" if self._graphs is None else self._graphs.describe()


def _types(dtype: str) -> tuple[np.dtype[Any], Any]:
    """NumPy's, and what a binding takes for the element."""
    if dtype == "bfloat16":
        return np.dtype(np.uint16), ONNX_BFLOAT16
    return np.dtype(dtype), np.dtype(dtype).type
