"""What libcudart is asked, by a scripted one: each call with its arguments in order, and each answer that is not success."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest

from evenkeel.serve.engine import failures
from evenkeel.serve.engine.backends.gpu.cuda_runtime import LIBRARIES, CudaRuntime, opened
from evenkeel.serve.engine.failures import DEVICE_LOST_ERRORS
from evenkeel.serve.errors import OutOfMemory

MAKES = ("cudaHostAlloc", "cudaMalloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags")
LOST = {number: ("cudaError" + name.title().replace("_", ""), "words to come") for number, name in DEVICE_LOST_ERRORS.items()}
WORDS = {1: ("cudaErrorInvalidValue", "invalid argument"), 2: ("cudaErrorMemoryAllocation", "words to come"), **LOST}


class Call:
    """A function of a library, as ctypes has it: its result has a type that can be set."""

    def __init__(self, library: ScriptedLibrary, name: str) -> None:
        self._library, self._name = library, name
        self.restype: Any = ctypes.c_int

    def __call__(self, *arguments: Any) -> Any:
        return self._library.answer(self._name, self.restype, arguments)


class ScriptedLibrary:
    """`fails`: which calls answer with which number."""

    def __init__(self, **fails: int) -> None:
        self.fails, self.did = fails, list[tuple[Any, ...]]()
        self.memory = (5 << 30, 80 << 30)  # free, and in all
        self._memory = [(ctypes.c_ubyte * 64)() for _ in range(4)]
        self._free = [ctypes.addressof(m) for m in self._memory]

    def __getattr__(self, name: str) -> Call:
        call = Call(self, name)
        setattr(self, name, call)
        return call

    def answer(self, name: str, restype: Any, arguments: tuple[Any, ...]) -> Any:
        if name in ("cudaGetErrorName", "cudaGetErrorString"):
            assert restype is ctypes.c_char_p, "ctypes would give the address"
            return WORDS[arguments[0]][name == "cudaGetErrorString"].encode()
        if name == "cudaMemGetInfo":
            free, total = (a._obj for a in arguments)
            free.value, total.value = self.memory
            return self.fails.get(name, 0)
        made = name in MAKES
        self.did.append((name, *(a.value for a in arguments[made:])))
        assert all(isinstance(a, ctypes._SimpleCData) for a in arguments[made:]), "a plain int is cut to 32 bits"
        if name in self.fails:
            return self.fails[name]
        if made:
            arguments[0]._obj.value = self._free.pop(0)
        return 0


def asked(library: ScriptedLibrary) -> tuple[Any, ...]:
    return library.did[-1]


def test_each_call_has_its_arguments_in_order_and_its_flags() -> None:
    library = ScriptedLibrary()
    cuda = CudaRuntime(library)
    assert asked(library) == ("cudaSetDeviceFlags", 4), "waits inside ONNX Runtime sleep too"
    stream = cuda.stream()
    assert asked(library) == ("cudaStreamCreateWithFlags", 1), "beside the default stream"
    event = cuda.event()
    assert asked(library) == ("cudaEventCreateWithFlags", 3), "who waits for it sleeps, and nobody times it"
    far, near = 0x7F00_0000_1000, 0x7E00_0000_2000
    cuda.copy(far, near, 1 << 33, stream)
    assert asked(library) == ("cudaMemcpyAsync", far, near, 1 << 33, 4, stream)
    cuda.mark(event, stream)
    assert asked(library) == ("cudaEventRecord", event, stream)
    cuda.hold(stream, event)
    assert asked(library) == ("cudaStreamWaitEvent", stream, event, 0)
    cuda.wait(event)
    assert asked(library) == ("cudaEventSynchronize", event)


def test_page_locked_memory_is_bytes_to_write_to_and_goes_with_the_last_view_of_it() -> None:
    library = ScriptedLibrary()
    memory = CudaRuntime(library).host_memory(64)
    assert asked(library) == ("cudaHostAlloc", 64, 0)
    view = np.ndarray((4,), np.float32, memory, 16)
    view[:] = [1, 2, 3, 4]
    address = memory.ctypes.data
    assert ctypes.string_at(address + 16, 16) == view.tobytes()
    del memory
    gc.collect()
    assert asked(library)[0] == "cudaHostAlloc"
    del view
    assert asked(library) == ("cudaFreeHost", address)


def test_memory_of_the_device_goes_with_its_holder_and_nobody_is_told_of_a_failure() -> None:
    library = ScriptedLibrary(cudaFree=700)
    memory = CudaRuntime(library).device_memory(4096)
    assert asked(library) == ("cudaMalloc", 4096) and memory.size == 4096
    address = memory.address
    del memory
    assert asked(library) == ("cudaFree", address)


def test_what_is_taken_of_the_device_is_what_is_not_free() -> None:
    assert CudaRuntime(ScriptedLibrary()).taken_bytes() == 75 << 30


def test_each_error_is_told_by_cudas_words_and_name_and_the_call() -> None:
    library = ScriptedLibrary(cudaMalloc=1)
    with pytest.raises(RuntimeError) as e:
        CudaRuntime(library).device_memory(8)
    assert str(e.value) == "CUDA error: invalid argument (cudaErrorInvalidValue by cudaMalloc)"
    assert asked(library) == ("cudaGetLastError",), "or ONNX Runtime would take the error for its own"


@pytest.mark.parametrize("call", ["cudaHostAlloc", "cudaMalloc"])
def test_memory_that_is_short_is_known_as_such(call: str) -> None:
    cuda = CudaRuntime(ScriptedLibrary(**{call: 2}))
    with pytest.raises(RuntimeError) as e:
        cuda.host_memory(8) if call == "cudaHostAlloc" else cuda.device_memory(8)
    assert isinstance(failures.translated(e.value), OutOfMemory)


@pytest.mark.parametrize("number", sorted(DEVICE_LOST_ERRORS))
def test_each_error_that_leaves_no_device_is_known_as_such(number: int) -> None:
    cuda = CudaRuntime(ScriptedLibrary(cudaEventSynchronize=number))
    with pytest.raises(RuntimeError) as e:
        cuda.wait(cuda.event())
    with pytest.raises(failures.DeviceLost):
        failures.translated(e.value)


CALLS = {"cudaMemcpyAsync": lambda c: c.copy(8, 16, 4, 1), "cudaEventRecord": lambda c: c.mark(1, 2),
         "cudaStreamWaitEvent": lambda c: c.hold(1, 2), "cudaStreamCreateWithFlags": lambda c: c.stream(),
         "cudaEventCreateWithFlags": lambda c: c.event(), "cudaMemGetInfo": lambda c: c.taken_bytes()}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_no_call_fails_in_silence(call: str) -> None:
    cuda = CudaRuntime(ScriptedLibrary(**{call: 700}))
    with pytest.raises(RuntimeError, match=f"cudaErrorIllegalAddress by {call}"):
        CALLS[call](cuda)


@pytest.mark.parametrize("there", LIBRARIES)
def test_the_library_is_found_by_its_name_of_either_cuda(there: str) -> None:
    library = ScriptedLibrary()

    def load(name: str) -> ScriptedLibrary:
        if name != there:
            raise OSError(f"{name}: cannot open shared object file")
        return library

    opened(load)
    assert asked(library) == ("cudaSetDeviceFlags", 4)


def test_where_there_is_none_it_says_what_to_do() -> None:
    with pytest.raises(OSError, match=r"libcudart.so.13, libcudart.so.12 can be loaded \(.*missing.*: use the GPU image, or"):
        opened(lambda name: ctypes.CDLL(name + ".missing"))
