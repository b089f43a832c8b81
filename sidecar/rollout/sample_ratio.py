"""The split check: does the candidate get about the share of requests that was declared, now? Pure.

A canary that gets a tenth of its share, or twice of it, is not compared with what one thinks. But no router keeps a share to
the last request: connections are kept alive and carry traffic in clumps, and a scrape may come late. So the question is a
practical one: is the share off by more than a part of what was declared (5 %), beyond what the windows themselves scatter by?
Only this stage's newest windows are asked. Requests are taken as rates over each instance's own time between two scrapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, sqrt

WINDOWS_MAX = 60
WINDOWS_MIN = 3
DEVIATIONS = 3.0  # a share within so many standard errors of the tolerance is not called wrong


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """`windows` holds the candidate's requests and all of them, by window; `declared` is the candidate's share."""

    declared: float = 0.0
    windows: tuple[tuple[float, float], ...] = ()

    def add(self, candidate: float, total: float, declared: float) -> SampleRatio:
        """Another share declared is another stage: what was before says nothing of it."""
        kept = self.windows if declared == self.declared else ()
        return SampleRatio(declared, (*kept, (candidate, total))[-WINDOWS_MAX:] if total else kept)

    @property
    def requests(self) -> tuple[float, float]:
        """The candidate's and the others'."""
        ours = fsum(c for c, _ in self.windows)
        return ours, fsum(n for _, n in self.windows) - ours

    @property
    def share(self) -> float:
        ours, others = self.requests
        return ours / (ours + others) if self.windows else 0.0

    @property
    def deviation(self) -> float:
        """How far the share is off at the least, as a part of what was declared; 0 while nothing is beyond doubt."""
        if len(self.windows) < WINDOWS_MIN:
            return 0.0
        return max(0.0, abs(self.share - self.declared) - DEVIATIONS * self._error()) / self.declared

    def _error(self) -> float:
        """The larger of what independent requests and what the windows themselves leave open."""
        share, total, count = self.share, sum(self.requests), len(self.windows)
        mean = total / count
        residuals = fsum((c - share * n) ** 2 for c, n in self.windows)
        clumped = sqrt(residuals / (count - 1) / count) / mean
        return max(sqrt(share * (1 - share) / total), clumped)


NOT_SEEN = SampleRatio()
