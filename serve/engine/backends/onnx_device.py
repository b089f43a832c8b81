"""ONNX models on a GPU: how a batch travels there and back while the session computes another.

Owns the streams, and the memory that batches are copied through. Imports no onnxruntime, onnx.py hands its objects in; knows
nothing of requests. The calls of CUDA are in cuda_runtime.py.

How it works: all inputs of a batch are written one behind the other into page-locked memory, from where the card copies
them in one go, on a stream of its own. The session computes on a second stream that holds until that copy is over, and is told
not to wait for it. It allocates its outputs on the device itself, since nobody knows their shapes before; a third stream
holds until they are computed and copies them into page-locked memory, and one event says when all of them are there. The thread
that waits for that event sleeps. So the copies of one batch go on while another is computed.

The memory is kept, in one slot for each batch in flight, and the slots take turns. What is in a slot is not touched before its
last batch is over, and what `complete` gave is a view of it: it holds until the batch after the next is launched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serve.contract.signature import Signature
from serve.engine.backends.base import Array
from serve.engine.backends.cuda_runtime import DeviceMemory, Event, Runtime, opened

SLOTS = 2  # FLYING_MAX of serve/engine/flying.py
ALIGN_BYTES = 256  # each tensor begins where cudaMalloc could have put it: kernels read several values at once
TARGET = ("cuda", 0)  # the only device that an engine sees, as ONNX Runtime names it
ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16; NumPy has no such type, so its bits travel as uint16
RUN_CONFIG = {
    "disable_synchronize_execution_providers": "1",  # return when all is begun: whoever reads waits for the slot's event
    "gpu_graph_id": "-1",  # record no CUDA graph, as without. But where it is not set, onnxruntime 1.31 finds out in 25 us
}

Value = Any  # an OrtValue


@dataclass(slots=True, eq=False)
class Slot:
    """One batch in flight, or the last one that was."""

    copied: Event  # its inputs are on the device
    computed: Event
    over: Event  # nothing of it is under way any more
    staged: Array
    there: DeviceMemory
    back: Array
    values: list[Value] = field(default_factory=list)  # outputs on the device; the session uses their memory again once dropped
    flying: bool = False


@dataclass(frozen=True, slots=True)
class Landing:
    """Outputs on their way to the host: not to be read before the slot's `over`."""

    slot: Slot
    outputs: list[Array]


class OnDevice:
    def __init__(self, runtime: Runtime) -> None:
        self._cuda = runtime
        self._to, self.computes, self._back = runtime.stream(), runtime.stream(), runtime.stream()
        self._slots = [self._slot() for _ in range(SLOTS)]
        self._turn = 0

    def _slot(self) -> Slot:
        cuda = self._cuda
        return Slot(cuda.event(), cuda.event(), cuda.event(), cuda.host_memory(ALIGN_BYTES), cuda.device_memory(ALIGN_BYTES),
                    cuda.host_memory(ALIGN_BYTES))  # fmt: skip

    def launch(self, inputs: Sequence[tuple[Array, np.dtype[Any]]], compute: Callable[[Sequence[int]], list[Value]],
               gives: Sequence[np.dtype[Any]]) -> Landing:  # fmt: skip
        """`inputs`: each with the type it must have. `compute` begins the computation from the addresses of the inputs."""
        slot = self._slots[self._turn]
        assert not slot.flying, f"at most {SLOTS} batches fly"
        self._turn = (self._turn + 1) % SLOTS
        self._cuda.wait(slot.over)  # in the past, unless the last one failed while it was launched
        slot.values.clear()
        try:
            slot.values = compute(self._send(slot, inputs))
            outputs = self._fetch(slot, gives)
        except Exception:
            self._give_up(slot)
            raise
        slot.flying = True
        return Landing(slot, outputs)

    def complete(self, landing: Landing) -> list[Array]:
        slot = landing.slot
        slot.flying = False
        self._cuda.wait(slot.over)
        slot.values.clear()
        return landing.outputs

    def _send(self, slot: Slot, inputs: Sequence[tuple[Array, np.dtype[Any]]]) -> list[int]:
        """Begin the copy of all inputs. Their addresses on the device."""
        cuda = self._cuda
        offsets, size = packed([array.nbytes for array, _ in inputs])
        if size > slot.there.size:
            slot.staged, slot.there = cuda.host_memory(_rounded(size)), cuda.device_memory(_rounded(size))
        for (array, dtype), offset in zip(inputs, offsets, strict=True):
            np.copyto(np.ndarray(array.shape, dtype, slot.staged, offset), array, casting="no")
        if size:
            cuda.copy(slot.there.address, slot.staged.ctypes.data, size, self._to)
        cuda.mark(slot.copied, self._to)
        cuda.hold(self.computes, slot.copied)
        return [slot.there.address + offset for offset in offsets]

    def _fetch(self, slot: Slot, gives: Sequence[np.dtype[Any]]) -> list[Array]:
        """Begin the copies of all outputs. The places where they will be."""
        cuda = self._cuda
        sizes = [value.tensor_size_in_bytes() for value in slot.values]
        offsets, size = packed(sizes)
        if size > slot.back.nbytes:
            slot.back = cuda.host_memory(_rounded(size))
        cuda.mark(slot.computed, self.computes)
        cuda.hold(self._back, slot.computed)
        for value, offset, nbytes in zip(slot.values, offsets, sizes, strict=True):
            if nbytes:
                cuda.copy(slot.back.ctypes.data + offset, value.data_ptr(), nbytes, self._back)
        cuda.mark(slot.over, self._back)
        return [np.ndarray(tuple(value.shape()), dtype, slot.back, offset)
                for value, dtype, offset in zip(slot.values, gives, offsets, strict=True)]  # fmt: skip

    def _give_up(self, slot: Slot) -> None:
        """Part of it may have been begun: the slot is over when that is, which comes after the copy to the device by itself."""
        cuda = self._cuda
        cuda.mark(slot.computed, self.computes)
        cuda.hold(self._back, slot.computed)
        cuda.mark(slot.over, self._back)


class DeviceRun:
    """One session on the device, for inputs and outputs in the order of a signature."""

    def __init__(self, device: OnDevice, session: Any, options: Any, signature: Signature) -> None:
        """`options`: onnxruntime's RunOptions, to be filled."""
        for key, value in RUN_CONFIG.items():
            options.add_run_config_entry(key, value)
        self._device, self._session, self._options = device, session, options
        self._takes = [(spec.name, *_types(spec.dtype)) for spec in signature.inputs]
        self._wanted = [spec.name for spec in signature.outputs]
        self._gives = [_types(spec.dtype)[0] for spec in signature.outputs]

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        return self.complete(self.launch(inputs))

    def launch(self, inputs: Sequence[Array]) -> Landing:
        typed = [(array, dtype) for array, (_, dtype, _) in zip(inputs, self._takes, strict=True)]
        return self._device.launch(typed, lambda addresses: self._compute(inputs, addresses), self._gives)

    def complete(self, landing: Landing) -> Sequence[Array]:
        return self._device.complete(landing)

    def _compute(self, inputs: Sequence[Array], addresses: Sequence[int]) -> list[Value]:
        binding = self._session.io_binding()  # a new one each time: the runtime would write into the outputs that an old one has
        for (name, _, element), array, address in zip(self._takes, inputs, addresses, strict=True):
            binding.bind_input(name, *TARGET, element, array.shape, address)
        for name in self._wanted:
            binding.bind_output(name, *TARGET)
        self._session.run_with_iobinding(binding, self._options)
        values: list[Value] = binding.get_outputs()
        return values


def packed(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where tensors of so many bytes lie one behind the other, and where the last one ends."""
    offsets, end = list[int](), 0
    for size in sizes:
        offsets.append(-(-end // ALIGN_BYTES) * ALIGN_BYTES)
        end = offsets[-1] + size
    return offsets, end


def _rounded(size: int) -> int:
    """To a power of two, so that batches that grow row by row need new memory, for which the card stops, only a few times."""
    return 1 << (size - 1).bit_length()


def _types(dtype: str) -> tuple[np.dtype[Any], Any]:
    """NumPy's, and what bind_input takes for the element."""
    if dtype == "bfloat16":
        return np.dtype(np.uint16), ONNX_BFLOAT16
    return np.dtype(dtype), np.dtype(dtype).type


def why_not(session: Any) -> str:
    """Why a session cannot be bound to the device; "" when it can."""
    text = next((node.name for node in (*session.get_inputs(), *session.get_outputs()) if node.type == "tensor(string)"), None)
    if text is not None:
        return f"{text!r} holds strings, which are on the host only"
    # The runtime copies such an input back to the host when it is bound, and where none of the model runs on the device, on no
    # stream of ours: it could be read before it has come.
    infos = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
    host = next((node.name for node, info in infos if info.name == "Cpu"), None)
    return "" if host is None else f"what takes {host!r} runs on the CPU"


def chosen(runtime: Callable[[], Runtime] = opened) -> OnDevice | str:
    """The device of this engine, or why it cannot be used so."""
    try:
        return OnDevice(runtime())
    except (OSError, RuntimeError) as e:
        return str(e)
