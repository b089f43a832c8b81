"""A client that compares every answer: closed, each connection asks again once it has its answer, or open, requests are due by a
Poisson process whatever the server does, and their latency counts from when they were due.

Started as `python -m benchmarks.table.client '<Plan as JSON>'`; prints its Tally as JSON. An answer is known by its bytes: each
different one is told once, with the number of the body it answers, and anyone who started the client says whether it is right.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.table import records

DRAIN_S_MAX = 5.0
STRIDE = 7919  # a prime: lengths follow each other in an order that no cache likes
WAITING_MAX = 20_000  # requests that are due while all connections are in use; more is no half of a capacity
ANSWERS_MAX = 5_000  # different ones; a model gives the same bytes for a row but for what the size of a batch does to it


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """`rate`: requests a second, 0 for a closed loop. `count`: of a closed loop, how many requests at most."""

    port: int
    path: str
    records: str
    seconds: float
    connections: int
    rate: float = 0.0
    count: int = 0
    seed: int = 0
    pads: int = 0
    fresh: bool = False


@dataclass(slots=True)
class ClientTally:
    """`late_s`: how long after it was due a request was sent, while a connection was free: the client's own fault."""

    seconds: float = 0.0
    requests: int = 0
    non2xx: int = 0
    errors: int = 0
    unsent: int = 0
    latency_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    answers: list[tuple[int, str, str]] = field(default_factory=list)  # number of the body, head, body in Latin-1
    unread: int = 0  # answers beyond the bound, which nobody compares


class TableClient:
    """Owner of the connections, of what waits and of the tally."""

    def __init__(self, plan: ClientPlan) -> None:
        self.plan, self.tally = plan, ClientTally(plan.seconds)
        self.records = records.read(Path(plan.records).read_bytes())
        self.prefix = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\n" % plan.path.encode()
        if plan.fresh:
            self.prefix += b"Connection: close\r\n"
        self.free: deque[ClientConnection] = deque()
        self.waiting: deque[float] = deque()
        self.sent = 0
        self.owed = 0
        self.known: set[tuple[int, bytes]] = set()
        self.end_s = 0.0

    async def run(self) -> ClientTally:
        for _ in range(self.plan.connections):
            self.free.append(await self.connected())
        began_s = time.perf_counter()
        self.end_s = began_s + self.plan.seconds
        await (self._open(began_s) if self.plan.rate else self._closed())
        self.tally.seconds = time.perf_counter() - began_s
        drained_s = time.perf_counter() + DRAIN_S_MAX
        while self.owed and time.perf_counter() < drained_s:
            await asyncio.sleep(0.005)
        self.tally.errors += self.owed
        self.tally.unsent += len(self.waiting)
        return self.tally

    async def connected(self) -> ClientConnection:
        made: tuple[object, ClientConnection] = await asyncio.get_running_loop().create_connection(
            lambda: ClientConnection(self), "127.0.0.1", self.plan.port
        )
        return made[1]

    async def _closed(self) -> None:
        while self.free and self.goes_on():
            self.free.popleft().ask(time.perf_counter())
        while self.goes_on():
            await asyncio.sleep(0.005)

    def goes_on(self) -> bool:
        return time.perf_counter() < self.end_s and not (self.plan.count and self.sent >= self.plan.count)

    async def _open(self, began_s: float) -> None:
        dice, due_s = random.Random(self.plan.seed), began_s
        while (now_s := time.perf_counter()) < self.end_s:
            while due_s <= now_s:
                self.take(due_s)
                due_s += dice.expovariate(self.plan.rate)
            # A sleep of nothing looks at the sockets and comes back: a timer of the loop has whole milliseconds.
            await asyncio.sleep(0)

    def take(self, due_s: float) -> None:
        if self.free:
            self.free.popleft().ask(due_s)
        elif len(self.waiting) < WAITING_MAX:
            self.waiting.append(due_s)
        else:
            self.tally.unsent += 1

    def request(self) -> tuple[int, bytes]:
        number = self.sent % len(self.records)
        self.sent += 1
        record = self.records[number]
        ids = records.own_ids(self.plan.seed, self.sent)
        body = record.body + b" " * (self.sent * STRIDE % self.plan.pads) if self.plan.pads else record.body
        return number, b"%b%b%bContent-Length: %d\r\n\r\n%b" % (self.prefix, record.head, ids, len(body), body)

    def is_free(self, connection: ClientConnection) -> None:
        if self.plan.rate:
            if self.waiting:
                connection.ask(self.waiting.popleft(), waited=True)
            else:
                self.free.append(connection)
        elif self.goes_on():
            connection.ask(time.perf_counter())

    def note(self, number: int, due_s: float, head: bytes, body: bytes) -> None:
        tally = self.tally
        self.owed -= 1
        tally.requests += 1
        tally.latency_s.append(time.perf_counter() - due_s)
        if head[9:10] != b"2":
            tally.non2xx += 1
            return
        key = (number, body)
        if key in self.known:
            return
        if len(self.known) >= ANSWERS_MAX:
            tally.unread += 1
            return
        self.known.add(key)
        tally.answers.append((number, head.decode("latin-1"), body.decode("latin-1")))


class ClientConnection(asyncio.Protocol):
    """At most one request at a time."""

    def __init__(self, client: TableClient) -> None:
        self._client = client
        self._got = bytearray()
        self._number, self._due_s, self._busy = 0, 0.0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def ask(self, due_s: float, *, waited: bool = False) -> None:
        self._number, data = self._client.request()
        self._due_s, self._busy = due_s, True
        self._client.owed += 1
        if not waited:
            self._client.tally.late_s.append(time.perf_counter() - due_s)
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._got[:end])
        size = int(head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0])
        if len(self._got) < end + 4 + size:
            return
        body = bytes(self._got[end + 4 : end + 4 + size])
        self._got.clear()
        self._busy = False
        self._client.note(self._number, self._due_s, head, body)
        if self._client.plan.fresh:
            self._transport.close()
        else:
            self._client.is_free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        client = self._client
        if self._busy:
            client.owed -= 1
            client.tally.errors += 1
        if client.goes_on() or client.waiting:
            task = asyncio.get_running_loop().create_task(self._replaced())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _replaced(self) -> None:
        self._client.is_free(await self._client.connected())


tasks: set[asyncio.Task[None]] = set()  # a task that nobody holds may be collected before it has run


def main() -> None:
    tally = uvloop.run(TableClient(ClientPlan(**json.loads(sys.argv[1]))).run())
    json.dump(asdict(tally), sys.stdout)


if __name__ == "__main__":
    main()
