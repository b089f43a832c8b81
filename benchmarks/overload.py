"""`make overload`: what ten times the capacity does to goodput, refusals, /ping and memory, and how soon it is over.

The story: the capacity of a model of known speed is measured in a closed loop, then requests arrive open-loop at multiples of
it, whatever the server answers: below it, above it, below it until all is forgotten, at ten times, and below it again. A
second thread asks /ping all the while. About a minute; writes benchmarks/results/overload-*.md, exit code 0 when every bar is
met.

usage: python -m benchmarks.overload [--seconds 10] [--no-table]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from benchmarks import procs
from benchmarks.chaos import HERE, commit
from benchmarks.load import TENSORS_TOML, Interval, Load, Plan, Tally
from benchmarks.markdown import table
from tests.support.tree import Tree
from tests.support.wire import Wire, request

BATCH_MS, ROWS_MAX = 10, 4  # the model: about 400 rows/s, and no CPU of its own
SETTINGS = {"EVENKEEL_FAULTS": f"slow:every=1,ms={BATCH_MS}"}
BATCHING_TOML = f"\n[batching]\nrows_max = {ROWS_MAX}\n"
CONNECTIONS = 1200  # open loop: enough that a request is never kept waiting by the client
# After the surge what was accepted is still to be served, by the capacity that is spare: a quarter of a second's worth of
# work, so at 0.8 load a second and a quarter. See serve/front/routing/admission.py.
CALM, SURGE = 0.8, 10.0
STEPS = (1.0, 1.5, 3.0)
PING = request(None, method="GET", path="/ping")
PING_EVERY_S = 0.004
BIN_S = 0.1

GOODPUT_MIN, REFUSAL_S_MAX, PING_S_MAX, RECOVERY_S_MAX, GROWTH_MB_MAX = 0.9, 0.05, 0.1, 2.0, 100.0


@dataclass(slots=True)
class Pings:
    """Asks /ping again and again in a thread: latency of each, and how many were not 200."""

    port: int
    seconds: list[float] = field(default_factory=list)
    not_200: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._ask, daemon=True)
        thread.start()
        return thread

    def _ask(self) -> None:
        with Wire(self.port, 10.0) as wire:
            while not self._ended.wait(PING_EVERY_S):
                began_s = time.monotonic()
                self.not_200 += wire.ask(PING).status != 200
                self.seconds.append(time.monotonic() - began_s)

    def end(self, thread: threading.Thread) -> None:
        self._ended.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class Phase:
    times: float  # of the capacity
    interval: Interval
    ping_s: tuple[float, ...]
    memory_mb: float  # of all processes, at its end

    @property
    def goodput(self) -> float:
        return self.interval.right / (self.interval.ended_s - self.interval.began_s)


@dataclass(frozen=True, slots=True)
class Bar:
    what: str
    bar: str
    measured: str
    met: bool


# ---- the story -------------------------------------------------------------------------------------------------------


def capacity(port: int, seconds: float) -> float:
    """Right answers a second in a closed loop with more callers than a batch holds."""
    load = Load(Plan(port, connections=4 * ROWS_MAX, think_s_max=0.0, rows=(1,)))
    time.sleep(1.0)
    load.tell(interval="measured")
    load.next_interval()
    time.sleep(seconds)
    load.tell(interval="over")
    interval = load.next_interval()
    load.stop()
    return interval.right / (interval.ended_s - interval.began_s)


def measure(seconds: float, folder: Path) -> tuple[float, list[Phase], Tally, int]:
    """Returns the capacity, the phases, the client's tally and how many pings were not 200."""
    (folder / "model.toml").write_text(TENSORS_TOML + BATCHING_TOML)
    tree = Tree(folder, **SETTINGS)
    load = None
    try:
        tree.wait_ready()
        rate = capacity(tree.port, 3.0)
        print(f"capacity: {rate:.0f} requests/s", flush=True)
        load = Load(Plan(tree.port, connections=CONNECTIONS, rate=CALM * rate, rows=(1,), refusals_expected=True))
        time.sleep(1.0)
        load.tell(interval="first")
        load.next_interval()
        pings = Pings(tree.port)
        thread = pings.start()
        phases = []
        plan = [(CALM, seconds), *((t, seconds / 2) for t in STEPS), (CALM, seconds), (SURGE, seconds), (CALM, seconds)]
        for times, lasts_s in plan:
            phases.append(one_phase(tree, load, pings, times, rate, lasts_s))
            print(f"  {times:g} × capacity: {describe(phases[-1])}", flush=True)
        pings.end(thread)
        tally = load.stop()
        tree.stop()
        return rate, phases, tally, pings.not_200
    finally:
        if load is not None:
            load.kill()
        tree.kill()


def one_phase(tree: Tree, load: Load, pings: Pings, times: float, rate: float, lasts_s: float) -> Phase:
    """The interval that began with the last command ends with the next one."""
    asked = len(pings.seconds)
    load.tell(rate=times * rate, interval=f"{times:g}")
    load.next_interval()  # the short one between two phases
    time.sleep(lasts_s)
    load.tell(interval="between")
    interval = load.next_interval()
    memory_mb = sum(procs.rollup_mb(p).get("Pss", 0.0) for p in tree.pids())
    return Phase(times, interval, tuple(pings.seconds[asked:]), memory_mb)


def describe(p: Phase) -> str:
    i = p.interval
    return (f"goodput {p.goodput:.0f}/s, {i.refused} refused within {ms(i.refusal_s.get('max'))}, "
            f"ping p99.9 {ms(high(p.ping_s, 0.999))}, {p.memory_mb:.0f} MB")  # fmt: skip


# ---- the verdicts ----------------------------------------------------------------------------------------------------


def high(seconds: Sequence[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else float("nan")


def ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.1f} ms"


def recovery_s(before: Interval, after: Interval) -> float:
    """From the end of the surge until nothing is refused any more and every answer is as soon as before it."""
    usual_s = 2 * max(worst_s for _, _, worst_s in before.series) + 0.02
    disturbed = [i for i, (_, refused, worst_s) in enumerate(after.series) if refused or worst_s > usual_s]
    return (max(disturbed) + 1) * BIN_S if disturbed else 0.0


def bars(phases: Sequence[Phase], tally: Tally, pings_not_200: int) -> list[Bar]:
    surge = next(p for p in phases if p.times == SURGE)
    peak = max(p.goodput for p in phases)
    share = surge.goodput / peak
    refusal_s = surge.interval.refusal_s
    ping_s = high(surge.ping_s, 0.999)
    back_s = recovery_s(phases[0].interval, phases[-1].interval)
    growth_mb = max(p.memory_mb for p in phases) - phases[0].memory_mb
    others = sorted({*(k for k in tally.refused if not k.startswith("429")), *(f.kind for f in tally.failures)})
    return [
        Bar("goodput at 10 × capacity", f">= {GOODPUT_MIN:.0%} of peak", f"{share:.1%} of {peak:.0f}/s", share >= GOODPUT_MIN),
        Bar("every refusal is a 429", "no other", told_others(tally) or "none other", not others),
        Bar("refusals come within", ms(REFUSAL_S_MAX),
            f"p50 {ms(refusal_s.get('p50'))}, p99.9 {ms(refusal_s.get('p999'))}, worst {ms(refusal_s.get('max'))}",
            refusal_s.get("max", 0.0) <= REFUSAL_S_MAX),
        Bar("/ping in the surge, p99.9", f"< {ms(PING_S_MAX)}",
            f"{ms(ping_s)}, {len(surge.ping_s)} asked, {pings_not_200} not 200", ping_s < PING_S_MAX and not pings_not_200),
        Bar("back to normal after the surge", f"<= {RECOVERY_S_MAX:g} s", f"{back_s:.1f} s", back_s <= RECOVERY_S_MAX),
        Bar("memory of all processes", f"grows by <= {GROWTH_MB_MAX:g} MB", f"{growth_mb:+.1f} MB", growth_mb <= GROWTH_MB_MAX),
    ]  # fmt: skip


def told_others(tally: Tally) -> str:
    counts = {k: n for k, n in tally.refused.items() if not k.startswith("429")}
    for failure in tally.failures:
        counts[failure.kind] = counts.get(failure.kind, 0) + 1
    return ", ".join(f"{n} × {kind}" for kind, n in counts.items())


# ---- the report ------------------------------------------------------------------------------------------------------

HEAD = ("× capacity", "sent", "unsent", "right", "goodput/s", "p50", "p99", "refused", "refusal p50", "refusal p99", "worst",
        "ping p50", "ping p99.9", "memory")  # fmt: skip


def row(p: Phase) -> tuple[str, ...]:
    i = p.interval
    return (
        f"{p.times:g}", f"{i.sent:,}", f"{i.unsent:,}", f"{i.right:,}", f"{p.goodput:.0f}", ms(i.latency_s.get("p50")),
        ms(i.latency_s.get("p99")), f"{i.refused:,}", ms(i.refusal_s.get("p50")), ms(i.refusal_s.get("p99")),
        ms(i.refusal_s.get("max")), ms(high(p.ping_s, 0.5)), ms(high(p.ping_s, 0.999)), f"{p.memory_mb:.0f} MB")  # fmt: skip


def markdown(stem: str, rate: float, phases: Sequence[Phase], found: Sequence[Bar]) -> str:
    facts = [
        (
            "machine",
            f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; the client runs on it too",
        ),
        ("model", f"echo of 1 row of 4 float32; a batch of up to {ROWS_MAX} rows takes {BATCH_MS} ms (EVENKEEL_FAULTS)"),
        ("capacity", f"{rate:.0f} requests/s, closed loop"),
        ("after the surge", f"{CALM:g} × capacity; the queue that is left drains by what is spare"),
        ("settings", "the defaults: EVENKEEL_REQUEST_TIMEOUT_S=60, EVENKEEL_QUEUE_WAIT_S=2; less is waited under overload"),
    ]
    return "\n\n".join([
        f"# Overload {stem.removeprefix('overload-')}", *table(("", ""), facts),
        *table(("what", "bar", "measured", "met?"), [(b.what, b.bar, b.measured, "yes" if b.met else "**no**") for b in found]),
        "Arrivals are open-loop: sent when due, whatever the server does. \"Unsent\": due, but all the client's connections "
        "were busy. Times are the client's, from sending to the whole answer.",
        *table(HEAD, [row(p) for p in phases]),
    ]) + "\n"  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make overload")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the surge; everything takes 5.5 times that and 10 s more")
    parser.add_argument("--no-table", action="store_true", help="write no file")
    args = parser.parse_args(argv)
    if not 2 <= args.seconds <= 24:
        parser.error(f"--seconds {args.seconds:g} must be from 2 to 24")
    folder = Path(tempfile.mkdtemp(prefix="ekc-"))
    try:
        rate, phases, tally, pings_not_200 = measure(args.seconds, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = bars(phases, tally, pings_not_200)
    stem = f"overload-{date.today().isoformat()}-{commit()}"
    text = markdown(stem, rate, phases, found)
    print(text)
    if not args.no_table:
        (HERE / "results" / f"{stem}.md").write_text(text)
        print(f"written: benchmarks/results/{stem}.md")
    return 0 if all(b.met for b in found) else 1


if __name__ == "__main__":
    sys.exit(main())
