"""The bars that evenkeel has to pass, and whether it did. Pure: summaries in, verdicts out.

A bar is compared with medians of the same run of the benchmark. A bar whose cells or peers were not measured has no
verdict; a cell in which evenkeel failed a request has passed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.contenders import RAW
from benchmarks.first import FirstRequests
from benchmarks.summary import Summary

EVENKEEL, MOSEC, TRITON = "evenkeel", "mosec", "triton"
UNCOUNTED = "uncounted"  # evenkeel itself without its counters
Summaries = Mapping[tuple[str, str], Summary]  # by cell and server


@dataclass(frozen=True, slots=True)
class StartAndMemory:
    """evenkeel alone on the machine with the tiny model."""

    start_s: list[float]  # of each start, process start to the first 200 on /ping
    pss_mb_by_role: dict[str, float]
    idle_cores: float
    torch_loaded: bool

    @property
    def pss_mb(self) -> float:
        return sum(self.pss_mb_by_role.values())

    def to_json(self) -> dict[str, Any]:
        return {"record": "start_and_memory", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Verdict:
    work: str
    bar: str
    measured: str
    met: bool | None  # None: not measured

    def to_json(self) -> dict[str, Any]:
        return {"record": "verdict", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of a summary, how to read it, and which way is better."""

    name: str
    unit: str
    of: Callable[[Summary], float]
    higher_is_better: bool


RPS = Measure("throughput", "requests/s", lambda s: s.rps.median, True)
P50 = Measure("p50", "ms", lambda s: s.p50_ms.median, False)
P99 = Measure("p99", "ms", lambda s: s.p99_ms.median, False)


FIRST_RATIO_MAX = 1.2


def verdicts(summaries: Summaries, start: StartAndMemory | None, first: Sequence[FirstRequests] = ()) -> list[Verdict]:
    """Every bar, in the order in which they were set."""
    judge = Judge(summaries)
    return [
        *judge.against("T-json-pin-64", RPS, {MOSEC: 1.7, TRITON: 4.0}),
        judge.cpu("T-json-pin-64", 32.0),
        *judge.against("T-json-pin-64", P99, {MOSEC: 0.6}),
        *judge.against("T-npy-pin-64", RPS, {MOSEC: 2.0, TRITON: 4.0}),
        judge.cpu("T-npy-pin-64", 28.0),
        *(v for cell in ("T-json-pin-64", "T-npy-pin-64") for v in judge.against(cell, RPS, {UNCOUNTED: 0.97})),
        *judge.against("T-json-pin-1", P50, {MOSEC: 0.5, TRITON: 0.5}),
        *judge.against("T-json-free-1", P50, {MOSEC: 0.5, TRITON: 0.5}),
        *judge.against("M-npy-free-8", RPS, {RAW: 0.90}),
        *judge.against("M-npy-free-64", RPS, {RAW: 0.85}),
        *judge.against("M-npy-free-1", P50, {RAW: 1.1}),
        *(v for cell in ("S-json-free-64", "S-npy-free-64") for v in judge.against(cell, RPS, {MOSEC: 1.5})),
        *(v for cell in ("S-json-free-64", "S-npy-free-64") for v in judge.against(cell, P99, {MOSEC: 1.0})),
        judge.cpu("echo-json-pin-64", 25.0, role="front"),
        *start_and_memory(start),
        *first_requests(first),
    ]


@dataclass(frozen=True, slots=True)
class Judge:
    summaries: Summaries

    def against(self, cell: str, measure: Measure, factors: Mapping[str, float]) -> list[Verdict]:
        return [self.ratio(cell, measure, other, factor) for other, factor in factors.items()]

    def ratio(self, cell: str, measure: Measure, other: str, factor: float) -> Verdict:
        """evenkeel's number against a multiple of another's in the same cell."""
        bar = f"{measure.name} {'≥' if measure.higher_is_better else '≤'} {factor:g} × {other}"
        ours, theirs = self.summaries.get((cell, EVENKEEL)), self.summaries.get((cell, other))
        if ours is None or theirs is None:
            return Verdict(cell, bar, f"{EVENKEEL if ours is None else other} was not measured", None)
        a, b = measure.of(ours), measure.of(theirs)
        measured = f"{number(a)} / {number(b)} {measure.unit} = {a / b:.2f} ×{self.caveat(ours, theirs)}"
        enough = a >= factor * b if measure.higher_is_better else a <= factor * b
        return Verdict(cell, bar, measured, enough and not ours.failed)

    def cpu(self, cell: str, limit_us: float, role: str | None = None) -> Verdict:
        """CPU of one request: of the whole process tree, or of the processes with one role."""
        bar = f"{f'{role} alone' if role else 'all processes together'} ≤ {limit_us:g} µs of CPU a request"
        ours = self.summaries.get((cell, EVENKEEL))
        if ours is None:
            return Verdict(cell, bar, f"{EVENKEEL} was not measured", None)
        if role is not None and role not in ours.cpu_us_by_role:
            return Verdict(cell, bar, f"no process with the role {role}", None)
        cpu_us = ours.cpu_us if role is None else ours.cpu_us_by_role[role]
        parts = ", ".join(f"{name} {us:.1f}" for name, us in ours.cpu_us_by_role.items())
        return Verdict(cell, bar, f"{cpu_us:.1f} µs ({parts}){self.caveat(ours)}", cpu_us <= limit_us and not ours.failed)

    @staticmethod
    def caveat(*summaries: Summary) -> str:
        failed = [f"{s.server} failed {s.failed} requests" for s in summaries if s.failed]
        disturbed = [f"{s.server} was disturbed" for s in summaries if s.disturbed]
        return "".join(f"; {text}" for text in failed + disturbed)


def start_and_memory(start: StartAndMemory | None) -> Sequence[Verdict]:
    bars = (
        ("start, T", "first 200 on /ping ≤ 2.0 s after process start"),
        ("start, T", "torch is not imported"),
        ("memory, T, idle", "all processes together ≤ 200 MB PSS"),
    )
    if start is None:
        return [Verdict(work, bar, f"{EVENKEEL} was not measured", None) for work, bar in bars]
    start_s = sorted(start.start_s)
    median_s = start_s[len(start_s) // 2]
    parts = ", ".join(f"{role} {mb:.0f}" for role, mb in start.pss_mb_by_role.items())
    measured = (
        (f"{median_s:.2f} s ({start_s[0]:.2f}..{start_s[-1]:.2f} of {len(start_s)} starts)", median_s <= 2.0),
        ("torch is loaded" if start.torch_loaded else "no process has it loaded", not start.torch_loaded),
        (f"{start.pss_mb:.0f} MB ({parts})", start.pss_mb <= 200.0),
    )
    return [Verdict(work, bar, text, met) for (work, bar), (text, met) in zip(bars, measured, strict=True)]


def first_requests(first: Sequence[FirstRequests]) -> Sequence[Verdict]:
    bar = f"p99 of the first 100 requests after the first 200 on /ping ≤ {FIRST_RATIO_MAX:g} × steady state"
    if not first:
        return [Verdict("first requests", bar, f"{EVENKEEL} was not measured", None)]
    return [Verdict(f"first requests, {f.case}", bar, f.describe(), f.ratio.median <= FIRST_RATIO_MAX) for f in first]


def number(value: float) -> str:
    """Three or four digits that matter."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
