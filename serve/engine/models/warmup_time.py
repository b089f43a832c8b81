"""How long a warm-up may take: seconds of all of it, and of one entry, which runs until its latency has settled.

Owner of the time at which a warm-up ends. Making the backend ready for a batch moves that end, within its own bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evenkeel.serve.engine.models.convergence import Convergence

RUNS_MIN, RUNS_MAX = 2, 2000  # of one entry; the first run allocates and compiles, so one is never enough
ENTRY_SHARE = 0.1  # of the seconds of all warm-up that one entry may take beyond its first runs

Clock = Callable[[], float]


class WarmupTime:
    """Begins when it is made."""

    def __init__(self, warmup_s: float, clock: Clock) -> None:
        self.clock, self._warmup_s = clock, warmup_s
        self._began_s = clock()
        self.end_s = self._began_s + warmup_s
        self.prepared_s = 0.0  # spent on making the backend ready: as much again at most, and not at the cost of the rest

    @property
    def spent_s(self) -> float:
        return self.clock() - self._began_s

    @property
    def is_left(self) -> bool:
        return self.clock() < self.end_s

    @property
    def entry_end_s(self) -> float:
        """Of an entry that begins now."""
        return self.clock() + ENTRY_SHARE * self._warmup_s

    def prepare(self, make_ready: Callable[[], None]) -> None:
        """Unless too much has been spent so already."""
        if self.prepared_s < self._warmup_s:
            begun_s = self.clock()
            make_ready()
            took_s = self.clock() - begun_s
            self.prepared_s, self.end_s = self.prepared_s + took_s, self.end_s + took_s

    def until_settled(self, run: Callable[[], Any], check: Callable[[Any], None]) -> Convergence:
        """Run an entry over and over; `check` sees what the first run gave."""
        convergence = Convergence()
        until_s = min(self.end_s, self.entry_end_s)
        while True:
            start_s = self.clock()
            outputs = run()
            settled = convergence.add(self.clock() - start_s)
            if convergence.runs == 1:
                check(outputs)
            if settled or convergence.runs >= RUNS_MAX or (convergence.runs >= RUNS_MIN and self.clock() >= until_s):
                return convergence
