"""One bounded run on a machine with a GPU: right answers, speed beside the bare model and beside peers, faults under load.

    python -m benchmarks.gpu              on the machine with the card, from the source tree: nothing has to be installed but
                                          torch and what serve/front needs
    python -m benchmarks.gpu --dry-run    the same story with tiny models, on a CPU too; its figures mean nothing

It takes less than 8 minutes and writes benchmarks/results/gpu-<date>-<commit>.md, and a plot beside it. What matters most comes
first; what could not be measured, or for which no time was left, stays blank, with a note. Peers need `--peers FOLDER` where
Python does not find them by itself. The bare model runs in a process of its own (gpu_models.py), the load comes from processes
that know no framework (gpu_load.py), and gpu_report.py says what it all means.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plot
from benchmarks.gpu_facts import commit, cores, machine
from benchmarks.gpu_load import ROOT, Load, Plan, loaded, one_by_one
from benchmarks.gpu_peers import SETTINGS, SETTINGS_TINY, Setting
from benchmarks.gpu_report import (
    CNN,
    ENCODER,
    GRAPHS,
    HINT,
    PEERS,
    PLAIN,
    RTOL,
    Fault,
    Served,
    Work,
    markdown,
    panels,
    point,
    rate_of,
)
from benchmarks.gpu_servers import Evenkeel, Peer, Server, fixed, version

TOTAL_S = 460.0  # of everything but the writing; with the ends of processes it stays under 8 minutes
FAULT_PATIENCE_S = 30.0  # for an answer: a request that is answered after a recovery is late, not lost
DIES_S_MAX = 0.5  # of an engine, after the device has failed under it
NOTHING = "nothing"  # the model of gpu_models.py that computes nothing
NO_WORD = 10**6  # outside the encoder's vocabulary: on a card a device assert, on a CPU an error of the request
KILLED, ASSERTED = "`kill -9` of the engine under load", "device assert by a word that is none, under load"
MADE = "the models are made"
OOM = "oom:at=200"  # the load is in full swing by then: a batch of one request cannot be halved, and would be lost
SHORT = "out of memory (EVENKEEL_FAULTS) under load"


class OutOfTime(RuntimeError):
    """The whole run's time is over; what has been found is reported."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the loads. Connections are those of each client process."""

    alone_s: float
    closed_s: float
    tried_s: float  # for each setting of a peer
    open_s: float
    fault_s: float
    connections: int
    fault_connections: int
    shares: tuple[float, ...]
    settings: dict[str, tuple[Setting, ...]]


FULL = Sizes(2.0, 4.0, 2.5, 4.0, 10.0, 128, 32, (0.7, 0.9, 1.0, 1.1), SETTINGS)  # beyond 1: a closed loop is not all there is
TINY = Sizes(1.0, 1.5, 1.5, 2.0, 4.0, 16, 16, (0.5, 0.7, 0.9), SETTINGS_TINY)


@dataclass
class Run:
    folder: Path
    tiny: bool
    processes: int  # of clients
    installed: Path | None = None  # where the peers are
    only: tuple[str, ...] = ()  # words of the stages to do, beside the making of the models
    end_s: float = float("inf")
    notes: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)  # of peers

    def __post_init__(self) -> None:
        self.sizes = TINY if self.tiny else FULL
        self.cnn, self.encoder = Work(CNN), Work(ENCODER)
        self.cnn.faults = {what: Fault() for what in (KILLED, SHORT)}
        self.encoder.faults = {what: Fault() for what in (KILLED, ASSERTED, SHORT)}

    # ---- the story -----------------------------------------------------------------------------------------------

    def all(self) -> None:
        works = (self.cnn, self.encoder)
        self.stage(MADE, lambda: self.model("make", ",".join((CNN, NOTHING, ENCODER))))
        for work in works:
            self.stage(f"{work.name}: the bare model", lambda: self.bare(work))  # noqa: B023  a stage is over when it returns
            self.stage(f"{work.name}: served, then killed", lambda: self.served(work))  # noqa: B023
            if work is self.cnn:
                self.stage("bytes through HTTP", lambda: self.http(work))  # noqa: B023
        for work in works:
            self.stage(f"{work.name}: out of memory", lambda: self.short(work))  # noqa: B023
        for peer in PEERS:
            self.stage(f"{CNN} by {peer}", lambda: self.peer(peer))  # noqa: B023
        for work in works:
            self.stage(f"{work.name}: with CUDA graphs", lambda: self.with_graphs(work))  # noqa: B023

    def stage(self, what: str, do: Callable[[], Any]) -> None:
        """A note, when it fails or no time is left: the rest goes on."""
        if self.only and what != MADE and not any(word in what for word in self.only):
            self.notes.append(f"{what}: left out, by --only")
            return
        left_s = self.end_s - time.monotonic()
        if left_s <= 0:
            self.notes.append(f"{what}: no time was left")
            return
        print(f"{what} ({left_s:.0f} s left)" if left_s < float("inf") else what, file=sys.stderr, flush=True)
        try:
            self.part(what, do)
        except OutOfTime:
            self.notes.append(f"{what}: no time was left for all of it")

    def part(self, what: str, do: Callable[[], Any]) -> None:
        try:
            do()
        except OutOfTime:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as e:
            self.notes.append(f"{what}: {type(e).__name__}: {' '.join(str(e).split())[-300:]}")

    # ---- one stage each ------------------------------------------------------------------------------------------

    def bare(self, work: Work) -> None:
        found = json.loads(self.model("bare", work.name))
        work.rates, work.alone_s = found["rates"], found["alone_s"]

    def served(self, work: Work) -> None:
        with Evenkeel(self.folder / work.name) as server:
            self.measure(work, server, work.served.setdefault(PLAIN, Served()))
            self.killed(work, server)
            if work is self.encoder:
                self.asserted(work, server)

    def with_graphs(self, work: Work) -> None:
        """Beside `served`: nothing else is different."""
        found = Served()
        with Evenkeel(self.folder / f"{work.name}-graphs") as server:
            work.served[GRAPHS] = found
            self.measure(work, server, found)

    def measure(self, work: Work, server: Evenkeel, found: Served) -> None:
        """The closed loop finds the capacity, then requests arrive openly at shares of it."""
        said = server.replica()["facts"]
        self.notes.append(f"{server.folder.name}: {', '.join(f'{k} {v}' for k, v in said.items())}")
        found.right = self.right(work, server)
        found.alone = one_by_one(server.port, self.probes(work), self.sizes.alone_s)
        found.closed = self.closed(work, server)
        self.loads(work, server, found)

    def closed(self, work: Work, server: Server, seconds: float | None = None) -> Load:
        with self.load(work, server, seconds or self.sizes.closed_s) as wait:
            return wait()

    def loads(self, work: Work, server: Server, found: Served) -> None:
        assert found.closed is not None, "its rate is what the open loads are shares of"
        for share in self.sizes.shares:
            rate = share * found.closed.right / found.closed.seconds
            with self.load(work, server, self.sizes.open_s, rate=rate) as wait:
                found.points.append(point(share, wait()))

    def http(self, work: Work) -> None:
        """The same bodies to our own server without the model, and to one that only reads."""
        with Evenkeel(self.folder / NOTHING) as server:
            work.bytes_rate = rate_of(self.closed(work, server))
        with fixed(max(1, cores() // 2)) as server:
            work.least_rate = rate_of(self.closed(work, server))

    def peer(self, name: str) -> None:
        """Each setting for a moment, then the best."""
        self.versions.append(f"{name} {version(name, self.installed)}")
        probe = np.load(next(self.probes(self.cnn).glob("*.x.npy")))
        tried: list[tuple[Served, Server]] = []
        with contextlib.ExitStack() as stack:
            started = [(s, Peer(name, CNN, self.tiny, s, self.installed, probe)) for s in self.sizes.settings[name]]
            for setting, server in started:  # they load at the same time, and are measured one after the other
                self.part(f"{name}, {setting}", lambda: stack.enter_context(server))  # noqa: B023
            for setting, server in started:
                if server in Server.running:
                    self.part(f"{name}, {setting}", lambda: tried.append((self.tried(setting, server), server)))  # noqa: B023
            if tried:
                self.cnn.served[name], server = max(tried, key=lambda t: rate_of(t[0].closed or Load(1.0)))
                self.loads(self.cnn, server, self.cnn.served[name])
        for found, _ in tried:
            if found is not self.cnn.served[name] and found.closed:
                self.notes.append(f"{name}, {found.setting}: {rate_of(found.closed):,.0f} images/s in the closed loop")

    def tried(self, setting: Setting, server: Server) -> Served:
        found = Served(str(setting), self.right(self.cnn, server))
        if found.right and found.right[0] < found.right[1]:
            raise RuntimeError(f"{found.right[0]} of {found.right[1]} answers are right")
        found.closed = self.closed(self.cnn, server, self.sizes.tried_s)
        return found

    def killed(self, work: Work, server: Evenkeel) -> None:
        fault = work.faults[KILLED]
        with self.under_load(work, server, fault):
            pid = server.pid()
            os.kill(pid, signal.SIGKILL)
            fault.back_s = server.back_s(pid)

    def asserted(self, work: Work, server: Evenkeel) -> None:
        fault = work.faults[ASSERTED]
        with self.under_load(work, server, fault):
            pid, begun_s = server.pid(), time.monotonic()
            status, _ = server.ask(np.full((1, 16), NO_WORD))
            self.notes.append(f"a word that is none was told {status}")
            time.sleep(DIES_S_MAX)
            if server.pid() == pid:
                fault.back_s = 0.0
            elif server.back_s(pid) is not None:
                fault.back_s = time.monotonic() - begun_s

    def short(self, work: Work) -> None:
        fault = work.faults[SHORT]
        with Evenkeel(self.folder / work.name, EVENKEEL_FAULTS=OOM) as server:
            pid = server.pid()
            with self.under_load(work, server, fault):
                pass
            fault.back_s = 0.0 if server.pid() == pid else server.back_s(pid)

    # ---- what stages share ---------------------------------------------------------------------------------------

    def model(self, what: str, works: str) -> str:
        folder, more = str(self.folder), ["--tiny"] if self.tiny else []
        done = subprocess.run([sys.executable, "-m", "benchmarks.gpu_models", what, works, folder, *more], cwd=ROOT,
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    def probes(self, work: Work) -> Path:
        return self.folder / work.name / "probes"

    def load(self, work: Work, server: Server, seconds: float, rate: float = 0.0) -> AbstractContextManager[Callable[[], Load]]:
        return loaded(Plan(server.port, str(self.probes(work)), seconds, self.sizes.connections, rate), self.processes)

    @contextlib.contextmanager
    def under_load(self, work: Work, server: Server, fault: Fault) -> Iterator[None]:
        """A closed loop around what happens, which it does not wait for longer than it lasts."""
        sizes = self.sizes
        plan = Plan(server.port, str(self.probes(work)), sizes.fault_s, sizes.fault_connections, patience_s=FAULT_PATIENCE_S)
        with loaded(plan, self.processes) as wait:
            time.sleep(self.sizes.fault_s / 5)
            yield
            fault.load = wait()

    def right(self, work: Work, server: Server) -> tuple[int, int]:
        right, probes = 0, sorted(self.probes(work).glob("*.x.npy"))
        for probe in probes:
            status, body = server.ask(np.load(probe))
            want = np.load(probe.with_name(probe.name.replace(".x.", ".y.")))
            got = np.load(io.BytesIO(body)) if status == 200 else None
            right += got is not None and got.shape == want.shape and bool(np.abs(got - want).max() <= RTOL * np.abs(want).max())
        return right, len(probes)


def bounded(run: Run) -> None:
    """The whole story, or what of it fits in the time. An alarm ends whatever waits, and no server outlives it."""

    def over(*_: object) -> None:
        raise OutOfTime("the time of the whole run is over")

    run.end_s = time.monotonic() + TOTAL_S
    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, TOTAL_S)
    try:
        run.all()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for server in list(Server.running):
            server.__exit__()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--dry-run", action="store_true", help="tiny models, whatever there is to run them")
    parser.add_argument("--out", type=Path, help="the file to write; a dry run writes none otherwise")
    parser.add_argument("--peers", type=Path, help="where LitServe and Mosec are: a folder of `pip install --target`")
    parser.add_argument("--only", default="", metavar="WORDS", help="stages with one of these words in their names, by commas: "
                        "`bare,graphs` fills in what a first run had no time for")  # fmt: skip
    parser.add_argument("--processes", type=int, help="of clients; default: a quarter of the cores, at most 4")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="ekg-") as folder:
        processes = args.processes or min(4, max(1, cores() // 4))
        only = tuple(word for word in args.only.split(",") if word)
        run = Run(Path(folder), args.dry_run, processes, args.peers.resolve() if args.peers else None, only)
        try:
            bounded(run)
        finally:
            report(run, args.out)
    return 0


def report(run: Run, named: Path | None) -> None:
    """Whatever there is by now."""
    out = named or (None if run.tiny else ROOT / "benchmarks" / "results" / f"gpu-{date.today()}-{commit()}.md")
    drawn = panels((run.cnn, run.encoder)) if out else []
    picture = out.with_suffix(".svg") if out and drawn else None
    if picture:
        picture.write_text(plot.svg(drawn, "Latency against throughput on one card", HINT))
    models = "tiny: these figures mean nothing" if run.tiny else "of ResNet-50's and BERT-base's size, bf16, seeded weights"
    load = f"NPY bodies; client processes on the same machine: {run.processes}, of {run.sizes.connections} connections"
    facts = [*machine(), ("models", models), ("peers", ", ".join(run.versions)), ("load", load)]
    text = markdown(f"GPU, {date.today()}", facts, (run.cnn, run.encoder), run.notes, picture.name if picture else "")
    if out:
        out.write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
