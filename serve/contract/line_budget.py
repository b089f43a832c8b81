"""How much one source may write into the log in a second: a loop that prints must not drown the others."""

from __future__ import annotations

LINES_PER_S = 1000
BYTES_PER_S = 1 << 20


class LineBudget:
    """Counts by whole seconds of the time that callers pass. Owner of what has been spent in this second."""

    def __init__(self, lines: int = LINES_PER_S, size: int = BYTES_PER_S) -> None:
        self._lines, self._bytes = lines, size
        self._second = -1
        self._lines_left = self._bytes_left = 0
        self.left_out = 0  # lines over the budget that nobody has told of yet

    def take(self, size: int, now_s: float) -> bool:
        """Whether a line of so many bytes may be written. The first line of a second always fits."""
        self._begin(int(now_s))
        if self._lines_left <= 0 or self._bytes_left <= 0:
            self.left_out += 1
            return False
        self._lines_left -= 1
        self._bytes_left -= size
        return True

    def spent(self, now_s: float) -> bool:
        """Whether no more line fits into this second."""
        self._begin(int(now_s))
        return self._lines_left <= 0 or self._bytes_left <= 0

    def told(self) -> int:
        """How many lines were left out since the last time; the caller says so now."""
        left_out, self.left_out = self.left_out, 0
        return left_out

    def _begin(self, second: int) -> None:
        if second != self._second:
            self._second = second
            self._lines_left, self._bytes_left = self._lines, self._bytes
