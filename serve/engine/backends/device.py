"""What every backend says of the device it was given: which one, and that it could not use it. Knows no framework."""

from __future__ import annotations

from collections.abc import Mapping

from serve.contract.logline import log
from serve.engine.backends.base import LoadOptions
from serve.errors import BadModel

CPU = "cpu"


def unused(options: LoadOptions, why: str) -> None:
    """The device does not run the model as it should. Raises BadModel where that was forbidden; else says it once."""
    if options.require_gpu:
        raise BadModel(f"GPU {options.device} cannot be used as asked: {why}; or set EVENKEEL_REQUIRE_GPU=0 to go on without")
    log("gpu_unused", f"GPU {options.device} is not used as asked: {why}", level="warning")


def facts(options: LoadOptions, provider: str) -> Mapping[str, str]:
    """`provider`: what runs the model, in one word: cpu, cuda or tensorrt."""
    return {"provider": provider, "device": CPU} if provider == CPU else {"provider": provider, "device": f"gpu {options.device}"}
