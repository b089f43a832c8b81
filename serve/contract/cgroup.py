"""What the kernel says of this container's control group: small files, read whole. Standard library only; decides nothing."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
SMALL_BYTES = 64 * 1024


def oom_kills(root: Path = ROOT) -> int:
    """How many processes of this cgroup the kernel has ended for want of memory; 0 where it does not say."""
    v1 = fields(root / "memory/memory.oom_control").get("oom_kill", 0)
    return fields(root / "memory.events").get("oom_kill", v1)


def fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number, with or without a unit."""
    pairs = [line.split() for line in read(path).splitlines()]
    return {p[0]: int(p[1]) for p in pairs if len(p) >= 2 and p[1].isdigit()}


def small_file(path: str) -> str:
    """A file of the kernel's, past the layers of open(): several are read each tick. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, SMALL_BYTES).decode("utf-8", "replace")
    finally:
        os.close(fd)


def read(path: Path) -> str:
    """Empty where there is no such file."""
    try:
        return small_file(os.fspath(path)).strip()
    except OSError:
        return ""
