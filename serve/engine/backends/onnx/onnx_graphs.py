"""How an ONNX model is recorded as a CUDA graph, and run by it. What for, and when, is in cuda_graphs.py.

ONNX Runtime records a session itself, at the first run with an id that it does not know, and begins the recording at each run
with that id (option `gpu_graph_id`). What it computes in between lies in its own arena, at addresses that it gives to other runs
too: they all compute on one stream, one after the other, but the outputs of a run without a graph are still being copied back
then, so a graph waits for those copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evenkeel.serve.engine.backends.gpu.cuda_runtime import DeviceMemory
from evenkeel.serve.engine.backends.onnx.onnx_device import OnnxTransfers, StagingBuffer, Value, packed


@dataclass(frozen=True, slots=True)
class Place:
    """An input or output of a graph on the device, of all its rows."""

    shape: tuple[int, ...]
    size: int  # in bytes
    memory: DeviceMemory

    def of(self, rows: int, graph_rows: int) -> int:
        """Bytes of so many of its rows."""
        return self.size // graph_rows * rows


@dataclass(frozen=True, slots=True)
class Kept:
    """An output that has been copied out of the graph's place."""

    address: int
    size: int
    dims: tuple[int, ...]

    def shape(self) -> Sequence[int]:
        return self.dims

    def data_ptr(self) -> int:
        return self.address

    def tensor_size_in_bytes(self) -> int:
        return self.size


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """`rows` is 1 where the first axis is not that of the rows."""

    rows: int
    rows_axis: bool
    takes: list[Place]
    gives: list[Place]
    begin: Callable[[], None]

    def run(self, device: OnnxTransfers, slot: StagingBuffer, addresses: Sequence[int], rows: int) -> Sequence[Value]:
        """`addresses`: of the inputs of so many rows, on the device."""
        device.hold_for_copies()
        for place, address in zip(self.takes, addresses, strict=True):
            device.copy_there(place.memory.address, address, place.of(rows, self.rows))
        self.begin()
        return self._kept(device, slot, rows)

    def _kept(self, device: OnnxTransfers, slot: StagingBuffer, rows: int) -> list[Value]:
        sizes = [place.of(rows, self.rows) for place in self.gives]
        offsets, size = packed(sizes)
        first = device.room_to_keep(slot, size)
        for place, offset, nbytes in zip(self.gives, offsets, sizes, strict=True):
            device.copy_there(first + offset, place.memory.address, nbytes)
        return [Kept(first + offset, nbytes, (rows, *place.shape[1:]) if self.rows_axis else place.shape)
                for place, offset, nbytes in zip(self.gives, offsets, sizes, strict=True)]  # fmt: skip
