"""The clients of benchmarks/gpu.py. They know no framework and no server, only requests in a folder and a port.

`python -m benchmarks.gpu_load '<Plan as JSON>'` is one client process: it says `ready`, is told when to begin,
and prints its Load.

How it works. One thread waits by epoll for all connections of a process, since a thread for each costs more than the copying of
150 kB bodies. With a rate the loop is open: requests are due by a Poisson process whatever the server does, wait for a free
connection where all are in use, and their latency counts from when they were due. Without a rate the loop is closed: each
connection sends as soon as it has its answer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.gpu_wire import READ_BYTES, ask, lengths, requests, rotated, status_of

ROOT = Path(__file__).resolve().parent.parent
CONNECT_S_MAX = 1.0
DRAIN_S_MAX = 5.0
START_S_MAX = 30.0
REST_S = 0.02  # of a connection after anything but an answer: asking on at full speed is no client, but an attack
WAITING_MAX = 512  # requests due in one process while all connections are in use; those beyond it stay unsent


@dataclass(slots=True)
class Load:
    """What one load met. `due`: units that were to be sent, and `units` those answered, both before the end. `refused`: 429 and
    503, which a client is told to repeat; `lost`: everything else that is no 200; `unsent`: all connections were in use."""

    seconds: float = 0.0
    due: int = 0
    units: int = 0
    right: int = 0
    refused: int = 0
    lost: int = 0
    unsent: int = 0
    latency_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one client process. `rate`: requests a second, 0 for a closed loop; `folder` has the requests as *.x.npy."""

    port: int
    folder: str
    seconds: float
    connections: int
    rate: float = 0.0
    number: int = 0  # of the process: seeds its arrivals, and chooses its first request
    patience_s: float = DRAIN_S_MAX  # after the end, for what was sent before it; what is not answered then is lost


def together(loads: Sequence[Load]) -> Load:
    """Of several processes that ran at the same time."""
    found = Load(seconds=max((each.seconds for each in loads), default=0.0))
    for each in loads:
        for name in ("due", "units", "right", "refused", "lost", "unsent"):
            setattr(found, name, getattr(found, name) + getattr(each, name))
        found.latency_s += each.latency_s
    return found


def one_by_one(port: int, folder: Path, seconds: float) -> Load:
    """One connection that waits for each answer before it asks again. Raises for whatever is no answer."""
    made, load, number = requests(folder), Load(seconds=seconds), 0
    end_s = time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port), DRAIN_S_MAX) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (begun_s := time.monotonic()) < end_s:
            data, units = made[number % len(made)]
            number += 1
            status, _ = ask(wire, data)
            if status != 200:
                raise ConnectionError(f"one request at a time was told {status}")
            load.latency_s.append(time.monotonic() - begun_s)
            load.right, load.units = load.right + 1, load.units + units
    return load


# ---- one client process ----------------------------------------------------------------------------------------------


class Arrivals:
    """When requests are due: a Poisson process with a seed."""

    def __init__(self, rate: float, seed: int, start_s: float) -> None:
        self._rate, self._random = rate, random.Random(seed)
        self.next_s = start_s + self._random.expovariate(rate)

    def until(self, now_s: float) -> list[float]:
        due = []
        while self.next_s <= now_s:
            due.append(self.next_s)
            self.next_s += self._random.expovariate(self._rate)
        return due


class Wire:
    """A connection with at most one request, or none yet."""

    __slots__ = ("busy", "due_s", "got", "left", "socket", "units", "watched")

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.got = bytearray()
        self.left = memoryview(b"")  # of the request, not sent yet
        self.due_s, self.units = 0.0, 0
        self.busy, self.watched = False, select.EPOLLIN


class Client:
    """Owner of the connections of one process: each is free, busy or resting."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._epoll = plan, select.epoll()
        self._requests = itertools.cycle(rotated(requests(Path(plan.folder)), plan.number))
        self._free = deque(Wire() for _ in range(plan.connections))
        self._wires: dict[int, Wire] = {}  # that are connected, by their file descriptors
        self._busy = 0
        self._resting: deque[tuple[float, Wire]] = deque()
        self._waiting: deque[tuple[float, bytes, int]] = deque()  # when it was due, the request and its units
        self._load = Load(seconds=plan.seconds)
        self._end_s = 0.0

    def connect(self) -> None:
        for wire in self._free:
            self._connect(wire)

    def run(self, start_s: float) -> Load:
        plan, self._end_s = self._plan, start_s + self._plan.seconds
        arrivals = Arrivals(plan.rate, plan.number, start_s) if plan.rate else None
        time.sleep(max(0.0, start_s - time.monotonic()))
        while (now_s := time.monotonic()) < self._end_s:
            self._begin(now_s, arrivals)
            self._wait(min(self._end_s, now_s + REST_S, arrivals.next_s if arrivals else self._end_s))
        while (self._busy or self._waiting) and (now_s := time.monotonic()) < self._end_s + plan.patience_s:
            self._begin(now_s, None)
            self._wait(now_s + REST_S)
        self._load.unsent += len(self._waiting)
        self._load.lost += self._busy
        return self._load

    def _begin(self, now_s: float, arrivals: Arrivals | None) -> None:
        """Send what is due by now, on the connections that are free."""
        while self._resting and self._resting[0][0] <= now_s:
            self._free.append(self._resting.popleft()[1])
        for due_s in arrivals.until(now_s) if arrivals else ():
            data, units = next(self._requests)
            self._load.due += units
            if len(self._waiting) < WAITING_MAX:
                self._waiting.append((due_s, data, units))
            else:
                self._load.unsent += 1
        while self._free and self._waiting:
            self._send(self._free.popleft(), *self._waiting.popleft())
        while self._free and not self._plan.rate and now_s < self._end_s:
            data, units = next(self._requests)
            self._load.due += units
            self._send(self._free.popleft(), time.monotonic(), data, units)

    def _send(self, wire: Wire, due_s: float, data: bytes, units: int) -> None:
        wire.due_s, wire.units, wire.left = due_s, units, memoryview(data)
        if wire.socket is None and not self._connect(wire):
            self._load.lost += 1  # somebody wanted to ask
            self._resting.append((time.monotonic() + REST_S, wire))
            return
        wire.busy, self._busy = True, self._busy + 1
        self._write(wire)

    def _connect(self, wire: Wire) -> bool:
        try:
            wire.socket = socket.create_connection(("127.0.0.1", self._plan.port), CONNECT_S_MAX)
        except OSError:
            return False
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.socket.setblocking(False)
        wire.watched = select.EPOLLIN
        self._epoll.register(wire.socket, wire.watched)
        self._wires[wire.socket.fileno()] = wire
        return True

    def _close(self, wire: Wire) -> None:
        assert wire.socket is not None, "only what is open is closed"
        del self._wires[wire.socket.fileno()]
        wire.socket.close()  # which ends its registration too
        wire.socket = None

    def _wait(self, until_s: float) -> None:
        """epoll counts whole milliseconds; waiting by select for the epoll itself is exact."""
        select.select([self._epoll], [], [], max(0.0, until_s - time.monotonic()))
        for number, event in self._epoll.poll(0):
            wire = self._wires[number]
            if not wire.busy:
                self._close(wire)  # all that a server can say without a question is that it goes
                continue
            if event & select.EPOLLOUT:
                self._write(wire)
            if wire.busy and event & ~select.EPOLLOUT:
                self._read(wire)

    def _write(self, wire: Wire) -> None:
        assert wire.socket is not None, "a busy connection is open"
        try:
            wire.left = wire.left[wire.socket.send(wire.left) :]
        except BlockingIOError:
            pass
        except OSError:
            return self._told(wire, 0)
        watched = select.EPOLLIN | (select.EPOLLOUT if wire.left else 0)
        if watched != wire.watched:
            wire.watched = watched
            self._epoll.modify(wire.socket, watched)

    def _read(self, wire: Wire) -> None:
        assert wire.socket is not None, "a busy connection is open"
        try:
            part = wire.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            return self._told(wire, 0)
        wire.got += part
        found = lengths(wire.got)
        if found is not None and len(wire.got) >= found[1]:
            self._told(wire, status_of(wire.got))

    def _told(self, wire: Wire, status: int) -> None:
        """0: the connection has ended."""
        now_s, load = time.monotonic(), self._load
        wire.busy, self._busy = False, self._busy - 1
        wire.got.clear()
        if status == 200:
            load.right += 1
            load.units += wire.units if now_s < self._end_s else 0
            load.latency_s.append(now_s - wire.due_s)
            self._free.append(wire)
            return
        if status in (429, 503):
            load.refused += 1
        else:
            load.lost += 1
        if not status:
            self._close(wire)
        self._resting.append((now_s + REST_S, wire))


# ---- many client processes -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def loaded(plan: Plan, processes: int) -> Iterator[Callable[[], Load]]:
    """Clients that share the plan's rate; its connections are each one's own. Gives a function that waits for them."""
    plans = [replace(plan, rate=plan.rate / processes, number=i) for i in range(processes)]
    children = [subprocess.Popen([sys.executable, "-m", "benchmarks.gpu_load", json.dumps(asdict(each))], cwd=ROOT,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for each in plans]  # fmt: skip

    def wait() -> Load:
        limit_s = plan.seconds + plan.patience_s + START_S_MAX
        return together([Load(**json.loads(child.communicate(timeout=limit_s)[0])) for child in children])

    try:
        for child in children:
            assert child.stdout is not None, "it is a pipe"
            if child.stdout.readline() != "ready\n":
                raise RuntimeError("a client process did not start")
        start_s = time.monotonic() + 0.1
        for child in children:
            assert child.stdin is not None, "it is a pipe"
            child.stdin.write(f"{start_s}\n")
            child.stdin.flush()
        yield wait
    finally:
        for child in children:
            child.kill()
            child.wait()


def run_plan(plan: Plan) -> None:
    client = Client(plan)
    client.connect()
    print("ready", flush=True)
    json.dump(asdict(client.run(float(sys.stdin.readline()))), sys.stdout)


if __name__ == "__main__":
    run_plan(Plan(**json.loads(sys.argv[1])))
