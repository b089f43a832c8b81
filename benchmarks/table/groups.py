"""Groups of workloads for which the same servers are started: each server once, idle beside the others until its turn.

Before the groups evenkeel is alone on the machine: how long a start takes, and what it holds when idle.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import procs
from benchmarks.table.bars import Idle
from benchmarks.table.bodies import samples
from benchmarks.table.contenders import BEFORE, EVENKEEL, Contender, contenders
from benchmarks.table.ratios import DISTURBANCE_MAX
from benchmarks.table.raw_model import DOMINATES, RawModel
from benchmarks.table.report import TableResults
from benchmarks.table.running import RunningServer, ServerFailed, stop_all
from benchmarks.table.servers import BareHttp, Peer, Server, Uncounted
from benchmarks.table.turns import Plan, take_turns
from benchmarks.table.workloads import LEAD, Workload

HEAVY_SECONDS_FACTOR = 3  # M answers 40 requests a second: its windows must be longer to hold enough of them
IDLE_CORES_MAX = 0.05


@dataclass(slots=True)
class Groups:
    """One run over the table: what it was told, and what it has found."""

    plan: Plan
    folder: Path
    servers: Sequence[Server]
    results: TableResults

    def measure_idle(self, starts: int) -> None:
        """Starts evenkeel several times, alone; after the last start it is left idle."""
        ours = next((s for s in self.servers if s.name == EVENKEEL), None)
        if ours is None:
            return
        start_s: list[float] = []
        for i in range(starts):
            procs.wait_until_quiet(DISTURBANCE_MAX, limit_s=5)
            running = RunningServer.start(ours, "T", self.folder / "T", pinned=False)
            try:
                start_s.append(running.start_s)
                self.plan.say(f"start {i + 1} of {starts}: first 200 on /ping after {running.start_s:.2f} s")
                if i == starts - 1:
                    time.sleep(2)  # start-up work ends
                    running.measure_idle(2.0)
                    pss_mb = procs.pss_mb(running.process.pid)
                    self.results.idle = Idle(start_s, pss_mb, running.idle_cores)
            finally:
                running.stop()

    def measure_group(self, group: Sequence[Workload]) -> None:
        """Start every server that can be asked this, go through the workloads, stop them."""
        first = group[0]
        running: list[RunningServer] = []
        raws: list[RawModel] = []  # one or none
        try:
            for server in self.servers:
                if self._takes(server, first, group):
                    self._start(server, first, running)
            self._watch_idle(running)
            if first.model in DOMINATES:
                raws.append(RawModel(first.model, self.folder / first.model, pinned=first.pinned))
            for workload in group:
                self._measure(workload, running, raws)
        finally:
            for raw in raws:
                raw.stop()
            stop_all(running)

    def _takes(self, server: Server, first: Workload, group: Sequence[Workload]) -> bool:
        if first.wire not in server.dialect.wires:
            self.plan.note(f"{server.name} is left out of {first.name} and its like: it has no {first.wire.upper()}")
            return False
        for_lead = isinstance(server, Uncounted) or server.name == BEFORE
        if for_lead:
            return any(w.bar == LEAD for w in group)
        return not (isinstance(server, BareHttp) and first.model in DOMINATES)

    def _start(self, server: Server, first: Workload, running: list[RunningServer]) -> None:
        folder = self.folder / first.model
        ready = server.dialect.request(first.wire, samples(first, folder)[0].value)
        try:
            found = RunningServer.start(server, first.model, folder, wire=first.wire, pinned=first.pinned, first=ready)
        except ServerFailed as e:
            self.plan.note(f"{first.model}, {first.wire}: {e}")
            return
        running.append(found)
        self.plan.say(f"{first.model}, {first.wire}: {server.name} started in {found.start_s:.1f} s")

    def _watch_idle(self, running: Sequence[RunningServer]) -> None:
        """Servers wait beside each other, so one that is busy while idle would disturb the others: a peer is held then."""
        time.sleep(1)  # start-up work ends
        for found in running:
            found.measure_idle()
            if found.idle_cores > IDLE_CORES_MAX:
                held = isinstance(found.server, Peer) and found.server.may_be_held
                note = ", and is held (SIGSTOP) outside its turns" if held else ""
                self.plan.note(f"{found.name} uses {found.idle_cores:.3f} cores while idle{note}")
                if held:
                    found.hold()

    def _measure(self, workload: Workload, running: Sequence[RunningServer], raws: Sequence[RawModel]) -> None:
        present: list[Contender] = [*contenders(workload, running, samples(workload, self.folder / workload.model))]
        if not workload.load:
            present += raws
        seconds = self.plan.seconds * (HEAVY_SECONDS_FACTOR if workload.model == "M" else 1)
        plan = Plan(self.plan.rounds, seconds, self.plan.say, self.plan.note)
        for name, windows in take_turns(plan, workload, present).items():
            self.results.windows[workload.name, name] = windows
        for raw in raws:
            if workload.name in raw.described:
                self.plan.note(f"{workload.name}: the raw model's best call is {raw.described[workload.name]}")
