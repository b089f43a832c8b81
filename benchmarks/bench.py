"""`make bench`: evenkeel beside the peers that are installed here, in one run; writes benchmarks/results/.

The story: find the servers, measure evenkeel's start and idle memory while it is alone, then go through the cells,
grouped by model and placement. Within a group every server is started once and waits idle; within a cell they take
turns (A B C, B C A, ...), so that a machine whose speed drifts is equally unkind to all. Bars are judged at the end.

usage: python -m benchmarks.bench [--quick] [--cells T-json-pin-64,...] [--peers mosec,triton] [--reps 3] [--seconds 3]
       [--parts start,first,cells]
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmarks import first, models, plot, procs, report
from benchmarks.bars import StartAndMemory, number
from benchmarks.contenders import Cell, Contender, RawResult, RawRuntime, Run, RunningServer, ServerFailed, stop_all
from benchmarks.report import Results
from benchmarks.servers import JSON, NPY, Evenkeel, Mosec, Server, Triton, Uncounted
from benchmarks.summary import DISTURBANCE_MAX, keep_least_disturbed, wants_another

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CONNECTIONS = (64, 1, 8, 256)  # the bars' own first: what the time budget cuts off is at the end
HEAVY_SECONDS_FACTOR = 3  # M answers 40 requests a second: its runs must be longer to hold enough of them
IDLE_CORES_MAX = 0.02


def full_cells() -> list[Cell]:
    """Grouped by model and placement; the groups that hold bars come first."""
    return [
        *(Cell("T", wire, True, n) for n in CONNECTIONS for wire in (JSON, NPY)),
        *(Cell("M", NPY, False, n) for n in (8, 64, 1)),
        Cell("M", JSON, False, 8),
        *(Cell("S", wire, False, 64) for wire in (JSON, NPY)),
        *(Cell("S", NPY, False, n) for n in (1, 8, 256)),
        *(Cell("echo", wire, True, 64) for wire in (JSON, NPY)),
        *(Cell("T", wire, False, n) for n in (1, 64, 8, 256) for wire in (JSON, NPY)),
        *(Cell("S", wire, True, 64) for wire in (JSON, NPY)),
    ]


QUICK = "T-json-pin-64,T-npy-pin-64,T-json-pin-1,M-npy-free-8,S-npy-free-64,echo-json-pin-64"


@dataclass(frozen=True, slots=True)
class Plan:
    cells: list[Cell]
    seconds: float
    reps: int
    tries_max: int
    starts: int
    raw_rows: tuple[int, ...]
    raw_seconds: float
    calm_until_s: float  # until then disturbed runs are repeated
    cells_until_s: float  # until then another cell is begun


def main() -> int:
    options = read_options()
    if not shutil.which("wrk") or not shutil.which("taskset"):
        print("the benchmark needs wrk and taskset: apt-get install wrk util-linux", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped on the way out
    plan, start_s = make_plan(options), time.monotonic()
    servers, notes = find_servers(options)
    results = Results(facts(servers, plan), notes=notes)
    for name, value in results.facts.items():
        say(f"{name}: {value}")
    for note in notes:
        say(note)
    folder = models.ensure()
    stem = f"{date.today().isoformat()}-{commit()}" + ("-quick" if options.quick else "")
    try:
        measure(plan, options.parts.split(","), servers, folder, results)
    finally:
        if results.runs or results.start or results.first:
            results.facts["took"] = f"{(time.monotonic() - start_s) / 60:.0f} min"
            write(results, Path(options.out), stem)
    return 0


def measure(plan: Plan, parts: Sequence[str], servers: Sequence[Server], folder: Path, results: Results) -> None:
    ours = next((s for s in servers if s.name == Evenkeel.name), None)
    if ours and "start" in parts:
        try:
            results.start = measure_start_and_memory(ours, folder / "T", plan.starts)
        except ServerFailed as e:
            note(results, f"start and memory: {e}")
    if ours and "first" in parts:
        measure_first(ours, folder, plan.starts, results)
    if "cells" not in parts:
        return
    for (model, pinned), cells in groupby(plan.cells, key=lambda c: (c.model, c.pinned)):
        if time.monotonic() > plan.cells_until_s:
            note(results, f"no time left for {', '.join(c.name for c in cells)}")
            continue
        measure_group(plan, [s for s in servers if s.serves(model)], folder / model, pinned, list(cells), results)


def measure_start_and_memory(server: Server, folder: Path, starts: int) -> StartAndMemory:
    """Starts evenkeel several times, alone; after the last start it serves a few requests and is left idle."""
    start_s: list[float] = []
    for i in range(starts):
        procs.wait_until_quiet(DISTURBANCE_MAX, limit_s=5)
        running = RunningServer.start(server, folder.name, folder, pinned=False)
        try:
            start_s.append(running.start_s)
            say(f"start {i + 1} of {starts}: first 200 on /ping after {running.start_s:.2f} s")
            if i < starts - 1:
                continue
            check(running, folder)
            time.sleep(2)
            running.measure_idle(2.0)
            found = StartAndMemory(
                start_s,
                procs.pss_mb(running.process.pid),
                running.idle_cores,
                procs.has_mapped(running.process.pid, "libtorch"),
            )
        finally:
            running.stop()
    say(f"idle: {found.pss_mb:.0f} MB PSS {rounded(found.pss_mb_by_role)}, {found.idle_cores:.3f} cores")
    return found


def measure_first(server: Evenkeel, folder: Path, starts: int, results: Results) -> None:
    with first.cases(server, folder) as (cases, notes):
        for text in notes:
            note(results, text)
        for case in cases:
            try:
                results.first += (measured := first.measure(server, case, starts))
            except (ServerFailed, OSError) as e:
                note(results, f"first requests, {case.name}: {e}")
                continue
            for result in measured:
                say(result.describe())


def measure_group(
    plan: Plan, servers: Sequence[Server], folder: Path, pinned: bool, cells: Sequence[Cell], results: Results
) -> None:
    """One model in one placement: start every server, go through the cells, stop them."""
    running: list[RunningServer] = []
    raws: list[RawRuntime] = []  # one or none
    try:
        for server in servers:
            try:
                running.append(started(server, folder, pinned))
            except ServerFailed as e:
                note(results, f"{folder.name}, {'pinned' if pinned else 'free'}: {e}")
        watch_idle(running, results)
        if folder.name == "M" and not pinned:
            raws.append(RawRuntime(folder))
            results.raw = sweep(raws[0], plan)
        for cell in cells:
            if time.monotonic() > plan.cells_until_s:
                note(results, f"no time left for {cell.name}")
                continue
            # Raw ONNX Runtime reads no bodies, so it stands beside one wire format only.
            measure_cell(plan, cell, [*running, *(raws if cell.wire == NPY else [])], results)
    finally:
        stop_all([*running, *raws])


def started(server: Server, folder: Path, pinned: bool) -> RunningServer:
    """A server that is ready and answers rightly; one that does not is stopped again."""
    running = RunningServer.start(server, folder.name, folder, pinned=pinned)
    try:
        check(running, folder)
    except BaseException:
        running.stop()
        raise
    say(f"{folder.name}: {server.name} started in {running.start_s:.1f} s, its answers are right")
    return running


def check(running: RunningServer, folder: Path) -> None:
    """Its answers in both wire formats against the reference, before any load."""
    rows, answers = np.load(folder / "rows.npy"), np.load(folder / "answers.npy")
    for wire in (JSON, NPY):
        running.check(wire, rows, answers)


def watch_idle(running: Sequence[RunningServer], results: Results) -> None:
    """Servers wait beside each other, so one that is busy while idle would disturb the others: say so."""
    time.sleep(1)  # start-up work ends
    for server in running:
        server.measure_idle()
        if server.idle_cores > IDLE_CORES_MAX:
            note(results, f"{server.name} uses {server.idle_cores:.2f} cores while idle with {server.job.model}")


def sweep(raw: RawRuntime, plan: Plan) -> list[RawResult]:
    procs.wait_until_quiet(DISTURBANCE_MAX, limit_s=5)
    raw.sweep(plan.raw_rows, plan.raw_seconds)
    for result in raw.sweep_results:
        say(f"{raw.name}, {result.call.describe()}: {number(result.rows_s)} rows/s, p50 {number(result.p50_ms)} ms")
    return raw.sweep_results


def measure_cell(plan: Plan, cell: Cell, contenders: Sequence[Contender], results: Results) -> None:
    """Rounds in which each contender that still needs a run has its turn, begun by another one each time."""
    seconds = plan.seconds * (HEAVY_SECONDS_FACTOR if cell.model == "M" else 1)
    present = {c.name: c for c in contenders}
    runs: dict[str, list[Run]] = {name: [] for name in present}
    for contender in contenders:  # warm-up: does not count
        turn(contender, cell, min(seconds, 2 if cell.model == "M" else 1), present, results)
    for round_ in range(plan.tries_max):
        tries_max = plan.tries_max if time.monotonic() < plan.calm_until_s else plan.reps
        due = [name for name in present if wants_another(runs[name], plan.reps, tries_max)]
        for name in rotated(due, round_):
            procs.wait_until_quiet(DISTURBANCE_MAX, limit_s=3)
            if run := turn(present[name], cell, seconds, present, results):
                runs[name].append(run)
                say(progress(run, len(runs[name])))
    for name in present:
        results.runs[cell.name, name] = keep_least_disturbed(runs[name], plan.reps)


def turn(contender: Contender, cell: Cell, seconds: float, present: dict[str, Contender], results: Results) -> Run | None:
    """One turn. A contender that fails leaves the cell; None then."""
    try:
        return contender.turn(cell, seconds)
    except ServerFailed as e:
        note(results, f"{cell.name}: {e}")
        present.pop(contender.name, None)
        return None


def rotated(names: Sequence[str], by: int) -> Iterator[str]:
    for i in range(len(names)):
        yield names[(i + by) % len(names)]


def progress(run: Run, nth: int) -> str:
    flag = " disturbed" if run.disturbance > DISTURBANCE_MAX else ""
    failed = f" FAILED {run.non2xx + run.errors}" if run.non2xx + run.errors else ""
    return (
        f"{run.cell:18} {run.server:15} #{nth} {run.rps:9.1f} requests/s"
        f"  p50 {run.p50_ms:8.2f}  p99 {run.p99_ms:8.2f} ms  cpu {run.cpu_us:8.1f} us {rounded(run.cpu_us_by_role)}"
        f"  steal {run.steal_cores:.2f} others {run.others_cores:.2f}{flag}{failed}"
    )


def rounded(by_role: dict[str, float]) -> str:
    return "(" + ", ".join(f"{role} {value:.1f}" for role, value in by_role.items() if value >= 0.05) + ")"


def note(results: Results, text: str) -> None:
    results.notes.append(text)
    say(text)


_began_s = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - _began_s:6.1f}s] {text}", flush=True)


def write(results: Results, folder: Path, stem: str) -> None:
    """Three files beside each other: the report, the picture, and everything as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    panels = plot.panels(results.summaries().values())
    if panels:
        (folder / f"{stem}.svg").write_text(plot.svg(panels, f"evenkeel {stem}"))
    (folder / f"{stem}.md").write_text(report.markdown(results, stem, has_plot=bool(panels)))
    (folder / f"{stem}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in results.records()))
    for verdict in results.verdicts():
        word = {True: "met ", False: "MISS", None: "  - "}[verdict.met]
        say(f"{word} {verdict.work}: {verdict.bar}: {verdict.measured}")
    say(f"wrote {folder / stem}.md")


def find_servers(options: argparse.Namespace) -> tuple[list[Server], list[str]]:
    """Those that are asked for and can be started, and a note about each that cannot."""
    peers = Path(os.environ.get("EVENKEEL_BENCH_PEERS", HERE / ".peers")).resolve()
    program = Path(options.evenkeel).absolute()
    known: list[Server] = [Evenkeel(program), Mosec(peers), Triton(peers), Uncounted(program)]
    wanted = {Evenkeel.name, *filter(None, options.peers.split(","))}
    if unknown := wanted - {s.name for s in known}:
        raise SystemExit(f"unknown peers: {', '.join(sorted(unknown))}")
    chosen = [s for s in known if s.name in wanted]
    notes = [f"{s.name} is left out: {reason}" for s in chosen if (reason := s.missing())]
    return [s for s in chosen if not s.missing()], notes


def facts(servers: Sequence[Server], plan: Plan) -> dict[str, str]:
    """What the numbers depend on."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    wrk = subprocess.run(["wrk", "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    cpu = names[0] if names else platform.machine()
    return {
        "commit": commit(),
        "machine": f"{cpu}, {os.cpu_count()} cores, {memory_gb:.0f} GB",
        "kernel": platform.platform(),
        **{s.name: s.versions() for s in servers},
        "load": wrk.partition(" Copyright")[0],
        "settings": f"runs that count for each server in a cell: {plan.reps}, each of {plan.seconds:g} s"
        f" (M: {plan.seconds * HEAVY_SECONDS_FACTOR:g} s), in at most {plan.tries_max} tries",
        "settings of evenkeel": "none",
        "settings of the peers": "1 worker; ONNX Runtime with 1 thread (M: 2) that does not spin; batches up to 64 rows"
        " (M: 8); wait for more rows 1 ms (M: 5; Triton: 0)",
    }


def commit() -> str:
    """Of the repository, with a mark when the tree differs from it anywhere but in the results."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip()

    short = git("rev-parse", "--short", "HEAD") or "unknown"
    return short + ("-dirty" if git("status", "--porcelain", "--", ".", ":!benchmarks/results") else "")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="evenkeel beside its peers")
    parser.add_argument("--quick", action="store_true", help="a few cells, one run of 2 s each: about two minutes")
    parser.add_argument("--cells", help="MODEL-WIRE-PLACE-CONNECTIONS,... e.g. T-json-pin-64,M-npy-free-8")
    parser.add_argument("--peers", default="mosec,triton,uncounted", help="what to compare with (default: all)")
    parser.add_argument("--parts", default="start,first,cells", help="start and memory; first requests; cells (default: all)")
    parser.add_argument("--reps", type=int, help="runs that count for each server in a cell (default 3)")
    parser.add_argument("--seconds", type=float, help="length of a run (default 3; three times that for M)")
    parser.add_argument("--starts", type=int, help="starts, of each model whose first requests are measured (default 5)")
    parser.add_argument("--minutes", type=float, default=25, help="begin no other cell after this (default 25)")
    parser.add_argument("--evenkeel", default=str(Path(sys.executable).with_name("evenkeel")), help="the program to measure")
    parser.add_argument("--out", default=str(HERE / "results"), help="folder of the report")
    return parser.parse_args()


def make_plan(options: argparse.Namespace) -> Plan:
    names = options.cells or (QUICK if options.quick else "")
    cells = [Cell.parse(name) for name in names.split(",")] if names else full_cells()
    # groupby wants the cells of a group side by side; the order in which groups are first named stays.
    groups = list(dict.fromkeys((c.model, c.pinned) for c in cells))
    cells.sort(key=lambda c: groups.index((c.model, c.pinned)))
    reps = options.reps or (1 if options.quick else 3)
    now_s = time.monotonic()
    return Plan(
        cells=cells,
        seconds=options.seconds or (2 if options.quick else 3),
        reps=reps,
        tries_max=reps + (1 if options.quick else 2),
        starts=options.starts or (2 if options.quick else 5),
        raw_rows=(1, 8) if options.quick else (1, 2, 4, 8, 16, 32),
        raw_seconds=0.5 if options.quick else 1.5,
        calm_until_s=now_s + 0.8 * 60 * options.minutes,
        cells_until_s=now_s + 60 * options.minutes,
    )


if __name__ == "__main__":
    sys.exit(main())
