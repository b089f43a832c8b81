"""The bars that evenkeel has to pass, and whether it did. Pure: rows in, verdicts out.

A bar is a ratio of windows of the same rounds. One whose workload or other side was not measured has no verdict; a workload in
which evenkeel failed a request has passed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.markdown import number
from benchmarks.table.contenders import BARE, BEFORE, EVENKEEL, FIXED_HEADS, UNCOUNTED
from benchmarks.table.ratios import PAIRS_MIN, Row, ratio
from benchmarks.table.raw_model import RAW
from benchmarks.table.windows import Window
from benchmarks.table.workloads import ALONE, LEAD, OPEN, PEER, Workload

MOSEC, TRITON = "mosec", "triton"
OURS_FIXED, BEFORE_FIXED = EVENKEEL + FIXED_HEADS, BEFORE + FIXED_HEADS
NO_PEERS = (EVENKEEL, OURS_FIXED, BEFORE_FIXED, UNCOUNTED, BARE, RAW)
PEER_MIN, RAW_MIN = 1.2, 0.95
LATE_MS_MAX = 1.0  # of an open load: what a client is late by is no latency of the server's
PSS_MB_MAX = 150.0
Rows = Mapping[tuple[str, str], Row]  # by workload and contender


@dataclass(frozen=True, slots=True)
class Idle:
    """evenkeel alone on the machine with the tiny model."""

    start_s: list[float]  # of each start, process start to the first 200 on /ping
    pss_mb_by_role: dict[str, float]
    idle_cores: float

    @property
    def pss_mb(self) -> float:
        return sum(self.pss_mb_by_role.values())


@dataclass(frozen=True, slots=True)
class TableVerdict:
    work: str
    bar: str
    measured: str
    met: bool | None  # None: not measured

    def to_json(self) -> dict[str, Any]:
        return {"record": "verdict", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Measure:
    name: str
    of: Callable[[Window], float]
    higher_is_better: bool


RPS = Measure("requests/s", lambda w: w.rps, True)
P50 = Measure("p50", lambda w: w.load.p50_ms, False)
P99 = Measure("p99", lambda w: w.load.p99_ms, False)


def verdicts(workloads: Sequence[Workload], rows: Rows, idle: Idle | None) -> list[TableVerdict]:
    """Every bar, in the order of the table."""
    judge = Judge(rows)
    of_bar = {LEAD: judge.lead, ALONE: judge.alone, PEER: judge.best_peer, OPEN: judge.open}
    return [v for workload in workloads for v in of_bar[workload.bar](workload)] + [memory(idle)]


@dataclass(frozen=True, slots=True)
class Judge:
    rows: Rows

    def lead(self, workload: Workload) -> list[TableVerdict]:
        name = workload.name
        found = [
            self.ratio(name, RPS, OURS_FIXED, 0.85),
            self.ratio(name, RPS, MOSEC, 1.8),
            self.ratio(name, P99, MOSEC, 0.7),
            self.ratio(name, RPS, TRITON, 4.0),
            self.ratio(name, RPS, UNCOUNTED, 0.97),
            self.ratio(name, RPS, BEFORE_FIXED, 0.98, ours=OURS_FIXED),
        ]
        return [*found, self.ratio(name, RPS, BARE, 0.5)] if name == "json-64" else found

    def alone(self, workload: Workload) -> list[TableVerdict]:
        return [self.ratio(workload.name, P50, BARE, 2.2), self.ratio(workload.name, P50, TRITON, 0.5)]

    def open(self, workload: Workload) -> list[TableVerdict]:
        """The best peer is the one with the least p99."""
        peers = self.peers(workload.name)
        best = min(peers, key=lambda r: r.p99_ms.median, default=None)
        verdict = self.ratio(workload.name, P99, best.contender if best else "the best peer", 1.0)
        ours = self.rows.get((workload.name, EVENKEEL))
        late = [r.contender for r in (ours, best) if r and r.late_ms > LATE_MS_MAX]
        return [TableVerdict(verdict.work, verdict.bar, f"{verdict.measured}; the client was late for {', '.join(late)}", None)
                if late else verdict]  # fmt: skip

    def best_peer(self, workload: Workload) -> list[TableVerdict]:
        """More requests than the best peer at no higher p99, or nearly what the model alone can do."""
        name = workload.name
        best = max(self.peers(name), key=lambda r: r.rps.median, default=None)
        bar = f"requests/s ≥ {PEER_MIN:g} × the best peer at no higher p99, or ≥ {RAW_MIN:g} × the {RAW}"
        by_raw = self.ratio(name, RPS, RAW, RAW_MIN)
        if best is None:
            return [TableVerdict(name, bar, "no peer was measured", True if by_raw.met else None)]
        rps, p99 = self.ratio(name, RPS, best.contender, PEER_MIN), self.ratio(name, P99, best.contender, 1.0)
        told = f"{rps.measured}; {p99.measured}" + (f"; {by_raw.measured}" if by_raw.met is not None else "")
        met = None if rps.met is None else bool((rps.met and p99.met) or by_raw.met)
        return [TableVerdict(name, bar, told, met)]

    def peers(self, name: str) -> list[Row]:
        """Those that answered everything."""
        return [r for (work, who), r in self.rows.items() if work == name and who not in NO_PEERS and not r.failed]

    def ratio(self, name: str, measure: Measure, other: str, factor: float, ours: str = EVENKEEL) -> TableVerdict:
        """evenkeel's number against a multiple of another's in the same rounds."""
        side = "" if ours == EVENKEEL else f"{ours}: "
        bar = f"{side}{measure.name} {'≥' if measure.higher_is_better else '≤'} {factor:g} × {other}"
        mine, theirs = self.rows.get((name, ours)), self.rows.get((name, other))
        if mine is None or theirs is None:
            return TableVerdict(name, bar, f"{ours if mine is None else other} was not measured", None)
        found = ratio(mine, theirs, measure.of)
        if found is None:
            return TableVerdict(name, bar, "no round has both", None)
        enough = found.median >= factor if measure.higher_is_better else found.median <= factor
        few = f", only {found.pairs} of {PAIRS_MIN} pairs" if found.pairs < PAIRS_MIN else ""
        failed = "".join(f"; {r.contender} failed {r.failed} requests" for r in (mine, theirs) if r.failed)
        told = f"{measure.name} {number(found.median)} × {other} ({number(found.low)} to {number(found.high)}{few}){failed}"
        return TableVerdict(name, bar, told, enough and not mine.failed)


def memory(idle: Idle | None) -> TableVerdict:
    bar = f"all processes together ≤ {PSS_MB_MAX:g} MB PSS"
    if idle is None:
        return TableVerdict("idle, T", bar, f"{EVENKEEL} was not measured", None)
    parts = ", ".join(f"{role} {mb:.0f}" for role, mb in idle.pss_mb_by_role.items())
    return TableVerdict("idle, T", bar, f"{idle.pss_mb:.0f} MB ({parts})", idle.pss_mb <= PSS_MB_MAX)
