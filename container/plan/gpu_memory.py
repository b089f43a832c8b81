"""Is there room on the accelerators for more engines? Pure: what the sidecar told of the devices in, a decision out.

A gpu tells how much of it is used, and not by whom (in a container NVML's process ids are those of the machine). So what one
engine takes is the used memory divided by the engines there. Who shares a gpu with somebody else is told to need more than it
does, which errs on the side of those that serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from evenkeel.container.plan.memory_fit import FILE_FACTOR, MIB

MARGIN_BYTES = 256 * MIB  # left of each gpu: a CUDA context more, and what batches take beyond what they took so far


@dataclass(frozen=True, slots=True)
class OnGpu:
    """What runs on one accelerator, named as CUDA_VISIBLE_DEVICES names it. `engines`: those that stay while others are added;
    `leaving`: those that end before; `added`: the others."""

    device: str
    engines: int
    leaving: int
    added: int


def by_name(devices: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Of what the sidecar tells of devices, each by every name that CUDA_VISIBLE_DEVICES may have for it. A slice of a GPU (MIG)
    has a name of its own, and is not told of."""
    return {name: device for device in devices for name in (str(device.get("place")), str(device.get("uuid")))}


class Fit(NamedTuple):
    fits: bool
    why: str


def fit(devices: Sequence[Mapping[str, Any]], residents: Sequence[OnGpu], grown_bytes: int = 0) -> Fit:
    """Whether all that are to be added fit, on every gpu. `grown_bytes`: by how much the files of what is added are larger than
    those of what is there. Of a gpu that nobody tells of it is not known, so no."""
    device_of, why = by_name(devices), ""
    for gpu in residents:
        device = device_of.get(gpu.device, {})
        used, total = device.get("memory_used_bytes"), device.get("memory_bytes")
        if used is None or total is None:
            return Fit(False, f"how much memory GPU {gpu.device} has left is not known")
        each = used // max(1, gpu.engines + gpu.leaving)
        need = gpu.added * (each + int(FILE_FACTOR * max(0, grown_bytes))) + MARGIN_BYTES
        left = total - used + each * gpu.leaving
        why = f"about {need // MIB} MiB of GPU {gpu.device} are needed, {left // MIB} MiB are left"
        if need > left:
            return Fit(False, why)
    return Fit(True, why)
