"""A clock that stands still until a test moves it."""

from __future__ import annotations


class ManualClock:
    """Pass it as `clock`; it is called like time.monotonic."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
