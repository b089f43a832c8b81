"""What benchmarks/gpu.py makes of what it measured: the figures, whether each bar is met, the table, the plot. Pure.

None stands for what was not measured; it stays an empty cell, and meets or misses no bar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks import plot
from benchmarks.gpu_load import Load
from benchmarks.gpu_peers import SETTINGS

CNN, ENCODER = "cnn", "encoder"
UNITS = {CNN: "images", ENCODER: "words"}
PLAIN, GRAPHS = "evenkeel", "evenkeel, graphs"
OURS, PEERS = (PLAIN, GRAPHS), tuple(SETTINGS)
BARS = {CNN: 0.90, ENCODER: 0.85}  # of the bare model's rate
P99_S_MAX = {CNN: float("inf"), ENCODER: 0.05}
KEPT_UP = 0.98  # of what was due is answered by the end; with a growing backlog it is not
ALONE_S_MORE = 0.0003
BACK_S_MAX = 10.0
TIMES_PEERS = 2.0
RTOL = 0.02  # of the largest value of an answer: bfloat16, and another batch size may mean another algorithm
HINT = "full: p99, dashed: p50; open load, numbers: % of the closed loop's rate"


@dataclass(frozen=True, slots=True)
class Point:
    """One open load, at a share of what the closed loop found. Rates in units a second; the last three count requests."""

    share: float
    due_rate: float
    rate: float
    p50_s: float | None
    p99_s: float | None
    refused: int
    unsent: int
    lost: int

    @property
    def kept_up(self) -> bool:
        return self.rate >= KEPT_UP * self.due_rate and not self.lost


@dataclass(slots=True)
class Served:
    """A work by one server. `right`: answers as the bare model gives them, of how many."""

    setting: str = ""
    right: tuple[int, int] | None = None
    alone: Load | None = None
    closed: Load | None = None
    points: list[Point] = field(default_factory=list)


@dataclass(slots=True)
class Fault:
    """`back_s`: until another engine was ready, 0 where the same one went on."""

    load: Load | None = None
    back_s: float | None = None


@dataclass(slots=True)
class Work:
    """All that was found about one. `rates`: of the bare model, by length and batch size; `bytes_rate`: of HTTP without a model,
    by our own front; `least_rate`: by a server that only reads."""

    name: str
    rates: Mapping[str, Mapping[str, float]] | None = None
    alone_s: float | None = None
    bytes_rate: float | None = None
    least_rate: float | None = None
    served: dict[str, Served] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    measured: str | None
    limit: str | None
    bar: str
    met: bool | None


# ---- figures ---------------------------------------------------------------------------------------------------------


def best_rate(rates: Mapping[str, Mapping[str, float]]) -> float:
    """Units a second of the model alone, over all lengths in equal numbers of requests, each at its best batch."""
    units = sum(int(length) for length in rates)
    return units / sum(int(length) / max(sizes.values()) for length, sizes in rates.items())


def quantile(values: Sequence[float], share: float) -> float | None:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None


def rate_of(load: Load) -> float:
    return load.units / load.seconds


def point(share: float, load: Load) -> Point:
    p50_s, p99_s = quantile(load.latency_s, 0.5), quantile(load.latency_s, 0.99)
    return Point(share, load.due / load.seconds, rate_of(load), p50_s, p99_s, load.refused, load.unsent, load.lost)


def best(points: Sequence[Point], p99_s_max: float) -> Point | None:
    """The highest rate that was kept up with, in time."""
    good = [p for p in points if p.kept_up and p.p99_s is not None and p.p99_s <= p99_s_max]
    return max(good, key=lambda p: p.rate, default=None)


# ---- rows ------------------------------------------------------------------------------------------------------------


def rows(work: Work) -> Iterator[Row]:
    names = [name for name in OURS if name == PLAIN or name in work.served]
    for name in names:
        yield right(work, name)
    for name in names:
        yield alone(work, name)
    for name in names:
        yield speed(work, name)
    if work.name == CNN:
        yield http(work)
        for name in PEERS:
            yield beside(work, name)
    for what, fault in work.faults.items():
        yield recovered(f"{work.name}, {what}", fault)


def right(work: Work, name: str) -> Row:
    found = work.served.get(name, Served()).right
    return Row(f"{work.name}, {name}: answers as the bare model gives them", found and f"{found[0]} of {found[1]}", None,
               f"all, within {RTOL:g} of the largest value", found and found[0] == found[1])  # fmt: skip


def alone(work: Work, name: str) -> Row:
    load, alone_s = work.served.get(name, Served()).alone, work.alone_s
    p50_s = quantile(load.latency_s, 0.5) if load else None
    met = None if p50_s is None or alone_s is None else p50_s <= alone_s + ALONE_S_MORE
    return Row(f"{work.name}, {name}: one request at a time", None if p50_s is None else f"p50 {_ms(p50_s)}",
               None if alone_s is None else f"{_ms(alone_s)}: the bare model", f"at most {1000 * ALONE_S_MORE:g} ms more",
               met)  # fmt: skip


def speed(work: Work, name: str) -> Row:
    """The bar lies at a share of the bare model, or for the CNN at what HTTP lets through, whichever is lower."""
    unit, p99_s_max = UNITS[work.name], P99_S_MAX[work.name]
    in_time = f", p99 at most {_ms(p99_s_max)}" if p99_s_max < float("inf") else ""
    points = work.served.get(name, Served()).points
    top = best(points, p99_s_max)
    words = f"{_rate(top.rate, unit)}, p50 {_ms(top.p50_s)}, p99 {_ms(top.p99_s)}" if top else None
    if points and not top:
        words = f"none of {len(points)} loads was kept up with{in_time}"
    what, share = f"{work.name}, {name}: open load", f"at least {BARS[work.name]:.2f} × the bare model"
    if work.rates is None:
        return Row(what, words, None, share + in_time, None)
    bare = best_rate(work.rates)
    bar, limit = BARS[work.name] * bare, f"{_rate(bare, unit)}: the bare model"
    if work.bytes_rate is not None and work.bytes_rate < bar:
        bar, share = work.bytes_rate, "at least what HTTP lets through"
        limit = f"{_rate(bar, unit)}: bytes through HTTP, lower than the bare model's {bare:,.0f}"
    met = None if not points else top is not None and top.rate >= bar
    if met is False and work.name == CNN and work.bytes_rate is None:
        met = None  # the other limit may be the lower one
    return Row(what, words, limit, f"{share}: {bar:,.0f}{in_time}", met)


def http(work: Work) -> Row:
    unit = UNITS[work.name]
    words = None if work.bytes_rate is None else _rate(work.bytes_rate, unit)
    limit = None if work.least_rate is None else f"{_rate(work.least_rate, unit)}: a server that only reads them"
    return Row(
        f"{work.name}, {PLAIN}: the same bytes through HTTP without a model, closed loop",
        words,
        limit,
        "none: it is a limit",
        None,
    )


def beside(work: Work, peer: str) -> Row:
    """Ours, as it was quickest, at the p99 that the peer has at its best."""
    unit, theirs = UNITS[work.name], best(work.served.get(peer, Served()).points, float("inf"))
    what, bar = f"{work.name}, beside {peer} at the same p99", f"at least {TIMES_PEERS:g} ×"
    limit = f"{_rate(theirs.rate, unit)}, p99 {_ms(theirs.p99_s)}: {work.served[peer].setting}" if theirs else None
    ours = [p for name in OURS for p in work.served.get(name, Served()).points]
    if theirs is None and (tried := work.served.get(peer, Served()).points):
        limit = f"none of its {len(tried)} loads was kept up with"
    if theirs is None or theirs.p99_s is None or not ours:
        return Row(what, None, limit, bar, None)
    top = best(ours, theirs.p99_s)
    if top is None:
        return Row(what, f"none of ours has a p99 of {_ms(theirs.p99_s)} or less", limit, bar, False)
    times = top.rate / theirs.rate
    return Row(what, f"{times:.2f} ×: {_rate(top.rate, unit)}, p99 {_ms(top.p99_s)}", limit, bar, times >= TIMES_PEERS)


def recovered(what: str, fault: Fault) -> Row:
    load, back_s = fault.load, fault.back_s
    words = None if load is None else f"{load.lost} of {load.right + load.lost} lost"
    if words and back_s is not None:
        words += f", back in {back_s:.1f} s" if back_s else ", the same engine went on"
    met = None if load is None or back_s is None else load.lost == 0 and back_s <= BACK_S_MAX
    return Row(what, words, None, f"0 lost, back within {BACK_S_MAX:g} s", met)


def _rate(rate: float, unit: str) -> str:
    return f"{rate:,.0f} {unit}/s"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1000 * seconds:.2f} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"


# ---- the file --------------------------------------------------------------------------------------------------------


def markdown(title: str, facts: Sequence[tuple[str, str]], works: Sequence[Work], notes: Sequence[str], picture: str = "") -> str:
    """`picture`: the file of the plot, beside this one."""
    met = {True: "yes", False: "**no**", None: ""}
    lines = [f"# {title}", "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts), "",
             "| work | measured | limit | bar | met? |", "|---|---|---|---|---|"]  # fmt: skip
    lines += [f"| {r.what} | {r.measured or ''} | {r.limit or ''} | {r.bar} | {met[r.met]} |" for w in works for r in rows(w)]
    lines += ["", f"An empty cell was not measured. {HOW}"]
    lines += ["", f"![latency against throughput]({picture})"] if picture else []
    for work in works:
        lines += loads(work)
    return "\n".join([*lines, *(["", "## Notes", ""] if notes else []), *(f"- {n}" for n in notes)]) + "\n"


HOW = (
    "The open load counts from when a request was due, and its figure is the highest rate that was kept up with: at least "
    f"{KEPT_UP:.0%} of what was due answered by the end, none lost."
)


def loads(work: Work) -> list[str]:
    """Every load of a work, as a section."""
    unit = UNITS[work.name]
    found = [line for name, served in work.served.items() for line in _loads_of(name, served)]
    head = f"| server | load | due {unit}/s | answered | p50 | p99 | refused | unsent | lost | kept up? |"
    return ["", f"## {work.name}: every load", "", head, "|---" * 10 + "|", *found] if found else []


def _loads_of(name: str, served: Served) -> Iterator[str]:
    who = f"{name}: {served.setting}" if served.setting else name
    if served.closed is not None:
        c = served.closed
        p50, p99 = _ms(quantile(c.latency_s, 0.5)), _ms(quantile(c.latency_s, 0.99))
        yield f"| {who} | closed | | {rate_of(c):,.0f} | {p50} | {p99} | {c.refused} | | {c.lost} | |"
    for p in served.points:
        yield (f"| {who} | open, {p.share:.0%} | {p.due_rate:,.0f} | {p.rate:,.0f} | {_ms(p.p50_s)} | {_ms(p.p99_s)} "
               f"| {p.refused} | {p.unsent} | {p.lost} | {'yes' if p.kept_up else 'no'} |")  # fmt: skip


def panels(works: Sequence[Work]) -> list[plot.Panel]:
    """A panel for each work, a line for each server."""
    found = []
    for work in works:
        lines = {name: [plot.Point(round(100 * p.share), p.rate, 1000 * p.p50_s, 1000 * p.p99_s)
                        for p in served.points if p.p50_s is not None and p.p99_s is not None and p.rate]
                 for name, served in work.served.items()}  # fmt: skip
        drawn = {name: line for name, line in lines.items() if line}
        if drawn:
            found.append(plot.Panel(work.name, drawn, f"{UNITS[work.name]}/s"))
    return found
