"""The report as Markdown and as JSON. Pure: everything that was measured goes in, text comes out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.markdown import number, table
from benchmarks.table.bars import NO_PEERS, Idle, TableVerdict, verdicts
from benchmarks.table.contenders import EVENKEEL
from benchmarks.table.ratios import DISTURBANCE_MAX, Row, Spread, row
from benchmarks.table.windows import Window
from benchmarks.table.workloads import Workload


@dataclass(slots=True)
class TableResults:
    """Everything one run has found so far. `windows` holds a workload and contender once it is finished."""

    workloads: list[Workload]
    facts: dict[str, str]  # commit, machine, versions, settings
    windows: dict[tuple[str, str], list[Window]] = field(default_factory=dict)
    idle: Idle | None = None
    notes: list[str] = field(default_factory=list)  # what was left out, went wrong, or was disturbed

    def rows(self) -> dict[tuple[str, str], Row]:
        return {key: row(windows) for key, windows in self.windows.items()}

    def verdicts(self) -> list[TableVerdict]:
        return verdicts(self.workloads, self.rows(), self.idle)

    def to_json(self) -> dict[str, Any]:
        return {
            "facts": self.facts,
            "notes": self.notes,
            "workloads": [asdict(w) for w in self.workloads],
            "verdicts": [v.to_json() for v in self.verdicts()],
            "rows": [{k: v for k, v in asdict(r).items() if k != "windows"} for r in self.rows().values()],
            "idle": asdict(self.idle) if self.idle else None,
            "windows": [w.to_json() for windows in self.windows.values() for w in windows],
        }


HOW_TO_READ = f"""\
Every request has a trace id and an inference id of its own, and the next of up to 100 bodies; "fixed heads" is the same request
again and again. Contenders take turns, each round begun by another; numbers are medians of a contender's windows, with (least
to most). A bar is the median of the ratios of windows of the same round, with its 95 % interval. Before the windows a client of
our own compares every answer with what the model must say, with as many connections; in the windows of an open load it compares
every answer, too, while wrk looks at statuses alone. wrk is a closed loop, so its latency is that of a request sent only after
the last answer came; an open load's counts from when a request was due. Pinned: server on core 0, load on core 1. CPU a request
is that of the server's whole process tree. Raw model: its calls back to back without any server. A window is disturbed when
others took over {DISTURBANCE_MAX} cores."""


def markdown(results: TableResults, stem: str, *, has_picture: bool) -> str:
    rows, found = results.rows(), results.verdicts()
    parts = [
        f"# Table of workloads {stem}",
        *table(("", ""), list(results.facts.items())),
        "## Requests a second, and p99 in ms",
        *overview(results.workloads, rows),
        *([f"![requests a second by evenkeel's]({stem}.svg)"] if has_picture else []),
        "## Bars",
        tally(found),
        *table(("work", "bar", "measured", "met?"), [(v.work, v.bar, v.measured, WORDS[v.met]) for v in found]),
        "## How to read the tables",
        HOW_TO_READ,
        "## Each workload",
    ]
    for workload in results.workloads:
        mine = [r for (name, _), r in rows.items() if name == workload.name]
        if mine:
            parts += [f"**{workload.name}**: {described(workload)}", *table(DETAIL_HEAD, [detail(r) for r in mine])]
    if results.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in results.notes)]
    return "\n\n".join(parts) + "\n"


WORDS = {True: "yes", False: "**no**", None: "not measured"}


def overview(workloads: Sequence[Workload], rows: dict[tuple[str, str], Row]) -> list[str]:
    """The table: a line for each workload, a column for each contender. The best of evenkeel and its peers is bold."""
    names = list(dict.fromkeys(who for _, who in rows))
    lines = []
    for workload in workloads:
        there = {who: r for (name, who), r in rows.items() if name == workload.name}
        judged = {who: r.rps.median for who, r in there.items() if who == EVENKEEL or who not in NO_PEERS}
        best = max(judged, key=lambda who: judged[who], default="")
        lines.append((workload.name, *(cell(there.get(who), bold=who == best) for who in names)))
    return table(("workload", *names), lines)


def cell(r: Row | None, *, bold: bool) -> str:
    if r is None:
        return "–"
    text = f"{number(r.rps.median)}, {number(r.p99_ms.median)}" + (f" ({r.failed} failed)" if r.failed else "")
    return f"**{text}**" if bold else text


def described(workload: Workload) -> str:
    rows = "" if workload.rows == (1, 1) else f", {workload.rows[0]} to {workload.rows[1]} rows"
    place = "pinned" if workload.pinned else "both on all cores"
    return f"{workload.says}{rows}; {workload.connections} connections; {place}."


def tally(found: Sequence[TableVerdict]) -> str:
    judged = [v for v in found if v.met is not None]
    return f"{sum(v.met is True for v in judged)} of {len(judged)} met, {len(found) - len(judged)} not measured."


DETAIL_HEAD = ("contender", "requests/s", "p50 ms", "p99 ms", "CPU µs a request", "of which", "cores: server, load", "failed",
               "windows, disturbed")  # fmt: skip


def detail(r: Row) -> tuple[str, ...]:
    roles = sorted(r.cpu_us_by_role.items(), key=lambda item: -item[1])
    cores = [statistics.median(value) for value in zip(*((w.server_cores, w.load_cores) for w in r.windows), strict=True)]
    return (
        r.contender,
        spread(r.rps),
        spread(r.p50_ms),
        spread(r.p99_ms),
        number(r.cpu_us),
        ", ".join(f"{role} {number(us)}" for role, us in roles if us >= 0.05),
        ", ".join(f"{value:.2f}" for value in cores),
        str(r.failed),
        f"{len(r.windows)}, {r.disturbed}",
    )


def spread(s: Spread) -> str:
    return f"{number(s.median)} ({number(s.least)} to {number(s.most)})"
