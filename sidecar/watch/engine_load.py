"""How busy each engine is: the share of the last seconds in which it was not free. Owner of the samples."""

from __future__ import annotations

from collections import deque

from evenkeel.serve.contract.status_page import Engine, Main, StatusPage

WINDOW_S = 10.0
SAMPLES_MAX = 12


class Load:
    """Samples once a second; the watch loop writes, HTTP threads read the last result."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, tuple[float, ...]]] = deque(maxlen=SAMPLES_MAX)
        self.saturation: tuple[float, ...] = ()  # by place, 0 to 1

    def sample(self, page: StatusPage, now_s: float) -> None:
        busy_s = tuple(_busy_s(page, place, now_s) for place in range(page.main.count[Main.ENGINES]))
        self._samples.append((now_s, busy_s))
        while now_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()
        first_s, first = self._samples[0]
        if now_s > first_s:
            self.saturation = tuple(
                round(min(1.0, max(0.0, b - a) / (now_s - first_s)), 3) for a, b in zip(first, busy_s, strict=True)
            )


def _busy_s(page: StatusPage, place: int, now_s: float) -> float:
    """With the batch that is running: a long one must not look like idleness until it ends."""
    value = page.engine(place).value
    started_s = value[Engine.RUN_STARTED_S]
    return float(value[Engine.BUSY_SUM_S] + (now_s - started_s if started_s > 0 else 0.0))
