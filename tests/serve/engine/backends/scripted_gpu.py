"""A GPU whose memory is the host's, for the seam in serve/engine/backends/gpu/cuda_runtime.py, and a session of ONNX Runtime on
it.

As late as a device can be: nothing that is begun is done before somebody waits for an event, and then only what comes before
that event. From the moment a copy or a computation is begun until it is done, the place of its result holds garbage. So
whoever forgets to wait, lets two batches have one place, or gives memory back too early, serves garbage or fails.
The computation itself is real: ONNX Runtime's CPU provider, by IO binding over the same addresses.

A session that records graphs begins the recorded one at each later run with its number, whatever is bound by then; and where its
own memory is in the way, a graph that runs destroys the outputs of runs without one.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from evenkeel.serve.engine.backends.gpu.cuda_runtime import DeviceMemory

Array = np.ndarray[Any, Any]
NAMES = ("to", "compute", "back")  # of the streams, as they are made
GARBAGE = 0xFF  # NaN in every float type, -1 in the signed integers


@dataclass(eq=False)
class Region:
    kind: str  # host, device or value
    address: int
    size: int
    alive: bool = True


class ScriptedGpu:
    """`did` tells what was begun, in order. `fails`: what each wait raises from now on; `refuses`: what a call raises.
    `hasty`: at each wait first all is computed that may be, also of batches launched later."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.fails, self.hasty = "", False
        self.refuses: dict[str, str] = {}
        self.regions: list[Region] = []
        self.of_graphs, self.of_a_graph = 0, 1 << 20
        self._kept: list[Any] = []  # memory outlives its region, so that a late access is told and not a crash
        self._begun: list[list[Callable[[], None]]] = []
        self._done: list[int] = []
        self._events = 0
        self._marks: dict[int, tuple[int, int]] = {}

    # ---- the seam --------------------------------------------------------------------------------------------------

    def host_memory(self, size: int) -> Array:
        self._may("host_memory")
        bytes_ = (ctypes.c_ubyte * size).from_address(self._memory(size))
        self._ends_with(bytes_, Region("host", ctypes.addressof(bytes_), size))
        return np.frombuffer(memoryview(bytes_), np.uint8)

    def device_memory(self, size: int) -> DeviceMemory:
        self._may("device_memory")
        memory = DeviceMemory(self._memory(size), size)
        self._ends_with(memory, Region("device", memory.address, size))
        return memory

    def stream(self) -> int:
        self._begun.append([])
        self._done.append(0)
        return len(self._begun)

    def event(self) -> int:
        self._events += 1
        return 1000 + self._events

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        self._may("copy")
        assert size, "an empty copy: what CUDA says to it is not known here"
        self.did.append(f"copy {size} on {NAMES[stream - 1]}")
        there, here = self.region(to, size), self.region(source, size)
        within = there.kind == here.kind == "device" and NAMES[stream - 1] == "compute"
        assert within or ("host" in (there.kind, here.kind) and there.kind != here.kind)
        ctypes.memset(to, GARBAGE, size if not within else 0)  # within the device others may still have to read what is there

        def copy() -> None:
            assert there.alive and here.alive, "memory was given back before the copy was over"
            ctypes.memmove(to, source, size)

        self.begin(stream, copy)

    def mark(self, event: int, stream: int) -> None:
        self.did.append(f"mark {NAMES[stream - 1]}")
        self._marks[event] = stream, len(self._begun[stream - 1])

    def hold(self, stream: int, event: int) -> None:
        until = self._marks[event]
        self.did.append(f"hold {NAMES[stream - 1]} for {NAMES[until[0] - 1]}")
        self.begin(stream, lambda: self._finish(*until))

    def wait(self, event: int) -> None:
        if event not in self._marks:
            return
        self.did.append("wait")
        if self.fails:
            raise RuntimeError(self.fails)
        if self.hasty:
            self._finish(2, len(self._begun[1]))
        self._finish(*self._marks[event])

    def taken_bytes(self) -> int:
        return self.of_graphs + sum(self.sizes("device"))

    # ---- behind it -------------------------------------------------------------------------------------------------

    def begin(self, stream: int, work: Callable[[], None]) -> None:
        self._begun[stream - 1].append(work)

    def _finish(self, stream: int, until: int) -> None:
        while self._done[stream - 1] < until:
            self._done[stream - 1] += 1
            self._begun[stream - 1][self._done[stream - 1] - 1]()

    def region(self, address: int, size: int) -> Region:
        """The youngest one there: the allocator of the values uses addresses again."""
        fitting = [r for r in self.regions if r.address <= address and address + size <= r.address + r.size]
        assert fitting, f"{size} bytes at {address} are nobody's"
        return fitting[-1]

    def values_alive(self) -> int:
        return sum(r.kind == "value" and r.alive for r in self.regions)

    def sizes(self, kind: str) -> list[int]:
        return [r.size for r in self.regions if r.kind == kind and r.alive]

    def keep(self, holder: Any, value: Any) -> None:
        """A value that the session gave, for as long as `holder` is held."""
        self._kept.append(value)
        ctypes.memset(value.data_ptr(), GARBAGE, value.tensor_size_in_bytes())
        self._ends_with(holder, Region("value", value.data_ptr(), value.tensor_size_in_bytes()))

    def _memory(self, size: int) -> int:
        memory = np.full(size, GARBAGE, np.uint8)
        self._kept.append(memory)
        return int(memory.ctypes.data)

    def _ends_with(self, holder: Any, region: Region) -> None:
        self.regions.append(region)
        weakref.finalize(holder, setattr, region, "alive", False)

    def _may(self, call: str) -> None:
        if call in self.refuses:
            raise RuntimeError(self.refuses[call])


class GpuSession:
    """A real session that says it is on the GPU, and computes on the stream it was given. `computes`: that stream."""

    def __init__(self, real: Any, gpu: ScriptedGpu, in_force: Sequence[str], computes: int, records: bool = False) -> None:
        self._real, self._gpu, self._in_force, self._computes = real, gpu, list(in_force), computes
        self.records, self._graphs = records, dict[str, GpuBinding]()
        self.asked: list[tuple[str, ...]] = []

    def get_input_memory_infos(self) -> list[Any]:
        """Where what takes each input runs."""
        return [SimpleNamespace(name="Cuda") for _ in self._real.get_inputs()]

    def get_providers(self) -> list[str]:
        return self._in_force

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def io_binding(self) -> GpuBinding:
        return GpuBinding()

    def run_with_iobinding(self, binding: GpuBinding, options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1", "or it waits for the device"
        graph, gpu = options.get_run_config_entry("gpu_graph_id"), self._gpu
        if graph != "-1":
            self._by_graph(graph, binding)
            return
        gpu.did.append("run")
        gpu._may("run")
        places = self._places(binding)
        values = self._computed(binding, zeros=True)  # for their shapes, which a session knows when it has begun all
        binding.values = [GpuValue(value) for value in values]
        for holder, value in zip(binding.values, values, strict=True):
            gpu.keep(holder, value)

        def compute() -> None:
            assert all(p.alive for p in places), "memory was given back before the computation was over"
            for value, result in zip(values, self._computed(binding), strict=True):
                ctypes.memmove(value.data_ptr(), result.data_ptr(), value.tensor_size_in_bytes())

        gpu.begin(self._computes, compute)

    def _by_graph(self, graph: str, binding: GpuBinding) -> None:
        gpu = self._gpu
        assert self.records, "enable_cuda_graph was not asked for"
        if graph not in self._graphs:
            gpu.did.append("record")
            gpu._may("record")
            self._graphs[graph] = binding
            gpu.of_graphs += gpu.of_a_graph
        gpu.did.append(f"replay {graph}")
        recorded = self._graphs[graph]
        places = self._places(recorded) + [gpu.region(address, _size(*what)) for *what, address in recorded.bound]

        def compute() -> None:
            assert all(p.alive for p in places), "memory was given back before the computation was over"
            for value, (*_, address) in zip(self._computed(recorded), recorded.bound, strict=True):
                ctypes.memmove(address, value.data_ptr(), value.tensor_size_in_bytes())
            for value in [r for r in gpu.regions if r.kind == "value" and r.alive]:
                ctypes.memset(value.address, GARBAGE, value.size)

        gpu.begin(self._computes, compute)

    def _places(self, binding: GpuBinding) -> list[Region]:
        places = [self._gpu.region(address, _size(element, shape)) for _, element, shape, address in binding.inputs]
        assert {p.kind for p in places} == {"device"}
        return places

    def _computed(self, binding: GpuBinding, zeros: bool = False) -> list[Any]:
        real, held = self._real.io_binding(), []
        for name, element, shape, address in binding.inputs:
            held.append(np.zeros(max(1, int(np.prod(shape))) * 8, np.uint8))
            real.bind_input(name, "cpu", 0, element, shape, held[-1].ctypes.data if zeros else address)
        for name in binding.outputs:
            real.bind_output(name, "cpu", 0)
        self._real.run_with_iobinding(real)
        values: list[Any] = real.get_outputs()
        return values


def _size(element: Any, shape: tuple[int, ...]) -> int:
    """`element`: NumPy's type, or 16 for bfloat16."""
    return int(np.prod(shape)) * (2 if element == 16 else np.dtype(element).itemsize)


class GpuBinding:
    def __init__(self) -> None:
        self.inputs: list[tuple[str, Any, tuple[int, ...], int]] = []
        self.outputs: list[str] = []
        self.bound: list[tuple[Any, tuple[int, ...], int]] = []  # outputs with places of the caller's
        self.values: list[GpuValue] = []

    def bind_input(self, name: str, device: str, number: int, element: Any, shape: tuple[int, ...], address: int) -> None:
        assert (device, number) == ("cuda", 0)
        self.inputs.append((name, element, shape, address))

    def bind_output(
        self, name: str, device: str, number: int, element: Any = None, shape: tuple[int, ...] = (), address: int = 0
    ) -> None:
        assert (device, number) == ("cuda", 0)
        self.outputs.append(name)
        if address:
            self.bound.append((element, shape, address))

    def get_outputs(self) -> list[GpuValue]:
        """Once: what has begun to compute holds the binding, and must not hold the values for whoever drops them."""
        values, self.values = self.values, []
        return values


class GpuValue:
    def __init__(self, real: Any) -> None:
        self._real = real

    def shape(self) -> list[int]:
        return list(self._real.shape())

    def data_ptr(self) -> int:
        return int(self._real.data_ptr())

    def tensor_size_in_bytes(self) -> int:
        return int(self._real.tensor_size_in_bytes())
