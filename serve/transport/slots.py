"""The arena of one front, cut into slots of a few sizes. Pure bookkeeping: who holds which span, never its bytes.

Sizes grow by eights so that a slot is at most eight times too large; that costs address space only, since untouched
pages of the arena take no memory. Every offset is a multiple of STEP, so an engine can address slots of all sizes as
rows of one strided array.
"""

from __future__ import annotations

from collections.abc import Sequence

STEP = 1024
# (bytes, how many): 8 Ki small slots are a full queue of single rows; 4 huge ones bound a flood of 512 MiB answers.
CLASSES: tuple[tuple[int, int], ...] = (
    (1 << 10, 8192), (1 << 13, 4096), (1 << 16, 2048), (1 << 19, 1024), (1 << 22, 256), (1 << 25, 64), (1 << 28, 16),
)  # fmt: skip
ARENA_BYTES = sum(size * count for size, count in CLASSES)
SLOT_BYTES_MAX = max(size for size, _ in CLASSES)
RETURN_PAGES_FROM = 1 << 20  # freed slots of this size and more give their pages back to the machine
LIGHT_SLOT_BYTES_MAX = max(size for size, _ in CLASSES if size < RETURN_PAGES_FROM)  # what needs more gets such a slot


class Slot:
    """A span of the arena. Compared by identity. `size` is what its holder asked for, 0 while it is free."""

    __slots__ = ("capacity", "home", "offset", "size")

    def __init__(self, offset: int, capacity: int, home: list[Slot]) -> None:
        self.offset, self.capacity, self.home = offset, capacity, home
        self.size = 0


class Slots:
    """Free lists by size. `claim` and `release` are O(1); a slot is handed out to one holder at a time."""

    def __init__(self, classes: tuple[tuple[int, int], ...] = CLASSES) -> None:
        self._free: list[tuple[int, list[Slot]]] = []
        self.held = 0
        self.held_bytes = 0  # as asked for, not as large as the slots are: untouched pages take no memory
        at = 0
        for size, count in classes:
            assert size % STEP == 0, "engines address slots as rows of STEP bytes"
            free: list[Slot] = []
            # The lowest offsets are handed out first, so that few pages are ever touched.
            free.extend(Slot(at + i * size, size, free) for i in reversed(range(count)))
            self._free.append((size, free))
            at += size * count

    def claim(self, size: int) -> Slot | None:
        """A slot of at least `size` bytes, or None when all of that size and above are held."""
        size = size or 1
        for capacity, free in self._free:
            if size <= capacity and free:
                slot = free.pop()
                slot.size = size
                self.held += 1
                self.held_bytes += size
                return slot
        return None

    def release(self, slot: Slot) -> None:
        size = slot.size
        assert size, "a slot is released once, by its holder"
        slot.size = 0
        slot.home.append(slot)
        self.held_bytes -= size
        self.held -= 1

    def claim_all(self, size: int, count: int) -> list[Slot] | None:
        """`count` slots at once, of the smallest size that fits, or None when there are not as many."""
        for capacity, free in self._free:
            if size <= capacity:
                first = len(free) - count
                return self._take(free, first, size) if first >= 0 else None
        return None

    def _take(self, free: list[Slot], first: int, size: int) -> list[Slot]:
        taken = free[first:]
        del free[first:]
        for slot in taken:
            slot.size = size
        self.held += len(taken)
        self.held_bytes += size * len(taken)
        return taken

    def release_all(self, slots: Sequence[Slot]) -> None:
        freed = 0
        for slot in slots:
            size = slot.size
            assert size, "a slot is released once, by its holder"
            slot.size = 0
            freed += size
            slot.home.append(slot)
        self.held_bytes -= freed
        self.held -= len(slots)
