"""Throughput, latency, queue and saturation second by second for the last ten minutes, from the counters of the page.

Owner of the samples. The watch loop calls `sample` about once a second; HTTP threads read the points.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from serve.contract.status import TIME_CELLS, Engine, Front, Main, StatusPage, time_edge
from serve.errors import FAMILIES

POINTS_MAX = 600
NOW_SAMPLES = 10


@dataclass(frozen=True, slots=True)
class Point:
    at_s: float
    requests_per_s: float
    errors_per_s: float
    p50_s: float | None
    p99_s: float | None
    queue_rows: int
    in_flight: int
    saturation: float


NOTHING = Point(0.0, 0.0, 0.0, None, None, 0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class _Counts:
    at_s: float
    ok: int
    errors: int
    latency: tuple[int, ...]
    busy_s: tuple[float, ...]
    queue_rows: int
    in_flight: int


class Measures:
    def __init__(self) -> None:
        self._recent: deque[_Counts] = deque(maxlen=NOW_SAMPLES + 1)
        self._points: tuple[Point, ...] = ()
        self._now = NOTHING
        self.headroom_rps: float | None = None

    def sample(self, page: StatusPage, now_s: float) -> None:
        counts = _read(page, now_s)
        if self._recent:
            self._points = (*self._points, _between(self._recent[-1], counts))[-POINTS_MAX:]
            self._now = _between(self._recent[0], counts)
        self._recent.append(counts)
        busy = self._now.saturation
        self.headroom_rps = self._now.requests_per_s * (1 - busy) / busy if busy > 0 else None

    def points(self) -> list[Point]:
        return list(self._points)

    def now(self) -> Point:
        return self._now


def _read(page: StatusPage, now_s: float) -> _Counts:
    fronts = [page.front(i).count for i in range(page.main.count[Main.FRONTS])]
    engines = [page.engine(i) for i in range(page.main.count[Main.ENGINES])]
    return _Counts(
        now_s,
        sum(n[Front.OK] for n in fronts),
        sum(n[Front.ERRORS + i] for n in fronts for i in range(len(FAMILIES))),
        tuple(sum(n[Front.LATENCY + i] for n in fronts) for i in range(TIME_CELLS)),
        tuple(e.value[Engine.BUSY_SUM_S] for e in engines),
        sum(e.count[Engine.QUEUE_ROWS] for e in engines),
        sum(n[Front.IN_FLIGHT] for n in fronts),
    )


def _between(a: _Counts, b: _Counts) -> Point:
    seconds = max(1e-9, b.at_s - a.at_s)
    latency = [y - x for x, y in zip(a.latency, b.latency, strict=True)]
    busy = [(y - x) / seconds for x, y in zip(a.busy_s, b.busy_s, strict=True)]
    ok, errors = (b.ok - a.ok) / seconds, (b.errors - a.errors) / seconds
    saturation = min(1.0, max(0.0, sum(busy) / len(busy))) if busy else 0.0
    return Point(
        b.at_s, ok + errors, errors, _quantile(latency, 0.5), _quantile(latency, 0.99), b.queue_rows, b.in_flight, saturation
    )


def _quantile(counts: list[int], share: float) -> float | None:
    """The upper edge of the cell in which it lies."""
    left = share * sum(counts)
    for cell, count in enumerate(counts):
        left -= count
        if count and left <= 0:
            return time_edge(cell)
    return None
