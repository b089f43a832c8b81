"""The room of a slot as a ring: spans for the parts of a streamed answer, given back in the order they were taken.

Pure bookkeeping of the engine's side. A span is never wrapped around the end, so a part is one piece of memory.
"""

from __future__ import annotations

from collections import deque


class Ring:
    """`size` bytes. Offsets count from its start."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._taken: deque[tuple[int, int]] = deque()  # start and end, oldest first

    def __len__(self) -> int:
        """How many spans are taken."""
        return len(self._taken)

    def claim(self, size: int) -> int | None:
        """The offset of `size` free bytes in a row, or None until older spans are given back."""
        assert 0 < size <= self.size, "what is larger than the ring never fits"
        oldest, newest = (self._taken[0][0], self._taken[-1][1]) if self._taken else (0, 0)
        if not self._taken:
            at: int | None = 0
        elif newest > oldest:  # free: from the newest to the end, and from the start to the oldest
            at = newest if newest + size <= self.size else 0 if size <= oldest else None
        else:
            at = newest if newest + size <= oldest else None
        if at is not None:
            self._taken.append((at, at + size))
        return at

    def give_back(self, count: int) -> None:
        """The `count` oldest spans have been read."""
        assert count <= len(self._taken), "only what was taken is given back"
        for _ in range(count):
            self._taken.popleft()
