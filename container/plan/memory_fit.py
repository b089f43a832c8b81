"""Is there room for a new version beside the one that serves? Pure: measured bytes in, a decision with its reason out.

Availability first: the new one is supposed to need what the old one was measured to need, more where its files are larger,
and no more than a margin on top. If that was too little, the kernel ends the new one, see deployer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
FILE_FACTOR = 2.0  # a file is read, and then unpacked; the first copy is often given back only after the load
BASE_BYTES = 64 * MIB  # an engine without a model, when the old one could not be measured
MARGIN_BYTES = 64 * MIB  # left to everybody else: fronts under load, the sidecar, the kernel


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes. Of both versions what lies on disk; of the old one what each of its engines holds."""

    left: int  # until the limit of the cgroup, the machine or EVENKEEL_MEMORY_MB, once nobody stands by any more
    engine: int
    replicas: int
    files_old: int
    files_new: int


@dataclass(frozen=True, slots=True)
class MemoryFit:
    beside: bool
    why: str


def room(m: Measured) -> MemoryFit:
    need = m.replicas * engine_bytes(m) + MARGIN_BYTES
    text = f"needs about {need // MIB} MiB, {max(0, m.left) // MIB} MiB are left"
    return (
        MemoryFit(True, f"beside the old one: it {text}")
        if need <= m.left
        else MemoryFit(False, f"in place of the old one: it {text}")
    )


def engine_bytes(m: Measured) -> int:
    """What one engine of the new version will need at most, as far as can be known before."""
    return max(m.engine, BASE_BYTES) + int(FILE_FACTOR * max(0, m.files_new - m.files_old))
