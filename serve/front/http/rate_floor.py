"""How long a peer that moves too few bytes is still waited for: a bucket of seconds, looked at once a second. Pure.

Time empties the bucket, bytes fill it: anyone who moves `rate` bytes a second or more is waited for without end, anyone who
moves fewer runs out of it. It holds no more than `full_s`, so a fast beginning does not buy a slow end.
"""

from __future__ import annotations

GRACE_S = 10.0  # before the least rate of bytes counts: connections start slowly, and stumble


class RateFloor:
    __slots__ = ("_full_s", "_rate", "_since_s", "left_s")

    def __init__(self, full_s: float, rate: float) -> None:
        """`rate` in bytes a second; 0: any rate will do."""
        self._full_s, self._rate = full_s, rate
        self.left_s, self._since_s = full_s, 0.0

    def renew(self, now_s: float) -> None:
        self.left_s, self._since_s = self._full_s, now_s

    def excuse(self, away_s: float) -> None:
        """So much of the time since the last look was not the peer's."""
        self._since_s += away_s

    def ends(self, now_s: float, moved: int) -> bool:
        """`moved`: bytes since the last look."""
        earned_s = moved / self._rate if self._rate else self._full_s if moved else 0.0
        left_s = self.left_s - (now_s - self._since_s) + earned_s
        self._since_s = now_s
        self.left_s = left_s if left_s < self._full_s else self._full_s
        return self.left_s < 0


class Taking(RateFloor):
    """Whether a client takes its answers."""

    __slots__ = ("_before", "_of")

    def __init__(self, full_s: float, rate: float) -> None:
        super().__init__(full_s, rate)
        self._before = 0  # bytes that it had not taken at the last look
        self._of: object = None  # of what

    def too_slow(self, now_s: float, waiting: int, of: object) -> bool:
        """`waiting`: bytes that it has not taken yet, of this answer. Another answer shows that it read the one before."""
        before, was = self._before, self._of
        self._before, self._of = waiting, of
        if waiting == 0 or before == 0 or was is not of:
            self.renew(now_s)
            return False
        return self.ends(now_s, max(0, before - waiting))
