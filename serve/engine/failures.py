"""What foreign code raised, as one of our errors. Three kinds matter beyond the request: too little memory, which a smaller
batch may avoid; a lost device, which only another process can use again; and everything else.

Told by names and words, since no framework may be imported for it: ONE table, to be extended here when a framework
words it anew. CUDA's words are those of cudaGetErrorString for errors of which its manual says that the process must be
terminated and launched again; they are sticky, so every later call would fail too.
"""

from __future__ import annotations

import re

from evenkeel.serve.engine.foreign import attribute, cause_of, kinds_of, name_of, ours, said, text_of
from evenkeel.serve.errors import EvenkeelError, ModelFailed, OutOfMemory

MESSAGE_CHARS_MAX = 300
FRAMEWORKS = ("torch", "onnxruntime", "cupy", "cupy_backends", "tensorflow", "jaxlib", "numpy", "tensorrt", "pycuda")
CAUSES_MAX = 8  # links of `__cause__` that are followed

# The errors of which CUDA's manual says so, by number and name: those of the driver, and the runtime's without "_".
# A library's "execution failed" is not among them: if the device is lost, the next call says so itself.
DEVICE_LOST_ERRORS = {
    214: "ecc_uncorrectable", 220: "nvlink_uncorrectable", 226: "contained", 700: "illegal_address", 702: "launch_timeout",
    709: "context_is_destroyed", 710: "assert", 714: "hardware_stack_error", 715: "illegal_instruction",
    716: "misaligned_address", 717: "invalid_address_space", 718: "invalid_pc", 719: "launch_failed", 721: "tensor_memory_leak",
    999: "unknown",
}  # fmt: skip
DEVICE_LOST = (
    "device-side assert", "illegal memory access", "unspecified launch failure", "unspecified launch error",
    "misaligned address", "illegal instruction", "hardware stack error", "invalid program counter", "invalid pc",
    "operation not supported on global/shared address space", "launch timed out and was terminated",
    "uncorrectable ecc error", "uncorrectable nvlink error", "context is destroyed", "gpu is lost", "device is lost",
    "has fallen off the bus", "cuda error: unknown error", "cudaerrorlaunchfailure",
    *(f"cuda failure {number}:" for number in DEVICE_LOST_ERRORS),  # as ONNX Runtime tells them
    *(f"cuda_error_{name}" for name in DEVICE_LOST_ERRORS.values()),
    *("cudaerror" + name.replace("_", "") for name in DEVICE_LOST_ERRORS.values()),
)  # fmt: skip
OUT_OF_MEMORY = (
    "out of memory", "cudaerrormemoryallocation",  # torch and CUDA
    "can't allocate memory", "not enough memory",  # torch's CPU allocator
    "failed to allocate memory", "available memory of",  # ONNX Runtime's arena
    "bad_alloc", "bad allocation", "cannot allocate memory", "status_alloc_failed",
)  # fmt: skip
# A plain RuntimeError is torch's only when it begins as torch's do: a handler may put a client's words into its own.
TORCH_BEGINS = re.compile(r"^(runtimeerror: )?(cuda|hip|xpu|mps|\[enforce fail at|std::bad_alloc)", re.MULTILINE)
OUT_OF_MEMORY_NAMES = ("MemoryError", "OutOfMemoryError")


class DeviceLost(Exception):
    """The process must end: its device will answer nothing any more."""


def translated(error: BaseException) -> EvenkeelError:
    """What the callers of the batch are told. Raises DeviceLost."""
    chain = _chain(error)
    lost = next((e for e in chain if _says(e, DEVICE_LOST)), None)
    if lost is not None:
        raise DeviceLost(_words(lost)) from error
    short = next((e for e in chain if _is_out_of_memory(e)), None)
    if short is not None:
        return OutOfMemory(f"not enough memory for this request: {_words(short)}")
    own = ours(error)
    if own is not None:
        return own
    failure = ModelFailed(f"the model raised {_words(error)}")
    failure.__cause__ = error
    return failure


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it was raised from, that is: from our words back to the framework's own. A client's own text in
    an error that is none of the model's must not be taken for the device's."""
    chain = [error]
    while len(chain) < CAUSES_MAX and (cause := cause_of(chain[-1])) is not None:
        chain.append(cause)
    return [e for e in chain if not issubclass(type(e), EvenkeelError) or issubclass(type(e), ModelFailed)]


def _is_out_of_memory(error: BaseException) -> bool:
    named = any(name_of(kind) in OUT_OF_MEMORY_NAMES for kind in kinds_of(error))
    return named or _says(error, OUT_OF_MEMORY)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    """Whether a framework says so: in an error of its own kind, or in a RuntimeError that begins as its errors do."""
    text = text_of(error).lower()
    if type(error) is RuntimeError:
        native = TORCH_BEGINS.search(text) is not None
    else:
        native = text_of(attribute(type(error), "__module__")).partition(".")[0] in FRAMEWORKS
    return native and any(w in text for w in words)


def _words(error: BaseException) -> str:
    return said(error, MESSAGE_CHARS_MAX)
