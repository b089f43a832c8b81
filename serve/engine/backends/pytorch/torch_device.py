"""PyTorch on a GPU: whether there is one, and how arrays travel to it and back. The only file that touches torch.cuda.

`Driver` is the seam: CudaDriver is the real one, tests bring a scripted one, so that the rest is driven without a device.
Imports no torch, its callers hand it in. Knows nothing of programs and signatures.

How it works: an input is written into page-locked memory, from where the GPU copies it without the CPU, on a stream of its own;
what is computed from it waits for that copy, on the device. Outputs come back the same way on a third stream, and one event says
when all of a batch are there. So the copies of one batch go on while another is computed. The thread that waits for the event
sleeps, it does not spin. torch's own allocator of page-locked memory keeps the pieces, and gives none out again before the copies
from or to it are over; `record_stream` tells the one of the device's memory who else uses a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import numpy as np

from evenkeel.serve.contract.manifest import Gpu
from evenkeel.serve.engine.backends.base import Array, LoadOptions
from evenkeel.serve.engine.backends.gpu.assigned_device import memory_limit, unused
from evenkeel.serve.engine.backends.gpu.cuda_graphs import Graphs
from evenkeel.serve.engine.backends.pytorch.torch_graphs import Compute, TorchGraph, recorded
from evenkeel.serve.errors import BadModel

Tensor = Any
CAPABILITY = {"bf16": (8, 0), "tf32": (8, 0)}  # of the first GPUs that compute so: Ampere


class Driver(Protocol):
    target: str  # where tensors are, as torch names it

    def why_not(self) -> str:
        """Why there is no device to use; "" when there is."""

    def capability(self) -> tuple[int, int]:
        """The GPU's generation, as NVIDIA counts: (7, 5) for a T4, (9, 0) for an H200."""

    def name(self) -> str: ...

    def memory_bytes(self) -> int:
        """Of the whole GPU, or slice."""

    def limit_memory(self, share: float) -> None:
        """What this process may allocate of it; beyond that is out of memory."""

    def use_tf32(self, on: bool) -> None:
        """Whether float32 products may be rounded to TF32."""

    def staging(self, shape: tuple[int, ...], dtype: Any) -> Tensor:
        """Uninitialised page-locked memory of the host."""

    def to_device(self, staged: Tensor) -> Tensor:
        """Begin the copy. What is computed from now on comes after it."""

    def to_host(self, tensor: Tensor) -> Tensor:
        """Begin the copy, after all that was begun before. Not to be read before `wait` for a later `mark`."""

    def mark(self) -> Any:
        """The end of all copies to the host that have been begun."""

    def wait(self, mark: Any) -> None:
        """Sleep until then. Raises what failed on the device."""

    def record(self, compute: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        """As torch_graphs.Recorder says."""

    def allocated_bytes(self) -> int: ...

    def used_bytes(self) -> tuple[int, int]:
        """By tensors of this process: now, and at most since `forget_peak`."""

    def forget_peak(self) -> None: ...


class CudaDriver:
    """Device 0 is the only one that an engine sees."""

    target = "cuda:0"

    def __init__(self, torch: Any) -> None:
        self._torch, self._streams = torch, cast(tuple[Any, Any], None)  # for copies to the device and from it
        self._pool: Any = None  # of the memory of all graphs

    def why_not(self) -> str:
        torch = self._torch
        if torch.version.cuda is None:
            return f"torch {torch.__version__} is built without CUDA: use the GPU image, or install torch for CUDA"
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as e:
            return f"torch {torch.__version__} for CUDA {torch.version.cuda} cannot use it: {str(e).splitlines()[0]}"
        return "" if torch.cuda.device_count() else f"torch {torch.__version__} sees no device"

    def capability(self) -> tuple[int, int]:
        major, minor = self._torch.cuda.get_device_capability(0)
        return major, minor

    def name(self) -> str:
        return str(self._torch.cuda.get_device_name(0))

    def memory_bytes(self) -> int:
        return int(self._torch.cuda.get_device_properties(0).total_memory)

    def limit_memory(self, share: float) -> None:
        self._torch.cuda.set_per_process_memory_fraction(share, 0)

    def use_tf32(self, on: bool) -> None:
        self._torch.backends.cuda.matmul.allow_tf32 = on
        self._torch.backends.cudnn.allow_tf32 = on  # on by default: answers that differ from the CPU's must be asked for

    def staging(self, shape: tuple[int, ...], dtype: Any) -> Tensor:
        return self._torch.empty(shape, dtype=dtype, pin_memory=True)

    def to_device(self, staged: Tensor) -> Tensor:
        cuda, (to, _) = self._torch.cuda, self._copying()
        with cuda.stream(to):
            moved = staged.to(self.target, non_blocking=True)
        computes = cuda.current_stream()
        computes.wait_stream(to)
        moved.record_stream(computes)
        return moved

    def to_host(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == "cpu":  # some programs make an output there whatever they run on
            return tensor
        cuda, (_, back) = self._torch.cuda, self._copying()
        on_host = self._torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        back.wait_stream(cuda.current_stream())
        with cuda.stream(back):
            on_host.copy_(tensor, non_blocking=True)
        tensor.record_stream(back)
        return on_host

    def mark(self) -> Any:
        end = self._torch.cuda.Event(blocking=True)  # without it the waiting thread spins on a core
        end.record(self._copying()[1])
        return end

    def wait(self, mark: Any) -> None:
        mark.synchronize()

    def record(self, compute: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        cuda = self._torch.cuda
        if self._pool is None:
            self._pool = cuda.graph_pool_handle()
        graph, before = cuda.CUDAGraph(), cuda.current_stream()
        try:
            with cuda.graph(graph, pool=self._pool):
                gives = compute()
        finally:
            cuda.set_stream(before)  # a recording that fails leaves its own stream in force
        return graph.replay, gives

    def allocated_bytes(self) -> int:
        self._torch.cuda.empty_cache()  # else what is only kept would hide what grows
        return int(self._torch.cuda.memory_reserved(0))

    def used_bytes(self) -> tuple[int, int]:
        return int(self._torch.cuda.memory_allocated(0)), int(self._torch.cuda.max_memory_allocated(0))

    def forget_peak(self) -> None:
        self._torch.cuda.reset_peak_memory_stats(0)

    def _copying(self) -> tuple[Any, Any]:
        if self._streams is None:
            self._streams = (self._torch.cuda.Stream(), self._torch.cuda.Stream())
        return self._streams


class TorchTransfers:
    def __init__(self, torch: Any, gpu: Gpu, driver: Driver, sharers: int = 1) -> None:
        self._torch, self._driver, self.target, self._dtype = torch, driver, driver.target, gpu.dtype
        self._half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(gpu.dtype)
        driver.use_tf32(gpu.dtype == "tf32")
        gpu_bytes = driver.memory_bytes()
        self._limit_bytes = memory_limit(gpu, gpu_bytes, sharers)
        driver.limit_memory(self._limit_bytes / gpu_bytes)
        self._lent: list[tuple[Array, Tensor]] = []  # and not launched yet
        self._peak_bytes, self._taken_bytes = 0, dict[int, int]()  # before the last `forget_peak`; by a batch of so many rows

    def graphs(self, rows_axis: bool) -> Graphs[TorchGraph]:
        return Graphs(self._limit_bytes, rows_axis)

    def recorded(self, compute: Compute, takes: list[Tensor], rows_axis: bool) -> TorchGraph:
        return recorded(self._torch, self._driver, compute, takes, rows_axis)

    def lend(self, places: Sequence[tuple[tuple[int, ...], Any]]) -> list[Array]:
        """Page-locked arrays of these shapes and torch's types, from which `put` copies nothing on the host."""
        self._lent = [self._staged(shape, dtype) for shape, dtype in places]
        return [array for array, _ in self._lent]

    def put(self, array: Array, dtype: Any) -> Tensor:
        """`dtype` is torch's; of bfloat16 the array holds the bits."""
        for lent, staged in self._lent:
            if lent is array:
                return self._driver.to_device(staged)
        host, staged = self._staged(array.shape, dtype)
        np.copyto(host, array, casting="no")
        return self._driver.to_device(staged)

    def _staged(self, shape: tuple[int, ...], dtype: Any) -> tuple[Array, Tensor]:
        staged = self._driver.staging(shape, dtype)
        bits = dtype is self._torch.bfloat16
        return staged.view(self._torch.int16).numpy().view(np.uint16) if bits else staged.numpy(), staged

    def launched(self) -> None:
        """What was lent is under way: it must not be taken for a place again."""
        self._lent = []

    def allocated_bytes(self) -> int:
        return self._driver.allocated_bytes()

    def begin_get(self, outputs: Sequence[Tensor], dtypes: Sequence[Any]) -> tuple[list[Tensor], Any]:
        """On the host, to be read after `wait` for the mark. What the faster arithmetic gave in 16 bits becomes what the
        signature says."""
        back = [self._driver.to_host(self._as(t.detach(), dtype)) for t, dtype in zip(outputs, dtypes, strict=True)]
        return back, self._driver.mark()

    def wait(self, mark: Any) -> None:
        self._driver.wait(mark)

    def _as(self, tensor: Tensor, dtype: Any) -> Tensor:
        return tensor.to(dtype) if self._half is not None and tensor.dtype is self._half else tensor

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Products in 16 bits where asked for, and what needs more stays in 32: torch's autocast."""
        if self._half is None:
            return nullcontext()
        autocast: AbstractContextManager[Any] = self._torch.autocast(self.target.partition(":")[0], dtype=self._half)
        return autocast

    def measure(self, rows: int, run: Callable[[], object]) -> None:
        """Learn what a batch of so many rows takes of the GPU, beyond what lies there anyway. `run`: that batch, to its end."""
        self._peak_bytes = max(self._peak_bytes, self._driver.used_bytes()[1])
        self._driver.forget_peak()
        before, _ = self._driver.used_bytes()
        run()
        self._taken_bytes[rows] = max(self._taken_bytes.get(rows, 0), self._driver.used_bytes()[1] - before)

    def describe(self) -> dict[str, str]:
        """`gpu_used_mb`: what lies there between batches, the model above all; `gpu_peak_mb`: what the largest batch so far took
        with it; `gpu_batch_mb`: what batches took beside that, by their rows, of whatever shape took the most."""
        used, peak = self._driver.used_bytes()
        taken = ", ".join(f"{rows}: {-(-size // (1 << 20))}" for rows, size in sorted(self._taken_bytes.items()))
        return {"gpu": self._driver.name(), "gpu_dtype": self._dtype or "as the model",
                "gpu_memory_mb": str(self._limit_bytes >> 20), "gpu_used_mb": str(used >> 20),
                "gpu_peak_mb": str(max(peak, self._peak_bytes) >> 20), "gpu_batch_mb": taken}  # fmt: skip


def chosen(torch: Any, gpu: Gpu, options: LoadOptions, driver: Driver | None = None) -> TorchTransfers | None:
    """The device of this engine; None: the CPU. Raises BadModel when there should be one, or it cannot do what is asked."""
    if not options.device:
        return None
    driver = driver or CudaDriver(torch)
    why = driver.why_not()
    if why:
        unused(options, why)
        return None
    if driver.capability() < CAPABILITY.get(gpu.dtype, (0, 0)):
        raise BadModel(f"model.toml: gpu.dtype = {gpu.dtype!r}, which {driver.name()} cannot compute: take fp16, or leave it out")
    return TorchTransfers(torch, gpu, driver, options.sharers)
