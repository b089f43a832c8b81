"""What frameworks raise, told apart: too little memory, a lost device, anything else. And what the engine makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from evenkeel.serve.batching.cost import Curve
from evenkeel.serve.contract.status_page import Engine
from evenkeel.serve.engine.backends.base import RawReply
from evenkeel.serve.engine.failures import DEVICE_LOST_ERRORS, DeviceLost, translated
from evenkeel.serve.errors import BadRequest, ModelFailed, OutOfMemory
from tests.support.engine_bench import Answer, Bench, Fault, answer, only
from tests.support.models import Array, ScriptedBackend, raw_replica, replica, signature, spec, twice_plus_one

PAIR = signature([spec("x", 2)], [spec("y", 2)])

# As torch 2.x and ONNX Runtime 1.2x word them; the first three were provoked on a CPU.
TORCH_CPU = ("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
             "281474976710656 bytes. Error code 12 (Cannot allocate memory)")  # fmt: skip
ORT_CPU = ("[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Expand node. Name:'' Status Message: "
           "bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to "
           "allocate memory for requested buffer of size 70368744177664")  # fmt: skip
TORCH_CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.00 GiB"
CUDA_FULL = "CUDA error: words to come (cudaErrorMemoryAllocation by cudaMalloc)"
ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported at some other API call"
ILLEGAL = "CUDA error: an illegal memory access was encountered"
ORT_ILLEGAL = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h ; expr=cudaEventRecord(event)"


def error_of(module: str, name: str, words: str) -> Exception:
    kind = type(name, (Exception,), {"__module__": module})
    found: Exception = kind(words)
    return found


def from_backend(cause: Exception) -> ModelFailed:
    """As the backends raise it: our words, and the framework's error behind them."""
    error = ModelFailed(f"somewhere: {cause}")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((1 << 50,), np.dtype(float)),  # type: ignore[attr-defined]
        RuntimeError(TORCH_CPU),
        RuntimeError(CUDA_FULL),
        error_of("onnxruntime.capi.onnxruntime_pybind11_state", "Fail", ORT_CPU),
        error_of("torch", "OutOfMemoryError", TORCH_CUDA),
        error_of(
            "torch.jit", "Error", f"The following operation failed in the TorchScript interpreter.\nRuntimeError: {TORCH_CPU}"
        ),
    ],
)
def test_too_little_memory_is_told_whoever_words_it(error: Exception) -> None:
    assert isinstance(translated(error), OutOfMemory)
    assert isinstance(translated(from_backend(error)), OutOfMemory)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ASSERT),
        RuntimeError(ILLEGAL),
        RuntimeError("CUDA error: words to come (cudaErrorIllegalAddress by cudaEventSynchronize)"),
        error_of("torch", "AcceleratorError", ASSERT),
        error_of("onnxruntime.capi.onnxruntime_pybind11_state", "Fail", ORT_ILLEGAL),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: misaligned address"),
    ],
)
def test_a_device_that_only_a_new_process_can_use_is_lost(error: Exception) -> None:
    with pytest.raises(DeviceLost):
        translated(error)
    with pytest.raises(DeviceLost):
        translated(from_backend(error))


# cudaGetErrorString of every error that leaves the process without its device; the last is what the driver's log says.
STICKY = ("device-side assert triggered", "an illegal memory access was encountered", "unspecified launch failure",
          "misaligned address", "an illegal instruction was encountered", "hardware stack error", "invalid program counter",
          "operation not supported on global/shared address space", "the launch timed out and was terminated",
          "uncorrectable ECC error encountered", "uncorrectable NVLink error detected during the execution",
          "context is destroyed", "unknown error", "GPU has fallen off the bus")  # fmt: skip
PASSING = ("invalid argument", "invalid device ordinal", "no kernel image is available for execution on the device",
           "invalid configuration argument", "CUBLAS_STATUS_NOT_SUPPORTED when calling cublasGemmEx", "operation not permitted",
           "invalid resource handle", "too many resources requested for launch")  # fmt: skip


@pytest.mark.parametrize("words", STICKY)
def test_each_error_after_which_cuda_wants_a_new_process_is_a_lost_device(words: str) -> None:
    with pytest.raises(DeviceLost):
        translated(RuntimeError(f"CUDA error: {words}"))
    with pytest.raises(DeviceLost):
        translated(from_backend(error_of("torch", "AcceleratorError", f"CUDA error: {words}")))


@pytest.mark.parametrize("number", sorted(DEVICE_LOST_ERRORS))
def test_each_such_error_is_known_by_number_and_by_both_its_names(number: int) -> None:
    name = DEVICE_LOST_ERRORS[number]
    runtime = "cudaError" + name.title().replace("_", "")
    for words in (f"CUDA failure {number}: words to come ; GPU=0", f"CUDA_ERROR_{name.upper()}", f"{runtime}: words to come"):
        with pytest.raises(DeviceLost):
            translated(error_of("onnxruntime.capi.onnxruntime_pybind11_state", "Fail", words))


@pytest.mark.parametrize("words", PASSING)
def test_an_error_of_one_call_leaves_the_device_usable(words: str) -> None:
    assert type(translated(RuntimeError(f"CUDA error: {words}"))) is ModelFailed


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory, says the client"),
        RuntimeError("the client wrote: CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: invalid argument"),
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        KeyError("bad_alloc"),
    ],
)
def test_anything_else_is_the_models_error_and_a_clients_words_are_no_framework_s(error: Exception) -> None:
    found = translated(error)
    assert type(found) is ModelFailed and type(error).__name__ in found.message


def test_our_own_errors_stay_what_they_are() -> None:
    error = BadRequest("CUDA error: device-side assert triggered")
    assert translated(error) is error


def fits(rows: int) -> Any:
    def run(inputs: Sequence[Array]) -> list[Array]:
        if len(inputs[0]) > rows:
            raise MemoryError
        return twice_plus_one(inputs)

    return run


@pytest.mark.parametrize("together", [True, False])
def test_a_batch_that_does_not_fit_into_memory_is_halved_and_later_ones_are_smaller(together: bool) -> None:
    made = replica(PAIR, fits(10), rows_max=64)
    with Bench(made) as bench:
        front, told = bench.front(), []
        bench.model.queue.on_change = lambda: told.append(made.rows_fit)
        rows = [[[[float(i), 0.0]]] for i in range(40)]
        ids = front.submit_all(rows) if together else [front.submit(*r) for r in rows]
        bench.turn(8)
        replies = front.replies()
        assert [answer(replies, id)[0].tolist() for id in ids] == [[[2.0 * i + 1, 1.0]] for i in range(40)]
        backend = made.backend
        assert isinstance(backend, ScriptedBackend)
        assert backend.sizes == [40, 20, 10, 10, 20, 10, 10] and told == [20, 10]
        assert (made.rows_max, made.rows_fit, bench.block.count[Engine.ROWS_FIT]) == (10, 10, 10)
        front.submit_all(rows)
        bench.turn(8)
        assert backend.sizes[7:] == [10, 10, 10, 10]


def test_a_large_request_that_does_not_fit_runs_in_parts() -> None:
    with Bench(replica(PAIR, fits(10), rows_max=64)) as bench:
        front = bench.front()
        id = front.submit([[float(i), 0.0] for i in range(40)])
        bench.turn(8)
        assert answer(front.replies(), id)[0][:, 0].tolist() == [2.0 * i + 1 for i in range(40)]


def test_only_an_item_that_does_not_fit_alone_is_refused() -> None:
    def run(inputs: Sequence[Array]) -> list[Array]:
        if (inputs[0] < 0).any():
            raise MemoryError
        return twice_plus_one(inputs)

    with Bench(replica(PAIR, run, rows_max=64)) as bench:
        front = bench.front()
        ids = [front.submit([[float(-1 if i == 5 else i), 0.0]]) for i in range(9)]
        large = front.submit([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]])
        bench.turn(12)
        replies = front.replies()
        for id in (ids[5], large):
            refused = replies[id]
            assert isinstance(refused, Fault) and refused.code == "out_of_memory"
        assert all(isinstance(r, Answer) for id, r in replies.items() if id not in (ids[5], large)) and len(replies) == 10


def test_a_lost_device_ends_the_engine_before_anybody_is_told_anything() -> None:
    def run(inputs: Sequence[Array]) -> list[Array]:
        raise RuntimeError(ASSERT)

    with Bench(replica(PAIR, run)) as bench:
        front = bench.front()
        front.submit([[1.0, 2.0]])
        with pytest.raises(DeviceLost):
            bench.turn()
        assert front.replies() == {}, "the front runs it again elsewhere"


def test_a_handler_without_memory_is_told_apart_too() -> None:
    def handle(requests: Sequence[Any]) -> list[Any]:
        return [from_backend(MemoryError()) if r.body == b"large" else RawReply(b"ok", "text/plain") for r in requests]

    with Bench(raw_replica(handle)) as bench:
        front = bench.front()
        front.submit_raw(b"large")
        bench.turn()
        reply = only(front.replies())
        assert isinstance(reply, Fault) and reply.code == "out_of_memory"


def test_a_handlers_batch_without_memory_is_halved_later_ones_are_smaller_and_only_who_does_not_fit_alone_is_refused() -> None:
    sizes: list[int] = []

    def handle(requests: Sequence[Any]) -> list[Any]:
        sizes.append(len(requests))
        if len(requests) > 10 or any(r.body == b"huge" for r in requests):
            return [from_backend(MemoryError()) for _ in requests]
        return [RawReply(b"ok " + r.body, "text/plain") for r in requests]

    made = raw_replica(handle, rows_max=64)
    made.cost.default = Curve([1, 64], [1e-3, 1.01e-3])
    with Bench(made) as bench:
        front = bench.front()
        ids = [front.submit_raw(b"%d" % i) for i in range(40)]
        bench.turn(8)
        replies = front.replies()
        assert all(isinstance(r, Answer) and r.raw.endswith(b"ok %d" % i) for i, r in enumerate(replies[id] for id in ids))
        assert sizes == [40, 20, 10, 10, 20, 10, 10]
        assert (made.rows_max, made.rows_fit, bench.block.count[Engine.ROWS_FIT]) == (10, 10, 10)
        assert bench.block.count[Engine.ROWS] == 40, "each is counted once"
        ids = [front.submit_raw(b"huge" if i == 3 else b"small") for i in range(10)]
        bench.turn(8)
        replies = front.replies()
        refused = replies[ids[3]]
        assert isinstance(refused, Fault) and refused.code == "out_of_memory"
        assert all(isinstance(replies[id], Answer) for id in ids if id != ids[3]) and len(replies) == 10


def test_one_of_a_handlers_batch_without_memory_is_tried_alone_before_it_is_refused() -> None:
    def handle(requests: Sequence[Any]) -> list[Any]:
        return [MemoryError() if r.body == b"large" and len(requests) > 1 else RawReply(b"ok", "text/plain") for r in requests]

    made = raw_replica(handle, rows_max=64)
    made.cost.default = Curve([1, 64], [1e-3, 1.01e-3])
    with Bench(made) as bench:
        front = bench.front()
        for i in range(4):
            front.submit_raw(b"large" if i == 2 else b"small")
        bench.turn(8)
        assert [type(r) for r in front.replies().values()] == [Answer] * 4
        assert made.rows_max == 64, "that was its own need, and no limit of batches"
