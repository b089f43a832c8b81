"""`make soak`: does anything grow? Four fifths of the time at 80 % of the capacity with requests of mixed sizes, one fifth
at 150 %, where nothing may take the overload for a fault.

The capacity is measured first. A sample is taken some 120 times in each part: memory, descriptors and threads by role,
latency and refusals. Growth is judged by robust slopes, see trend.py. Writes benchmarks/results/soak-*.md; exit code 0
when nothing grows and there was no false alarm.

usage: python -m benchmarks.soak [--minutes 75] [--no-table]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks import procs
from benchmarks.chaos import HERE, commit
from benchmarks.load import TENSORS_TOML, Interval, Load, Plan, Tally
from benchmarks.markdown import table
from benchmarks.overload import Bar, ms
from benchmarks.trend import POINTS_MIN, trend
from tests.support.tree import Tree

SIZES = (1, 1, 3, 1, 64, 1, 2, 500, 1, 1, 17)  # rows of a request, in turn
BATCH_MS = 5  # of the model, by EVENKEEL_FAULTS: the server is under test, and the client needs CPU too
SETTINGS = {"EVENKEEL_FAULTS": f"slow:every=1,ms={BATCH_MS}", "EVENKEEL_REQUEST_TIMEOUT_S": "2"}
MINUTES_MAX = 600.0
CALM, BUSY, CALM_SHARE = 0.8, 1.5, 0.8
SAMPLES, SAMPLE_S_MIN = 120, 2.0
SETTLING = 0.2  # of the samples of a part: caches fill, allocators find their size
CONNECTIONS = 1500
# What a series may grow by over its part before it counts: memory in MB, counts, and latency as a share of its start.
MEMORY_MB, DESCRIPTORS, THREADS, LATENCY_SHARE = 4.0, 4.0, 1.0, 0.25


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    values: dict[str, float]  # by what is measured
    interval: Interval


@dataclass(frozen=True, slots=True)
class Alarms:
    """What a watchdog may have done wrongly. All must be 0 or empty."""

    restarts: int
    transitions: tuple[str, ...]
    events: tuple[str, ...]
    pings_not_200: int


# ---- measuring -------------------------------------------------------------------------------------------------------


def of_tree(tree: Tree) -> dict[str, float]:
    """Memory, descriptors and threads of each role together."""
    found: Counter[str] = Counter()
    for process in procs.tree(tree.process.pid):
        role = procs.role(process, tree.process.pid)
        found[f"memory of {role}, MB"] += procs.rollup_mb(process.pid).get("Pss", 0.0)  # type: ignore[assignment]
        found[f"descriptors of {role}"] += count(f"/proc/{process.pid}/fd")
        found[f"threads of {role}"] += count(f"/proc/{process.pid}/task")
    return dict(found)


def count(folder: str) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0  # it has just ended


def capacity(port: int) -> float:
    load = Load(Plan(port, connections=64, think_s_max=0.0, rows=SIZES))
    time.sleep(1.0)
    load.tell(interval="measured")
    load.next_interval()
    time.sleep(5.0)
    load.tell(interval="over")
    interval = load.next_interval()
    load.stop()
    return interval.right / (interval.ended_s - interval.began_s)


def samples(tree: Tree, load: Load, seconds: float, name: str) -> Iterator[Sample]:
    every_s = max(SAMPLE_S_MIN, seconds / SAMPLES)
    load.tell(interval=name)
    load.next_interval()
    end_s, told_s = time.monotonic() + seconds, 0.0
    while time.monotonic() < end_s:
        time.sleep(every_s)
        load.tell(interval=name)
        interval = load.next_interval()
        values = {**of_tree(tree), "latency p50, ms": 1e3 * interval.latency_s.get("p50", 0.0),
                  "latency p99, ms": 1e3 * interval.latency_s.get("p99", 0.0)}  # fmt: skip
        now_s = time.monotonic()
        if now_s - told_s > 30:
            told_s = now_s
            memory = sum(v for k, v in values.items() if k.startswith("memory"))
            print(f"  {name}: {end_s - now_s:.0f} s left, {interval.right} right, {interval.refused} refused, "
                  f"p99 {ms(interval.latency_s.get('p99'))}, {memory:.0f} MB", flush=True)  # fmt: skip
        yield Sample(now_s, values, interval)


def alarms(tree: Tree, since_unix_s: float, pings_not_200: int) -> Alarms:
    status = tree.status()
    seen = [f"{t['subject']} {t['old']} → {t['new']}" for t in status["transitions"] if t["at_s"] > since_unix_s]
    wrong = ("stuck", "restart", "killed", "giving_up", "front_error", "engine_failed", "answer_failed", "watch_failed")
    events = [f"{e}: {len(found)}" for e in wrong if (found := tree.events(e))]
    return Alarms(sum(status["restarts"].values()), tuple(seen), tuple(events), pings_not_200)


def measure(minutes: float, folder: Path) -> tuple[float, dict[str, list[Sample]], Tally, Alarms]:
    (folder / "model.toml").write_text(TENSORS_TOML)
    tree, load = Tree(folder, **SETTINGS), None
    try:
        tree.wait_ready()
        rate = capacity(tree.port)
        print(f"capacity: {rate:.0f} requests/s of mixed sizes", flush=True)
        parts: dict[str, list[Sample]] = {}
        plan = Plan(tree.port, connections=CONNECTIONS, rate=CALM * rate, rows=SIZES, refusals_expected=True)
        load = Load(plan)
        time.sleep(1.0)
        since_unix_s, not_200 = time.time(), 0
        for times, share in ((CALM, CALM_SHARE), (BUSY, 1 - CALM_SHARE)):
            name = f"{times:.0%} of the capacity"
            load.tell(rate=times * rate)
            parts[name] = []
            for sample in samples(tree, load, 60 * minutes * share, name):
                parts[name].append(sample)
                not_200 += tree.ping() != 200
        found = alarms(tree, since_unix_s, not_200)
        tally = load.stop()
        tree.stop()
        return rate, parts, tally, found
    finally:
        if load is not None:
            load.kill()
        tree.kill()


# ---- judging ---------------------------------------------------------------------------------------------------------


def tolerance(what: str, first: float) -> float:
    if what.startswith("memory"):
        return MEMORY_MB
    if what.startswith("latency"):
        return LATENCY_SHARE * first
    return DESCRIPTORS if what.startswith("descriptors") else THREADS


def growth_rows(part: Sequence[Sample]) -> tuple[list[tuple[str, ...]], list[str]]:
    """The table of one part, and what grows in it."""
    settled = part[int(SETTLING * len(part)) :]
    rows: list[tuple[str, ...]] = []
    growing: list[str] = []
    for what in sorted({w for s in settled for w in s.values}):
        times_s = [s.at_s for s in settled if what in s.values]
        found = trend(times_s, [s.values[what] for s in settled if what in s.values])
        limit = tolerance(what, found.first)
        if found.grows(limit):
            growing.append(what)
        verdict = "**grows**" if found.grows(limit) else "no" if found.points >= POINTS_MIN else "too short to tell"
        rows.append((what, f"{found.first:.1f}", f"{found.growth:+.2f}", f"{found.z:+.1f}", f"{limit:.1f}", verdict))
    return rows, growing


def bars(growing: Sequence[str], tally: Tally, found: Alarms) -> list[Bar]:
    failures = Counter(f.kind for f in tally.failures)
    failures.update({k: n for k, n in tally.refused.items() if not k.startswith("429")})
    told = ", ".join([*found.transitions, *found.events, *([f"{found.restarts} restarts"] if found.restarts else [])])
    quiet = not told and not found.pings_not_200
    return [
        Bar("memory, descriptors, threads, latency", "do not grow", ", ".join(growing) or "nothing grows", not growing),
        Bar("requests without a right answer or a 429", "0",
            ", ".join(f"{n} × {k}" for k, n in failures.items()) or "0", not failures),
        Bar("false alarms", "none", told or f"none, /ping not 200: {found.pings_not_200}", quiet),
    ]  # fmt: skip


def markdown(
    stem: str, minutes: float, rate: float, parts: dict[str, list[Sample]], tally: Tally, found: Alarms
) -> tuple[str, bool]:
    tables = {name: growth_rows(part) for name, part in parts.items()}
    judged = bars([f"{what} ({name})" for name, (_, growing) in tables.items() for what in growing], tally, found)
    facts = [
        (
            "machine",
            f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; the client runs on it too",
        ),
        ("minutes", f"{minutes:g}, of them {CALM_SHARE:.0%} at {CALM:.0%} of the capacity and the rest at {BUSY:.0%}"),
        ("load", f"open loop; requests of {', '.join(map(str, SIZES))} rows in turn; every fourth NPY, the others JSON"),
        ("capacity", f"{rate:.0f} requests/s; a batch takes {BATCH_MS} ms and what its rows cost"),
        ("requests", f"{tally.sent:,} sent, {tally.right:,} right, {sum(tally.refused.values()):,} refused with 429"),
    ]
    head = ("what", "at the start", "growth over the part", "z", "tolerated", "grows?")
    sections = [text for name, (rows, _) in tables.items() for text in (f"## At {name}", *table(head, rows))]
    text = "\n\n".join([
        f"# Soak {stem.removeprefix('soak-')}", *table(("", ""), facts),
        *table(("what", "bar", "measured", "met?"), [(b.what, b.bar, b.measured, "yes" if b.met else "**no**") for b in judged]),
        f"Growth is the median slope (Theil and Sen) times the length of the part without its first {SETTLING:.0%}; it counts "
        "when it is surely no chance (z of Mann and Kendall above 3.29) and more than is tolerated.",
        *sections,
    ]) + "\n"  # fmt: skip
    return text, all(b.met for b in judged)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--minutes", type=float, default=75.0, help="of load")
    parser.add_argument("--no-table", action="store_true", help="write no file")
    args = parser.parse_args(argv)
    if not 0.5 <= args.minutes <= MINUTES_MAX:
        parser.error(f"--minutes {args.minutes:g} must be from 0.5 to {MINUTES_MAX:g}")
    folder = Path(tempfile.mkdtemp(prefix="ekc-"))
    try:
        rate, parts, tally, found = measure(args.minutes, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    stem = f"soak-{date.today().isoformat()}-{commit()}"
    text, all_met = markdown(stem, args.minutes, rate, parts, tally, found)
    print(text)
    if not args.no_table:
        (HERE / "results" / f"{stem}.md").write_text(text)
        print(f"written: benchmarks/results/{stem}.md")
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
