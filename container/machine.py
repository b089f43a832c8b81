"""What this machine lets us use: CPUs by affinity and cgroup, whichever is less. Reads /proc and /sys only."""

from __future__ import annotations

import os
from pathlib import Path


def cpus() -> int:
    """Whole CPUs this container may use, at least 1. A quota of 1.5 counts as 1: half a CPU cannot be pinned to."""
    quota = cpu_quota(Path("/sys/fs/cgroup"))
    available = len(os.sched_getaffinity(0))
    return max(1, min(available, int(quota) if quota else available))


def cpu_quota(root: Path) -> float | None:
    """CPUs granted by cgroup v2 (`cpu.max`) or v1 (`cpu.cfs_quota_us`); None when unlimited or unreadable."""
    v2 = _read(root / "cpu.max").split()
    if len(v2) == 2 and v2[0] != "max":
        return int(v2[0]) / int(v2[1])
    quota, period = _read(root / "cpu/cpu.cfs_quota_us"), _read(root / "cpu/cpu.cfs_period_us")
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
