"""`make bench`: evenkeel beside the peers that are installed here, over the table of workloads; writes benchmarks/results/.

The story: find the servers, measure evenkeel's start and idle memory while it is alone, then go through the workloads, in groups
for which the same servers are started. Within a group every server is started once and waits idle; within a workload they take
turns (A B C, B C A, ...). Bars are judged at the end.

usage: python -m benchmarks.bench [--quick] [--all] [--workloads json-64,...] [--peers mosec,triton] [--rounds 7] [--seconds 2]
EVENKEEL_BENCH_PEERS: the folder with the peers' environments (benchmarks/peers/install.sh), default benchmarks/.peers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from itertools import groupby
from pathlib import Path

from benchmarks import facts, models
from benchmarks.table import handlers, picture, report, workloads
from benchmarks.table.contenders import BEFORE
from benchmarks.table.groups import HEAVY_SECONDS_FACTOR, Groups
from benchmarks.table.ratios import PAIRS_MIN
from benchmarks.table.report import TableResults
from benchmarks.table.servers import BareHttp, Evenkeel, Server, Uncounted, peers
from benchmarks.table.turns import Plan

HERE = Path(__file__).resolve().parent
STARTS, STARTS_QUICK = 5, 1
DEFAULT_PEERS = "mosec,triton,litserve"  # ray only by name: its HAProxy listens on every address (peers/ray_server.py)


def main() -> int:
    options = read_options()
    if missing := [p for p in ("wrk", "taskset") if not shutil.which(p)]:
        print(f"the benchmark needs {' and '.join(missing)}: apt-get install wrk util-linux", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped on the way out
    wanted, start_s = workloads.chosen(options.workloads, every=options.all), time.monotonic()
    servers, notes = find_servers(options)
    results = TableResults(wanted, told_facts(servers, options), notes=notes)

    def note(text: str) -> None:
        results.notes.append(text)
        say(text)

    for text in (*(f"{name}: {value}" for name, value in results.facts.items()), *notes):
        say(text)
    groups = Groups(Plan(options.rounds, options.seconds, say, note), models.ensure(), servers, results)
    handlers.ensure(groups.folder)
    try:
        if not options.no_idle:
            groups.measure_idle(STARTS_QUICK if options.quick else STARTS)
        for _, group in groupby(wanted, key=lambda w: w.group):
            groups.measure_group(list(group))
    finally:
        results.facts["took"] = f"{(time.monotonic() - start_s) / 60:.0f} min"
        write(results, Path(options.out), f"{date.today().isoformat()}-{facts.commit()}-table" + "-quick" * options.quick)
    return 0


_began_s = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - _began_s:6.1f}s] {text}", flush=True)


def write(results: TableResults, folder: Path, stem: str) -> None:
    """Three files beside each other: the report, the picture, and everything as JSON."""
    if not results.windows and not results.idle:
        return
    folder.mkdir(parents=True, exist_ok=True)
    drawn = picture.svg(results.workloads, results.rows(), f"evenkeel {stem}")
    if drawn:
        (folder / f"{stem}.svg").write_text(drawn)
    (folder / f"{stem}.md").write_text(report.markdown(results, stem, has_picture=bool(drawn)))
    (folder / f"{stem}.json").write_text(json.dumps(results.to_json(), indent=1) + "\n")
    for verdict in results.verdicts():
        word = {True: "met ", False: "MISS", None: "  - "}[verdict.met]
        say(f"{word} {verdict.work}: {verdict.bar}: {verdict.measured}")
    say(f"wrote {folder / stem}.md")


def find_servers(options: argparse.Namespace) -> tuple[list[Server], list[str]]:
    """Those that are asked for and can be started, and a note about each that cannot."""
    program = Path(options.evenkeel).absolute()
    known = peers(Path(os.environ.get("EVENKEEL_BENCH_PEERS") or HERE / ".peers").resolve())
    asked = set(filter(None, options.peers.split(",")))
    if unknown := asked - {p.name for p in known}:
        raise SystemExit(f"unknown peers: {', '.join(sorted(unknown))}")
    chosen: list[Server] = [Evenkeel(program), *(p for p in known if p.name in asked), BareHttp(), Uncounted(program)]
    if options.before:
        chosen.append(Evenkeel(Path(options.before).resolve() / ".venv" / "bin" / "evenkeel", BEFORE))
    notes = [f"{s.name} is left out: {reason}" for s in chosen if (reason := s.missing())]
    notes += [f"{p.name} is left out: it was not asked for (--peers)" for p in known if p.name not in asked]
    return [s for s in chosen if not s.missing()], notes


def told_facts(servers: Sequence[Server], options: argparse.Namespace) -> dict[str, str]:
    """What the numbers depend on."""
    wrk = subprocess.run(["wrk", "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    before = {"commit of before": facts.commit(Path(options.before).resolve())} if options.before else {}
    quick = {"quick": "one short round: it shows that everything runs, and its figures say nothing"} if options.quick else {}
    heavy_s = options.seconds * HEAVY_SECONDS_FACTOR
    return {
        "commit": facts.commit(),
        **quick,
        **before,
        "machine": facts.machine(),
        "kernel": platform.platform(),
        "load": wrk.partition(" Copyright")[0],
        "settings": f"{options.rounds} rounds of windows of {options.seconds:g} s (M: {heavy_s:g} s)",
        **{s.name: s.versions() for s in servers},
        **{f"settings of {s.name}": s.settings for s in servers if not isinstance(s, Uncounted)},
    }


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="evenkeel beside its peers")
    parser.add_argument("--quick", action="store_true", help="one round of windows of 1 s: does everything run?")
    parser.add_argument("--all", action="store_true", help="all workloads, not the short set alone")
    parser.add_argument("--workloads", default="", help=f"by name, of {', '.join(workloads.WORKLOADS)}")
    parser.add_argument(
        "--peers", default=DEFAULT_PEERS, help=f"what to compare with (default {DEFAULT_PEERS}; there is ray, too)"
    )
    parser.add_argument("--rounds", type=int, help=f"windows of each contender in a workload (default {PAIRS_MIN})")
    parser.add_argument("--seconds", type=float, help="length of a window (default 1; three times that for M)")
    parser.add_argument("--no-idle", action="store_true", help="do not measure start and memory")
    parser.add_argument("--before", help="another checkout of evenkeel, with a .venv: fixed heads are held against it")
    parser.add_argument("--evenkeel", default=str(Path(sys.executable).with_name("evenkeel")), help="the program to measure")
    parser.add_argument("--out", default=str(HERE / "results"), help="folder of the report")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else PAIRS_MIN)
    options.seconds = options.seconds or 1.0
    return options


if __name__ == "__main__":
    sys.exit(main())
