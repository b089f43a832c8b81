"""ONNX models on a GPU: how a batch travels there and back while the session computes another.

Owns the streams, and the memory that batches are copied through. Imports no onnxruntime, onnx_backend.py hands its objects in;
knows nothing of requests. The calls of CUDA are in cuda_runtime.py.

How it works: all inputs of a batch are written one behind the other into page-locked memory, from where the GPU copies
them in one go, on a stream of its own. The session computes on a second stream that holds until that copy is over, and is told
not to wait for it. It allocates its outputs on the device itself, since nobody knows their shapes before; a third stream
holds until they are computed and copies them into page-locked memory, and one event says when all of them are there. The thread
that waits for that event sleeps. So the copies of one batch go on while another is computed.

The memory is kept, in one slot for each batch in flight, and the slots take turns. What is in a slot is not touched before its
last batch is over, and what `complete` gave is a view of it: it holds until the batch after the next is launched. The page-locked
memory of the next slot is lent to the gatherer of a batch (`lend`); any other batch is copied there.

A batch that a CUDA graph computes (onnx_graphs.py) goes the same way, and on the stream that computes once more from the slot
into the graph's own places and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.engine.backends.gpu.cuda_runtime import DeviceMemory, Event, Runtime, opened

SLOTS = 2  # IN_FLIGHT_MAX of serve/engine/cycle/launch_complete.py
ALIGN_BYTES = 256  # each tensor begins where cudaMalloc could have put it: kernels read several values at once


class Value(Protocol):
    """What has been computed, on the device; an OrtValue is one."""

    def shape(self) -> Sequence[int]: ...

    def data_ptr(self) -> int:
        """Its address."""

    def tensor_size_in_bytes(self) -> int: ...


Typed = tuple[Array, np.dtype[Any]]


@dataclass(slots=True, eq=False)
class StagingBuffer:
    """One batch in flight, or the last one that was."""

    copied: Event  # its inputs are on the device
    computed: Event
    over: Event  # nothing of it is under way any more
    staged: Array
    there: DeviceMemory
    back: Array
    kept: DeviceMemory | None = None  # outputs of a graph, whose own places the next batch needs
    lent: list[Array] = field(default_factory=list)  # views of `staged`, from when they were asked for until they are launched
    values: Sequence[Value] = ()  # outputs in memory of the session's, which uses it again once they are dropped
    in_flight: bool = False


@dataclass(frozen=True, slots=True)
class OnnxPendingOutputs:
    """Outputs on their way to the host: not to be read before the slot's `over`."""

    slot: StagingBuffer
    outputs: list[Array]


class OnnxTransfers:
    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._to, self.computes, self._back = runtime.stream(), runtime.stream(), runtime.stream()
        self._slots = [self._slot() for _ in range(SLOTS)]
        self._turn = 0

    def _slot(self) -> StagingBuffer:
        cuda = self.runtime
        return StagingBuffer(
            cuda.event(), cuda.event(), cuda.event(), cuda.host_memory(ALIGN_BYTES), cuda.device_memory(ALIGN_BYTES),
                    cuda.host_memory(ALIGN_BYTES))  # fmt: skip

    def _next(self) -> StagingBuffer:
        """Nothing is under way from it or to it."""
        slot = self._slots[self._turn]
        assert not slot.in_flight, f"at most {SLOTS} batches fly"
        self.runtime.wait(slot.over)  # in the past, unless the last one failed while it was launched
        slot.values = ()
        return slot

    def lend(self, places: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> list[Array]:
        """Of these shapes and types, where the next launch takes its inputs from."""
        slot = self._next()
        offsets, size = packed([math.prod(shape) * dtype.itemsize for shape, dtype in places])
        self._make_room(slot, size)
        slot.lent = [np.ndarray(shape, dtype, slot.staged, at) for (shape, dtype), at in zip(places, offsets, strict=True)]
        return slot.lent

    def launch(self, inputs: Sequence[Typed], compute: Callable[[StagingBuffer, Sequence[int]], Sequence[Value]],
               gives: Sequence[np.dtype[Any]], ours: bool = False) -> OnnxPendingOutputs:  # fmt: skip
        """`inputs`: each with the type it must have. `compute` begins the computation from the addresses of the inputs; `ours`:
        what it gives lies in memory that nobody else computes in."""
        slot = self._next()
        self._turn = (self._turn + 1) % SLOTS
        try:
            values = compute(slot, self._send(slot, inputs))
            slot.values = () if ours else values
            outputs = self._fetch(slot, values, gives)
        except Exception:
            self._give_up(slot)
            raise
        slot.in_flight = True
        return OnnxPendingOutputs(slot, outputs)

    def complete(self, pending: OnnxPendingOutputs) -> list[Array]:
        slot = pending.slot
        slot.in_flight = False
        self.runtime.wait(slot.over)
        slot.values = ()
        return pending.outputs

    def hold_for_copies(self) -> None:
        """What is computed from now on comes after the copies back of outputs in memory of the session's."""
        for slot in self._slots:
            if slot.values:
                self.runtime.hold(self.computes, slot.over)

    def copy_there(self, to: int, source: int, size: int) -> None:
        """From one place on the device to another, in the order of what is computed."""
        if size:
            self.runtime.copy(to, source, size, self.computes)

    def drain(self) -> None:
        """Nothing that was begun is under way any more."""
        for slot in self._slots:
            self.runtime.wait(slot.over)

    def room_to_keep(self, slot: StagingBuffer, size: int) -> int:
        """The address of so many bytes for outputs of the batch of this slot."""
        if slot.kept is None or size > slot.kept.size:
            slot.kept = self.runtime.device_memory(_rounded(size))
        return slot.kept.address

    def _make_room(self, slot: StagingBuffer, size: int) -> None:
        if size > slot.there.size:
            slot.lent = []
            slot.staged, slot.there = self.runtime.host_memory(_rounded(size)), self.runtime.device_memory(_rounded(size))

    def _send(self, slot: StagingBuffer, inputs: Sequence[Typed]) -> list[int]:
        """Begin the copy of all inputs. Their addresses on the device."""
        cuda, lent = self.runtime, slot.lent
        offsets, size = packed([array.nbytes for array, _ in inputs])
        if len(lent) != len(inputs) or not all(place is array for place, (array, _) in zip(lent, inputs, strict=True)):
            self._make_room(slot, size)
            for (array, dtype), offset in zip(inputs, offsets, strict=True):
                np.copyto(np.ndarray(array.shape, dtype, slot.staged, offset), array, casting="no")
        slot.lent = []
        if size:
            cuda.copy(slot.there.address, slot.staged.ctypes.data, size, self._to)
        cuda.mark(slot.copied, self._to)
        cuda.hold(self.computes, slot.copied)
        return [slot.there.address + offset for offset in offsets]

    def _fetch(self, slot: StagingBuffer, values: Sequence[Value], gives: Sequence[np.dtype[Any]]) -> list[Array]:
        """Begin the copies of all outputs. The places where they will be."""
        cuda = self.runtime
        sizes = [value.tensor_size_in_bytes() for value in values]
        offsets, size = packed(sizes)
        if size > slot.back.nbytes:
            slot.back = cuda.host_memory(_rounded(size))
        cuda.mark(slot.computed, self.computes)
        cuda.hold(self._back, slot.computed)
        for value, offset, nbytes in zip(values, offsets, sizes, strict=True):
            if nbytes:
                cuda.copy(slot.back.ctypes.data + offset, value.data_ptr(), nbytes, self._back)
        cuda.mark(slot.over, self._back)
        return [np.ndarray(tuple(value.shape()), dtype, slot.back, offset)
                for value, dtype, offset in zip(values, gives, offsets, strict=True)]  # fmt: skip

    def _give_up(self, slot: StagingBuffer) -> None:
        """Part of it may have been begun: the slot is over when that is, which comes after the copy to the device by itself."""
        cuda = self.runtime
        cuda.mark(slot.computed, self.computes)
        cuda.hold(self._back, slot.computed)
        cuda.mark(slot.over, self._back)


def packed(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where tensors of so many bytes lie one behind the other, and where the last one ends."""
    offsets, end = list[int](), 0
    for size in sizes:
        offsets.append(-(-end // ALIGN_BYTES) * ALIGN_BYTES)
        end = offsets[-1] + size
    return offsets, end


def _rounded(size: int) -> int:
    """To a power of two, so that batches that grow row by row need new memory, for which the GPU stops, only a few times."""
    return 1 << (size - 1).bit_length()


def why_not(session: Any) -> str:
    """Why a session cannot be bound to the device; "" when it can."""
    text = next((node.name for node in (*session.get_inputs(), *session.get_outputs()) if node.type == "tensor(string)"), None)
    if text is not None:
        return f"{text!r} holds strings, which are on the host only"
    listed = next((node.name for node in session.get_outputs() if not node.type.startswith("tensor(")), None)
    if listed is not None:
        return f"{listed!r} is a list of maps, which is on the host only"
    # The runtime copies such an input back to the host when it is bound, and where none of the model runs on the device, on no
    # stream of ours: it could be read before it has come.
    infos = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
    host = next((node.name for node, info in infos if info.name == "Cpu"), None)
    return "" if host is None else f"what takes {host!r} runs on the CPU"


def chosen(runtime: Callable[[], Runtime] = opened) -> OnnxTransfers | str:
    """The device of this engine, or why it cannot be used so."""
    try:
        return OnnxTransfers(runtime())
    except (OSError, RuntimeError) as e:
        return str(e)
