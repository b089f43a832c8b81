"""What this machine lets us use: CPUs by affinity and cgroup, memory by cgroup and machine, whichever is less.

Reads /proc and /sys only.
"""

from __future__ import annotations

import os
from pathlib import Path

from evenkeel.serve.contract.cgroup import ROOT, fields, read

MEMORY = (  # by cgroup v2 and v1: the limit, what is used, and what of it are files that the kernel can reclaim
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def cpus() -> int:
    """Whole CPUs this container may use, at least 1. A quota of 1.5 counts as 1: half a CPU cannot be pinned to."""
    quota = cpu_quota(ROOT)
    available = len(os.sched_getaffinity(0))
    return max(1, min(available, int(quota) if quota else available))


def cpu_quota(root: Path) -> float | None:
    """CPUs granted by cgroup v2 (`cpu.max`) or v1 (`cpu.cfs_quota_us`); None when unlimited or unreadable."""
    v2 = read(root / "cpu.max").split()
    if len(v2) == 2 and v2[0] != "max":
        return int(v2[0]) / int(v2[1])
    quota, period = read(root / "cpu/cpu.cfs_quota_us"), read(root / "cpu/cpu.cfs_period_us")
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None


def memory_left(root: Path, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes until the cgroup's limit (v2 or v1), or the machine's, whichever comes first. What the kernel can reclaim of
    files counts as free."""
    left = [fields(meminfo).get("MemAvailable:", 0) * 1024]
    for limit, used, stat, cache in MEMORY:
        most, now = read(root / limit), read(root / used)
        if most.isdigit() and now.isdigit():
            left.append(int(most) - int(now) + fields(root / stat).get(cache, 0))
    return max(0, min(left))


def memory_limit(root: Path = ROOT) -> int:
    """Bytes that this cgroup may use; 0: no limit is known, or one so large that it is none."""
    limits = [int(text) for name, *_ in MEMORY if (text := read(root / name)).isdigit()]
    return min((most for most in limits if most < 1 << 60), default=0)


def gpus(dev: Path, visible: str | None, given: str | None = None) -> tuple[str, ...]:
    """The accelerators that a process here could use, each as what CUDA_VISIBLE_DEVICES says to see that one alone.

    `visible`: what CUDA_VISIBLE_DEVICES says now. `given`: NVIDIA_VISIBLE_DEVICES, by which NVIDIA's container runtime was
    told what to put in here; it names slices of a GPU (MIG), which device nodes do not tell. No framework and no driver is
    asked, so numbers are those that CUDA gives to what is in the container, from 0 on.
    """
    nodes = [p for p in dev.glob("nvidia*") if p.name.removeprefix("nvidia").isdigit()]
    count = len(nodes) or int((dev / "dxg").exists())  # the second is the one of Linux under Windows
    if not count or given == "none":
        return ()
    if visible is not None:
        return _visible(visible, count)
    slices = [v.strip() for v in (given or "").split(",") if v.strip().startswith("MIG-")]
    return tuple(dict.fromkeys(slices)) or tuple(map(str, range(count)))


def _visible(text: str, count: int) -> tuple[str, ...]:
    """As CUDA reads it: by number, by the UUID of a GPU or of a slice, and nothing from the first entry on that names none.
    Several slices lie on one GPU, so there may be more of them than GPUs."""
    chosen: list[str] = []
    for entry in (v.strip() for v in text.split(",")):
        if not (entry.startswith(("GPU-", "MIG-")) or (entry.isdigit() and int(entry) < count)) or entry in chosen:
            break
        chosen.append(entry)
    return tuple(chosen)
