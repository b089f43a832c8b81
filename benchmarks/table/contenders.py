"""Who takes turns in a workload: running servers that are sent its requests, with heads of their own or always the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.table.bodies import Sample, fault
from benchmarks.table.client import ClientPlan, ClientTally
from benchmarks.table.records import written
from benchmarks.table.running import RunningServer, ServerFailed
from benchmarks.table.servers import BareHttp
from benchmarks.table.windows import FIXED, OWN, LoadResult, Target, Window, compared, observed, told, wrk
from benchmarks.table.workloads import LEAD, Workload

EVENKEEL, BEFORE, UNCOUNTED, BARE = "evenkeel", "before", "uncounted", BareHttp.name
FIXED_HEADS = ", fixed heads"
COMPARED = 500  # answers of each contender before the windows, or what it manages in the time
COMPARED_S_MAX = 5.0
OPEN_RATE_MAX = 20_000.0  # the open client cannot send more on one core


class Contender(Protocol):
    name: str

    def prepare(self, workload: Workload, seconds: float) -> None:
        """Before the windows. Raises ServerFailed."""

    def window(self, workload: Workload, round_: int, seconds: float) -> Window: ...


@dataclass(slots=True)
class ServerContender:
    """A running server, with heads of their own or always the same one."""

    running: RunningServer
    samples: Sequence[Sample]
    heads: str = OWN
    rate: float = 0.0  # of an open load

    @property
    def name(self) -> str:
        return self.running.name + (FIXED_HEADS if self.heads == FIXED else "")

    def prepare(self, workload: Workload, seconds: float) -> None:
        """Every answer is compared, with as many connections as later; then its capacity is found where the load is a share."""
        with self.running.turn():
            if self.name != BARE:
                self._compare(workload)
            if workload.load:
                result = wrk(workload, self._target(workload), seconds, heads=self.heads, seed=1)
                self.rate = min(workload.load * result.requests / result.seconds, OPEN_RATE_MAX)

    def _compare(self, workload: Workload) -> None:
        tally = compared(workload, self._plan(workload, COMPARED_S_MAX, count=COMPARED))
        if tally.non2xx or tally.errors or len(tally.answers) < len(self.samples):
            counts = f"{tally.non2xx} of {tally.requests} answers were no 2xx, {tally.errors} requests failed"
            raise ServerFailed(f"{self.name}: {counts}; {self.running.log_tail()}")
        self._judge(workload, tally)

    def window(self, workload: Workload, round_: int, seconds: float) -> Window:
        self.running.look()
        make = self._open if workload.load else self._closed
        with self.running.turn():
            return observed(workload.name, self.name, round_, self.running.process.pid, lambda: make(workload, round_, seconds))

    def _closed(self, workload: Workload, round_: int, seconds: float) -> LoadResult:
        return wrk(workload, self._target(workload), seconds, heads=self.heads, seed=round_ + 2)

    def _open(self, workload: Workload, round_: int, seconds: float) -> LoadResult:
        tally = compared(workload, self._plan(workload, seconds, rate=self.rate, seed=round_ + 2))
        if self.name != BARE:
            self._judge(workload, tally)
        return told(tally)

    def _judge(self, workload: Workload, tally: ClientTally) -> None:
        """Raises ServerFailed at the first answer that is wrong."""
        for number, head, body in tally.answers:
            lines = (line.partition(":") for line in head.split("\r\n")[1:])
            headers = {name.strip().lower(): value.strip() for name, _, value in lines}
            try:
                found = self.running.server.dialect.answer(workload.wire, headers, body.encode("latin-1"))
            except (KeyError, ValueError) as e:
                raise ServerFailed(f"{self.name}: unreadable answer {body[:200]!r}: {e!r}") from e
            if wrong := fault(found, self.samples[number].answer):
                raise ServerFailed(f"{self.name}: a wrong answer to body {number}: {wrong}")

    def _plan(self, workload: Workload, seconds: float, *, rate: float = 0.0, count: int = 0, seed: int = 0) -> ClientPlan:
        target = self._target(workload)
        return ClientPlan(
            port=target.port,
            path=target.path,
            records=str(target.records),
            seconds=seconds,
            connections=workload.connections,
            rate=rate,
            count=count,
            seed=seed,
            pads=workload.pads,
            fresh=workload.fresh,
        )

    def _target(self, workload: Workload) -> Target:
        """The file of its requests is made once for each workload."""
        dialect, wire = self.running.server.dialect, workload.wire
        records = Path(self.running.job.scratch) / f"{workload.name}.records"
        if not records.exists():
            records.write_bytes(written([dialect.request(wire, s.value) for s in self.samples]))
        return Target(self.running.job.port, dialect.request(wire, self.samples[0].value).path, records)


def contenders(workload: Workload, running: Sequence[RunningServer], samples: Sequence[Sample]) -> list[Contender]:
    """The servers that can be asked this; those of other commits and without counters only where a bar wants them."""
    found: list[Contender] = []
    for server in running:
        if server.name == BEFORE:
            found += [ServerContender(server, samples, FIXED)] if workload.bar == LEAD else []
            continue
        if server.name == UNCOUNTED and workload.bar != LEAD:
            continue
        found.append(ServerContender(server, samples))
        if server.name == EVENKEEL and workload.bar == LEAD:
            found.append(ServerContender(server, samples, FIXED))
    return found
