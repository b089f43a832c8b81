"""The shared memory of one front: made by it, passed to each engine, mapped by both. Bytes only, no bookkeeping."""

from __future__ import annotations

import mmap
import os

from evenkeel.serve.transport.slots import ARENA_BYTES, RETURN_PAGES_FROM, Slot

# MADV_REMOVE frees the pages behind a shared mapping (madvise(2)); Python names it only on some builds.
_MADV_REMOVE = getattr(mmap, "MADV_REMOVE", 9)


class Arena:
    """A sparse memfd, mapped whole. Not /dev/shm: that is 64 MB on SageMaker and cannot be raised."""

    def __init__(self, fd: int, size: int = ARENA_BYTES) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, size)
        self.memory = memoryview(self._map)

    @staticmethod
    def create(size: int = ARENA_BYTES) -> Arena:
        fd = os.memfd_create("evenkeel-arena", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return Arena(fd, size)

    def give_back(self, slot: Slot) -> None:
        """Return the pages of a freed slot to the machine. Worth it from RETURN_PAGES_FROM on; small ones stay warm."""
        assert slot.capacity >= RETURN_PAGES_FROM, "the caller asks for large slots only"
        self._map.madvise(_MADV_REMOVE, slot.offset, slot.capacity)


def spill(data: bytes | memoryview) -> int:
    """A memfd that holds `data`: an answer larger than its slot, an engine's model info. The caller closes the descriptor."""
    fd = os.memfd_create("evenkeel-spill", os.MFD_CLOEXEC)
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        raise
    return fd


def read_spill(fd: int, size: int) -> bytes:
    """The bytes that were spilled. The caller closes the descriptor."""
    parts, at = [], 0
    while at < size:
        part = os.pread(fd, min(size - at, 1 << 24), at)
        if not part:
            break
        parts.append(part)
        at += len(part)
    return b"".join(parts)
