"""Has a repeated call become as fast as it gets? Pure: durations are handed in.

The test: cut the calls into windows, take each window's median, and call it settled when the medians of the last three
windows lie within 10 % of one another. Medians, because single calls are slow for reasons that warming does not cure
(a pause, a neighbour), and the first calls are slow for reasons that it does (memory, compilation, caches, profiling
executors that optimise at the second call), which a median of three does not see if it is one call and does see if it
is two. Three windows, because a slow drift looks settled from one window to the next. Two-sided, because a latency that
still rises (threads fighting for a core) is no more a steady state than one that still falls. A fixed number of calls
would be too many for a model of a second and too few for one that compiles.
"""

from __future__ import annotations

from statistics import median

WITHIN = 0.10
WINDOWS = 3
# A window ends when it has enough calls and has lasted long enough to see past a clock tick or an interrupt.
WINDOW_RUNS_MIN, WINDOW_RUNS_MAX, WINDOW_S = 3, 50, 0.004


class Convergence:
    def __init__(self) -> None:
        self.runs, self.seconds = 0, 0.0
        self._window: list[float] = []
        self._medians: list[float] = []

    def add(self, took_s: float) -> bool:
        """Note one call. Returns whether the latency has settled."""
        self.runs += 1
        self.seconds += took_s
        self._window.append(took_s)
        enough = len(self._window) >= WINDOW_RUNS_MIN and sum(self._window) >= WINDOW_S
        if enough or len(self._window) >= WINDOW_RUNS_MAX:
            self._medians = [*self._medians[1 - WINDOWS :], median(self._window)]
            self._window = []
        return self.settled

    @property
    def settled(self) -> bool:
        seen = self._medians
        return len(seen) == WINDOWS and max(seen) <= (1 + WITHIN) * min(seen)

    @property
    def steady_s(self) -> float:
        """The median of the latest window, of the calls so far while there is none."""
        return self._medians[-1] if self._medians else median(self._window)
