"""What every backend says of the device it was given: which one, and that it could not use it. Knows no framework."""

from __future__ import annotations

from collections.abc import Mapping

from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.manifest import Gpu
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.errors import BadModel

CPU = "cpu"
# A process that takes the last byte takes it from CUDA itself and from its neighbours, which then fail instead of it.
MEMORY_SHARE = 0.9


def unused(options: LoadOptions, why: str) -> None:
    """The device does not run the model as it should. Raises BadModel where that was forbidden; else says it once."""
    if options.require_gpu:
        raise BadModel(f"GPU {options.device} cannot be used as asked: {why}; or set EVENKEEL_REQUIRE_GPU=0 to go on without")
    log("gpu_unused", f"GPU {options.device} is not used as asked: {why}", level="warning")


def memory_limit(gpu: Gpu, gpu_bytes: int, sharers: int = 1) -> int:
    """What one replica may allocate of its GPU, which `sharers` replicas use, itself among them."""
    return int(MEMORY_SHARE * gpu_bytes / sharers) if gpu.memory_mb is None else min(gpu_bytes, gpu.memory_mb << 20)


def facts(options: LoadOptions, provider: str) -> Mapping[str, str]:
    """`provider`: what runs the model, in one word: cpu, cuda or tensorrt."""
    return {"provider": provider, "device": CPU} if provider == CPU else {"provider": provider, "device": f"gpu {options.device}"}
