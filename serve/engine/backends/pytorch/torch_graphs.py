"""How a PyTorch program is recorded as a CUDA graph, and run by it. What for, and when, is in cuda_graphs.py.

All graphs share one pool of memory (the driver's, torch_device.py): nothing in it is needed any more when the next one starts.
Knows torch by what it is handed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evenkeel.serve.engine.backends.gpu.cuda_graphs import NotRecordable

Tensor = Any
Compute = Callable[[list[Tensor]], list[Tensor]]


class Recorder(Protocol):
    """What of the driver is needed here."""

    target: str

    def record(self, compute: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        """What begins it again, and the places where its results are then. Nothing is computed by the recording itself."""


@dataclass(frozen=True, slots=True)
class TorchGraph:
    """`takes` and `gives`: its own places on the device."""

    takes: list[Tensor]
    gives: list[Tensor]
    replay: Callable[[], None]
    rows_axis: bool

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        some = (slice(tensors[0].shape[0]),) if self.rows_axis else ()  # of the rows that it has places for
        for place, tensor in zip(self.takes, tensors, strict=True):
            place[some].copy_(tensor)
        self.replay()
        return [t[some].clone() for t in self.gives]


def recorded(torch: Any, recorder: Recorder, compute: Compute, takes: list[Tensor], rows_axis: bool) -> TorchGraph:
    """`takes`: tensors on the device, the graph's own from now on. Raises NotRecordable, or what the program raises."""
    replay, gives = recorder.record(lambda: compute(takes))
    device = torch.device(recorder.target).type
    rows = tuple(takes[0].shape[:1])
    if not all(t.device.type == device and (not rows_axis or tuple(t.shape[:1]) == rows) for t in gives):
        raise NotRecordable("an output is made on the host, or has no rows")
    return TorchGraph(takes, gives, replay, rows_axis)
