"""The report as Markdown. Pure: everything that was measured goes in, text comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.bars import StartAndMemory, Verdict, number, verdicts
from benchmarks.contenders import RAW, RawResult, Run
from benchmarks.first import FirstRequests
from benchmarks.summary import DISTURBANCE_MAX, Spread, Summary, summarize

MODELS = {
    "T": "T: MLP 32-64-64-3, one row a request",
    "S": "S: MLP 64-4×1024-16, one row a request",
    "M": "M: CNN of ResNet-18's size, one row of 602 kB a request",
    "echo": "echo: returns its 32 floats",
}


@dataclass(slots=True)
class Results:
    """Everything one run of the benchmark has found so far. `runs` holds a cell and server only once it is finished."""

    facts: dict[str, str]  # commit, machine, versions, settings
    runs: dict[tuple[str, str], list[Run]] = field(default_factory=dict)
    raw: list[RawResult] = field(default_factory=list)
    start: StartAndMemory | None = None
    first: list[FirstRequests] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was left out, went wrong, or was disturbed

    def summaries(self) -> dict[tuple[str, str], Summary]:
        return {key: summarize(runs) for key, runs in self.runs.items()}

    def verdicts(self) -> list[Verdict]:
        return verdicts(self.summaries(), self.start, self.first)

    def records(self) -> list[dict[str, Any]]:
        """Everything as JSON objects, one a line in the file beside the report."""
        found: list[dict[str, Any]] = [{"record": "facts", **self.facts}, {"record": "notes", "notes": self.notes}]
        found += [run.to_json() for runs in self.runs.values() for run in runs]
        found += [result.to_json() for result in self.raw]
        found += [self.start.to_json()] if self.start else []
        found += [result.to_json() for result in self.first]
        found += [s.to_json() for s in self.summaries().values()]
        return found + [v.to_json() for v in self.verdicts()]


def markdown(results: Results, stem: str, has_plot: bool) -> str:
    parts = [
        f"# Benchmark {stem}",
        *table(("", ""), [(name, value) for name, value in results.facts.items()]),
        "## Bars",
        tally(results.verdicts()),
        *verdict_table(results.verdicts()),
        *([f"![latency against throughput]({stem}.svg)"] if has_plot else []),
        "## How to read the tables",
        HOW_TO_READ,
    ]
    summaries = list(results.summaries().values())
    for group in dict.fromkeys(s.cell.rpartition("-")[0] for s in summaries):
        parts += [f"## {group_title(group)}", *cell_table([s for s in summaries if s.cell.rpartition("-")[0] == group])]
    if results.raw:
        parts += ["## Raw ONNX Runtime, model M, no server", *raw_table(results.raw)]
    if results.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in results.notes)]
    return "\n\n".join(parts) + "\n"


HOW_TO_READ = f"""\
Medians of the kept runs, with (least..most). wrk keeps each connection busy with one request at a time, so its latency
is that of a closed loop. "pin": server on core 0, wrk on core 1; "free": both on both cores. CPU a request is that of
the server's whole process tree. Servers take turns within a cell; a run that lost more than {DISTURBANCE_MAX} cores to
others (steal by the host, other processes) is repeated, and the least disturbed runs are kept, whatever they measured:
"(!)" marks a row whose kept runs were disturbed all the same. Triton's "npy" is its own binary format (v2 protocol)."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)]


def tally(found: Sequence[Verdict]) -> str:
    judged = [v for v in found if v.met is not None]
    return f"{sum(v.met is True for v in judged)} of {len(judged)} met, {len(found) - len(judged)} not measured."


def verdict_table(found: Sequence[Verdict]) -> list[str]:
    words = {True: "yes", False: "**no**", None: "not measured"}
    return table(("work", "bar", "measured", "met?"), [(v.work, v.bar, v.measured, words[v.met]) for v in found])


def group_title(group: str) -> str:
    model, wire, place = group.split("-")
    where = "server on core 0, wrk on core 1" if place == "pin" else "not pinned"
    return f"{MODELS.get(model, model)}; {wire.upper()}; {where}"


CELL_HEAD = ("connections", "server", "requests/s", "p50 ms", "p99 ms", "CPU µs a request", "of which",
             "cores: server, wrk, steal", "failed", "runs of tries")  # fmt: skip


def cell_table(summaries: Sequence[Summary]) -> list[str]:
    order = sorted(summaries, key=lambda s: int(s.cell.rpartition("-")[2]))
    return table(CELL_HEAD, [cell_row(s) for s in order])


def cell_row(s: Summary) -> tuple[str, ...]:
    roles = sorted(s.cpu_us_by_role.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{role} {number(us)}" for role, us in roles if us >= 0.05)
    return (
        s.cell.rpartition("-")[2],
        s.server + (" (!)" if s.disturbed else ""),
        spread(s.rps),
        spread(s.p50_ms),
        spread(s.p99_ms),
        number(s.cpu_us),
        "" if s.server == RAW else parts,
        f"{s.server_cores:.2f}, {s.load_cores:.2f}, {s.steal_cores:.2f}",
        str(s.failed),
        f"{s.runs} of {s.tries}",
    )


def spread(s: Spread) -> str:
    return f"{number(s.median)} ({number(s.least)}..{number(s.most)})"


def raw_table(raw: Sequence[RawResult]) -> list[str]:
    best = max(raw, key=lambda r: r.rows_s)
    rows = [(r.call.describe(), number(r.rows_s) + (" (best)" if r is best else ""), number(r.p50_ms), str(r.calls)) for r in raw]
    return table(("call", "rows/s", "p50 of a call, ms", "calls"), rows)
