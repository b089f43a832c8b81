"""Whether two versions fit into memory at once: measures what plan/memory_fit.py and plan/gpu_memory.py judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evenkeel.container.plan import gpu_memory, machine
from evenkeel.container.plan.memory_fit import Measured, MemoryFit, room
from evenkeel.container.supervise.child import Child
from evenkeel.container.versions.engine_readiness import is_ready
from evenkeel.container.watch.memory_sampler import anonymous_bytes
from evenkeel.serve.contract import fingerprint
from evenkeel.serve.contract.cgroup import ROOT
from evenkeel.serve.contract.status_page import DEVICE_TEXT, StatusPage


class VersionFit:
    """`swap` is auto, beside or in_place; `memory_bytes` 0: what cgroup and machine have left."""

    def __init__(self, page: StatusPage, swap: str, memory_bytes: int) -> None:
        self._page, self._swap, self._memory_bytes = page, swap, memory_bytes

    def measure(self, serving: Sequence[Child], other: Sequence[Child], old_path: Path, new_path: Path) -> MemoryFit:
        """Raises OSError for a folder that cannot be looked at."""
        if self._swap != "auto":
            beside = self._swap == "beside"
            where = "beside" if beside else "in place of"
            return MemoryFit(beside, f"{where} the old one, as EVENKEEL_SWAP={self._swap} says")
        old = [engine_bytes(c) for c in serving]
        freed = sum(engine_bytes(c) for c in other)
        left = self._memory_bytes - sum(old) if self._memory_bytes else machine.memory_left(ROOT) + freed
        old_files, new_files = (sum(p.stat().st_size for _, p in fingerprint.files(path)) for path in (old_path, new_path))
        fit = room(Measured(left, max(old, default=0), len(old), old_files, new_files))
        on_gpus = any(c.device for c in serving)
        return self._on_gpus(serving, other, new_files - old_files) if fit.beside and on_gpus else fit

    def _on_gpus(self, serving: Sequence[Child], other: Sequence[Child], grown_bytes: int) -> MemoryFit:
        if not all(is_ready(self._page, c) for c in serving):
            return MemoryFit(False, "in place of the old one: not all of its engines have loaded, so what they take is not known")
        loads = [
            gpu_memory.OnGpu(
                device, _running_on(device, serving), _running_on(device, other), sum(c.device == device for c in other)
            )
            for device in dict.fromkeys(c.device for c in serving)
        ]
        fits, why = gpu_memory.fit(self._page.read_text(DEVICE_TEXT, looks=3).get("devices") or [], loads, grown_bytes)
        return MemoryFit(fits, f"{'beside' if fits else 'in place of'} the old one: {why}")


def engine_bytes(child: Child) -> int:
    return anonymous_bytes(child.process.pid) if child.process is not None else 0


def _running_on(device: str, children: Sequence[Child]) -> int:
    return sum(c.device == device and c.process is not None for c in children)
