"""How long a peer that moves too few bytes is still waited for: a bucket of seconds, looked at once a second. Pure.

Time empties the bucket, bytes fill it: whoever moves `rate` bytes a second or more is waited for without end, whoever
moves fewer runs out of it. It holds no more than `full_s`, so a fast beginning does not buy a slow end.
"""

from __future__ import annotations


class Patience:
    __slots__ = ("_full_s", "_rate", "_since_s", "left_s")

    def __init__(self, full_s: float, rate: float) -> None:
        """`rate` in bytes a second; 0: any rate will do."""
        self._full_s, self._rate = full_s, rate
        self.left_s, self._since_s = full_s, 0.0

    def renew(self, now_s: float) -> None:
        self.left_s, self._since_s = self._full_s, now_s

    def pause(self, now_s: float) -> None:
        """The time since the last look was not the peer's."""
        self._since_s = now_s

    def ends(self, now_s: float, moved: int) -> bool:
        """`moved`: bytes since the last look."""
        earned_s = moved / self._rate if self._rate else self._full_s if moved else 0.0
        left_s = self.left_s - (now_s - self._since_s) + earned_s
        self._since_s = now_s
        self.left_s = left_s if left_s < self._full_s else self._full_s
        return self.left_s < 0
