"""One program on the device: its batches, launched and completed, and its graphs. How arrays travel is in torch_device.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.engine.backends.gpu.cuda_graphs import Graphs
from evenkeel.serve.engine.backends.pytorch.torch_device import TorchTransfers
from evenkeel.serve.engine.backends.pytorch.torch_graphs import TorchGraph
from evenkeel.serve.engine.backends.pytorch.torch_program import Forward
from evenkeel.serve.engine.backends.pytorch.torch_tensors import array, flat, short, torch
from evenkeel.serve.errors import ModelFailed


@dataclass(frozen=True, slots=True)
class TorchPendingOutputs:
    """Outputs on their way to the host."""

    device: TorchTransfers
    back: list[torch.Tensor]
    mark: Any

    def wait(self) -> list[Array]:
        self.device.wait(self.mark)
        return [array(t) for t in self.back]


@dataclass(frozen=True, slots=True)
class TorchDeviceRun:
    """`takes`: for each argument of the program its place in the inputs, and its dtype. `gives`: the same for the outputs."""

    device: TorchTransfers
    forward: Forward
    takes: list[tuple[int, torch.dtype]]
    outputs: int
    gives: list[tuple[int, torch.dtype]]
    rows_axis: bool
    graphs: Graphs[TorchGraph] | None = None

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        return self.launch(inputs).wait()

    def launch(self, inputs: Sequence[Array]) -> TorchPendingOutputs:
        return self._launch(inputs, None if self.graphs is None else self.graphs.best(inputs))

    def lend(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Of the inputs in the order of the signature, which is that of the places in `takes`."""
        dtypes = dict(self.takes)
        return self.device.lend([(shape, dtypes[place]) for place, shape in enumerate(shapes)])

    def run(self, inputs: Sequence[Array], by: TorchGraph | None) -> list[Array]:
        return self._launch(inputs, by).wait()

    def record(self, inputs: Sequence[Array]) -> TorchGraph:
        with torch.inference_mode():
            return self.device.recorded(self.compute, self._put(inputs), self.rows_axis)

    def allocated_bytes(self) -> int:
        return self.device.allocated_bytes()

    def _launch(self, inputs: Sequence[Array], by: TorchGraph | None) -> TorchPendingOutputs:
        with torch.inference_mode():
            gives = (self.compute if by is None else by.run)(self._put(inputs))
            return TorchPendingOutputs(self.device, *self.device.begin_get(gives, [dtype for _, dtype in self.gives]))

    def _put(self, inputs: Sequence[Array]) -> list[torch.Tensor]:
        tensors = [self.device.put(inputs[place], dtype) for place, dtype in self.takes]
        self.device.launched()
        return tensors

    def compute(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """On the device, from there to there: in the order of `takes` and of `gives`."""
        with self.device.arithmetic():
            outputs = flat(self.forward(*tensors))[1]
        if len(outputs) != self.outputs:
            raise ModelFailed(f"the model gave {len(outputs)} outputs where {self.outputs} were expected")
        return [outputs[at] for at, _ in self.gives]


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except ModelFailed:
        raise
    except Exception as e:  # torch raises RuntimeError, AssertionError, ValueError and its own
        raise ModelFailed(f"torch: {short(e)}") from e
