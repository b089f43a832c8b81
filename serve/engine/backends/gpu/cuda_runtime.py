"""CUDA's runtime library, as far as copies beside a computation need it. The only file that calls libcudart.

`Runtime` is the seam: CudaRuntime is the real one, tests bring a scripted one. Streams and events are told by their
addresses, which is how ONNX Runtime takes a stream. Owns none of them: they are made once and last as long as the process.
Memory is given back when nobody holds it any more.

What a call answers but success is raised as torch would word it, "CUDA error: …", which serve/engine/failures.py knows.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from evenkeel.serve.engine.backends.base import Array

# NVIDIA's wheels for CUDA 13 and 12; onnxruntime's preload_dlls has loaded the one it needs, which is then found by its name.
LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
SLEEP_WHILE_WAITING = 4  # cudaDeviceScheduleBlockingSync
NON_BLOCKING = 1  # cudaStreamNonBlocking: anyone who uses the default stream does not hold this one up
SLEEP_NOT_TIMED = 1 | 2  # cudaEventBlockingSync: who waits for it sleeps; cudaEventDisableTiming
BY_ADDRESS = 4  # cudaMemcpyDefault: the driver knows which of the two addresses is the device's
HOST_DEFAULT = 0  # cudaHostAllocDefault: page-locked, nothing else

Stream = int
Event = int


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class DeviceMemory:
    address: int
    size: int


class Runtime(Protocol):
    """`copy`, `mark` and `hold` return at once. Every call may raise what failed on the device before it."""

    def host_memory(self, size: int) -> Array:
        """Page-locked bytes, from and to which the GPU copies by itself. Uninitialised."""

    def device_memory(self, size: int) -> DeviceMemory: ...

    def stream(self) -> Stream:
        """What is begun on one stream runs in that order; streams run beside each other."""

    def event(self) -> Event: ...

    def copy(self, to: int, source: int, size: int, stream: Stream) -> None:
        """Begin it. Both are addresses, at least one of them on the device."""

    def mark(self, event: Event, stream: Stream) -> None:
        """The event is the end of all that has been begun on the stream. Forgets what it was before."""

    def hold(self, stream: Stream, event: Event) -> None:
        """What is begun on the stream from now on comes after the event, as it is marked now."""

    def wait(self, event: Event) -> None:
        """Sleep until then; at once for one never marked. Raises what failed on the device."""

    def taken_bytes(self) -> int:
        """Of the memory of the device, by all who use it."""


class CudaRuntime:
    """Of device 0, the only one that an engine sees."""

    def __init__(self, library: Any) -> None:
        self._library = library
        for name in ("cudaGetErrorName", "cudaGetErrorString"):
            getattr(library, name).restype = ctypes.c_char_p
        # For the waits inside ONNX Runtime: by default they spin on a core that the fronts need.
        self._call("cudaSetDeviceFlags", ctypes.c_uint(SLEEP_WHILE_WAITING))

    def host_memory(self, size: int) -> Array:
        address = self._made("cudaHostAlloc", ctypes.c_size_t(size), ctypes.c_uint(HOST_DEFAULT))
        bytes_ = (ctypes.c_ubyte * size).from_address(address)
        self._freed_with(bytes_, "cudaFreeHost", address)
        return np.frombuffer(memoryview(bytes_), np.uint8)  # views of it hold `bytes_`

    def device_memory(self, size: int) -> DeviceMemory:
        memory = DeviceMemory(self._made("cudaMalloc", ctypes.c_size_t(size)), size)
        self._freed_with(memory, "cudaFree", memory.address)
        return memory

    def stream(self) -> Stream:
        return self._made("cudaStreamCreateWithFlags", ctypes.c_uint(NON_BLOCKING))

    def event(self) -> Event:
        return self._made("cudaEventCreateWithFlags", ctypes.c_uint(SLEEP_NOT_TIMED))

    def copy(self, to: int, source: int, size: int, stream: Stream) -> None:
        self._call("cudaMemcpyAsync", ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size),
                   ctypes.c_int(BY_ADDRESS), ctypes.c_void_p(stream))  # fmt: skip

    def mark(self, event: Event, stream: Stream) -> None:
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def hold(self, stream: Stream, event: Event) -> None:
        self._call("cudaStreamWaitEvent", ctypes.c_void_p(stream), ctypes.c_void_p(event), ctypes.c_uint(0))

    def wait(self, event: Event) -> None:
        self._call("cudaEventSynchronize", ctypes.c_void_p(event))

    def taken_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value

    def _made(self, call: str, *arguments: Any) -> int:
        """The address that a call writes where its first argument points."""
        place = ctypes.c_void_p()
        self._call(call, ctypes.byref(place), *arguments)
        assert place.value is not None, f"{call} answered success"
        return place.value

    def _call(self, call: str, *arguments: Any) -> None:
        code = getattr(self._library, call)(*arguments)
        if code == 0:
            return
        # The library keeps the last error until somebody asks, and ONNX Runtime would take it for one of its own kernels'.
        self._library.cudaGetLastError()
        name, words = (text(code).decode() for text in (self._library.cudaGetErrorName, self._library.cudaGetErrorString))
        raise RuntimeError(f"CUDA error: {words} ({name} by {call})")

    def _freed_with(self, holder: Any, call: str, address: int) -> None:
        """Nobody could be told of a failure; on a lost device the next call says so. Not at exit: all goes with the process."""
        weakref.finalize(holder, getattr(self._library, call), ctypes.c_void_p(address)).atexit = False


def opened(load: Callable[[str], Any] = ctypes.CDLL) -> CudaRuntime:
    """`load` loads a library by its name. Raises OSError where there is none, RuntimeError where it has no device."""
    why = OSError()
    for name in LIBRARIES:
        try:
            library = load(name)
        except OSError as e:
            why = e
            continue
        return CudaRuntime(library)
    raise OSError(
        f"none of {', '.join(LIBRARIES)} can be loaded ({why}): use the GPU image, or install onnxruntime-gpu[cuda,cudnn]"
    )
