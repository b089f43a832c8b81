"""What has been coming lately, as the policy wants to know it. Told of everything that is queued; reads no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

RATE_TAU_S = 0.05  # arrivals are averaged over about this long
PEAK_WINDOW_S = 0.5


@dataclass(slots=True)
class Arrivals:
    """Rate for the wait decision, peak of the queue for how many may come back."""

    rate: float = 0.0
    peak_rows: float = 0.0
    at_s: float = 0.0
    peak_at_s: float = 0.0

    def note(self, rows: int, queued: int, now_s: float) -> None:
        since_s = now_s - self.at_s
        self.at_s = now_s
        self.rate = self.rate * math.exp(-since_s / RATE_TAU_S) + rows / RATE_TAU_S
        if queued >= self.peak_rows or now_s - self.peak_at_s > PEAK_WINDOW_S:
            self.peak_rows, self.peak_at_s = queued, now_s
