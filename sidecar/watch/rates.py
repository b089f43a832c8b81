"""What the counters of the status page say about now: rates, latency, saturation, and how much more load would do.

Pure but for `Rates`, which keeps the last ten minutes and is the only writer of the measured cells of the page. The
formula of the headroom and its assumptions are in docs/metrics.md.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import (
    TIME_CELLS,
    Engine,
    Front,
    Main,
    StatusPage,
    restarts,
    serves,
    time_edge,
    version_counters,
)
from evenkeel.serve.errors import FAMILIES

POINTS_MAX = 600  # ten minutes at one sample a second
WINDOW_S = 10.0  # "lately": long enough to hold requests, short enough to see a change
OBJECTIVE_ANSWERS_MIN = 100  # from which a measured p99 says that the objective is missed
CHANCE_SIGMAS = 3.0  # of the number of late answers; more is no chance. One window in some 700 by the normal law
QUANTILE = 0.99  # of the requests, which must be answered within the objective


@dataclass(frozen=True, slots=True)
class Totals:
    """The page's counters at one moment, over all fronts and engines."""

    at_s: float
    latency: tuple[int, ...]  # the histogram of requests answered with 200
    refused: int  # the client's fault: 4xx but 429
    failed: int  # ours: 429 and 5xx
    shed: int
    rows: int
    restarts: int
    busy_s: tuple[float, ...]  # of each engine, with the batch that runs now
    ready: tuple[int, ...]  # places of the engines that take requests
    queue_rows: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class RatePoint:
    """What happened between two moments. Errors are ours: 429 and 5xx. Latency is of requests answered with 200."""

    at_s: float
    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    p50_s: float | None = None
    p99_s: float | None = None
    queue_rows: int = 0
    in_flight: int = 0
    saturation: float = 0.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the ready engines can do, as they have learned it."""

    row_costs_s: tuple[float, ...]  # seconds a row at the batch size in use, of each
    batch_rows: int  # that size
    slo_s: float | None  # the latency objective, if the model has one


# ---- reading ---------------------------------------------------------------------------------------------------------


def read(page: StatusPage, now_s: float) -> Totals:
    fronts = [page.front(i).count for i in range(page.main.count[Main.FRONTS])]
    counted = [block.count for i in range(len(fronts)) for block in version_counters(page, i)]
    engines = [page.engine(i) for i in range(page.main.count[Main.ENGINES])]
    errors = [sum(f[Front.ERRORS + i] for f in counted) for i in range(len(FAMILIES))]
    ours = [family.status == 429 or family.status >= 500 for family in FAMILIES]
    latency = [f[Front.LATENCY : Front.LATENCY + TIME_CELLS].tolist() for f in counted]
    return Totals(
        at_s=now_s, latency=tuple(map(sum, zip(*latency, strict=True))) or (0,) * TIME_CELLS,
        refused=sum(n for n, our in zip(errors, ours, strict=True) if not our),
        failed=sum(n for n, our in zip(errors, ours, strict=True) if our),
        shed=sum(n for n, family in zip(errors, FAMILIES, strict=True) if family.shed),
        rows=sum(e.count[Engine.ROWS] for e in engines), restarts=sum(restarts(page).values()),
        busy_s=tuple(_busy_s(e.value[Engine.BUSY_SUM_S], e.value[Engine.RUN_STARTED_S], now_s) for e in engines),
        ready=tuple(i for i, e in enumerate(engines) if e.count[Engine.STATE] == ReplicaState.READY and serves(page, i)),
        queue_rows=sum(e.count[Engine.QUEUE_ROWS] for e in engines), in_flight=sum(f[Front.IN_FLIGHT] for f in fronts),
    )  # fmt: skip


def _busy_s(ended_s: float, started_s: float, now_s: float) -> float:
    return ended_s + (max(0.0, now_s - started_s) if started_s > 0 else 0.0)


def read_capacity(page: StatusPage, totals: Totals, text: dict[str, Any]) -> Capacity:
    """`text`: what one of the ready engines explains; replicas are of one model."""
    batching = text.get("batching") or {}
    learned, chosen = batching.get("learned") or [], max(1, int(batching.get("chosen_rows") or 1))
    found = batching.get("learned_in")
    if found == "nothing":
        costs: tuple[float, ...] = ()
    elif found == "service":  # the page's cost is of the best size that is supposed, not of one that was seen
        costs = (next((step["seconds"] / chosen for step in learned if step["rows"] == chosen), 0.0),) * len(totals.ready)
    else:
        dearer = _dearer(learned, chosen)
        costs = tuple(page.engine(i).value[Engine.ROW_COST_S] * dearer for i in totals.ready)
    return Capacity(costs, chosen, batching.get("slo_s"))


def _dearer(learned: Sequence[dict[str, Any]], chosen: int) -> float:
    """How much more a row costs at the batch size that the objective allows than at the cheapest, which the page has."""
    costs = {step["rows"]: step["seconds"] / step["rows"] for step in learned}
    return costs[chosen] / min(costs.values()) if chosen in costs and min(costs.values()) > 0 else 1.0


# ---- deciding --------------------------------------------------------------------------------------------------------


def between(before: Totals, after: Totals) -> RatePoint:
    took_s = max(after.at_s - before.at_s, 1e-9)
    latency = [b - a for a, b in zip(before.latency, after.latency, strict=True)]
    failed = after.failed - before.failed
    answered = sum(latency) + failed + after.refused - before.refused
    return RatePoint(
        at_s=after.at_s, requests_per_s=answered / took_s, errors_per_s=failed / took_s, p50_s=quantile(latency, 0.5),
        p99_s=quantile(latency, 0.99), queue_rows=after.queue_rows, in_flight=after.in_flight,
        saturation=saturation(before, after),
    )  # fmt: skip


def saturation(before: Totals, after: Totals) -> float:
    """Share of the time in which the engines that are ready now were busy. A restart in between may hide a batch."""
    took_s = max(after.at_s - before.at_s, 1e-9)
    shares = [(after.busy_s[i] - before.busy_s[i]) / took_s for i in after.ready if i < len(before.busy_s)]
    return min(1.0, max(0.0, sum(shares) / len(shares))) if shares else 0.0


def quantile(cells: Sequence[int], q: float) -> float | None:
    """The time below which this share of a histogram lies, on a straight line within its cell. None: it is empty."""
    wanted = q * sum(cells)
    if not wanted:
        return None
    below = 0
    for i, count in enumerate(cells):
        if count and below + count >= wanted:
            low = time_edge(i - 1) if i else 0.0
            high = time_edge(i) if i < TIME_CELLS - 1 else low  # the last cell has no edge
            return low + (high - low) * (wanted - below) / count
        below += count
    raise AssertionError("the cells sum to more than is wanted")


def headroom(requests_per_s: float, rows_per_request: float, capacity: Capacity) -> float | None:
    """How many more requests a second would still be answered in time. None: no ready engine has learned its cost."""
    costs_s = [c for c in capacity.row_costs_s if c > 0]
    if not costs_s or rows_per_request <= 0:
        return None
    limit_rps = sum(1 / c for c in costs_s) / rows_per_request
    batch_s = capacity.batch_rows * sum(costs_s) / len(costs_s)
    return max(0.0, busy_share_max(batch_s, capacity.slo_s) * limit_rps - requests_per_s)


def is_missed(latency: Sequence[int], slo_s: float) -> bool:
    """Whether more than one answer in a hundred takes longer than the objective, beyond what chance explains: one slow answer
    in a hundred says nothing. Those in the cell that holds the objective count as in time."""
    late = sum(count for i, count in enumerate(latency) if i and time_edge(i - 1) >= slo_s)
    expected = (1 - QUANTILE) * sum(latency)
    return late > expected + CHANCE_SIGMAS * math.sqrt(QUANTILE * expected)


def busy_share_max(batch_s: float, slo_s: float | None) -> float:
    """How busy an engine may be so that the 99th percentile of wait and run stays within the objective."""
    if slo_s is None:
        return 1.0
    if batch_s > slo_s:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(30):  # halving: to one part in 2**30
        middle = (low + high) / 2
        low, high = (middle, high) if batch_s + wait_p99_s(middle, batch_s) <= slo_s else (low, middle)
    return low


def wait_p99_s(busy_share: float, batch_s: float) -> float:
    """Wait of batches of constant length that come at random times: a share u waits, b / (2*(1-u)) on average, with an
    exponential tail. Simulated, the 99th percentile is up to a sixth less."""
    if busy_share <= 1 - QUANTILE:
        return 0.0  # fewer than one in a hundred wait at all
    return batch_s / (2 * (1 - busy_share)) * math.log(busy_share / (1 - QUANTILE))


# ---- keeping ---------------------------------------------------------------------------------------------------------


class Rates:
    """The last ten minutes. One thread samples; others may read, since a list is made of a deque in one step."""

    def __init__(self) -> None:
        self.headroom_rps: float | None = None
        self._totals: deque[Totals] = deque()  # of the window
        self._points: deque[RatePoint] = deque(maxlen=POINTS_MAX)
        self._now = RatePoint(0.0)
        self._text: dict[str, Any] = {}
        self._rows_per_request = 1.0  # before the first request nobody knows better

    def sample(self, page: StatusPage, now_s: float) -> None:
        """Look at the page; about once a second. Publishes what it finds in the page's measured cells."""
        totals = read(page, now_s)
        if self._totals:
            self._points.append(between(self._totals[-1], totals))
        self._totals.append(totals)
        while len(self._totals) > 2 and self._totals[1].at_s <= now_s - WINDOW_S:
            self._totals.popleft()
        if len(self._totals) > 1:
            self._now = between(self._totals[0], totals)
            self.headroom_rps = self._headroom(page)
            self._publish(page, now_s)

    def points(self) -> list[RatePoint]:
        """One for each sample but the first, oldest first."""
        return list(self._points)

    def now(self) -> RatePoint:
        """Over the last 10 s, or since the first sample."""
        return self._now

    def _headroom(self, page: StatusPage) -> float | None:
        before, after = self._totals[0], self._totals[-1]
        answered = sum(after.latency) - sum(before.latency)
        if answered and after.rows > before.rows:
            self._rows_per_request = (after.rows - before.rows) / answered
        if after.ready:
            self._text = page.read_text(after.ready[0], looks=1) or self._text
        capacity = read_capacity(page, after, self._text)
        latency = [b - a for a, b in zip(before.latency, after.latency, strict=True)]
        if capacity.slo_s is not None and answered >= OBJECTIVE_ANSWERS_MIN and is_missed(latency, capacity.slo_s):
            return 0.0  # whatever the formula says
        return headroom(answered / max(after.at_s - before.at_s, 1e-9), self._rows_per_request, capacity)

    def _publish(self, page: StatusPage, now_s: float) -> None:
        value = page.main.value
        value[Main.SATURATION] = self._now.saturation
        value[Main.HEADROOM_RPS] = math.nan if self.headroom_rps is None else self.headroom_rps
        value[Main.MEASURED_S] = now_s
