"""Where the front's time goes, step by step, in microseconds a request: a real front and a real engine in one process, with real
connections, whose turns are taken by hand.

Of each turn only what the front does is timed, by its CPU time. Around the functions that begin a step (STEPS) is a stopwatch,
which takes from each the time of those it calls; what it costs itself is measured before and taken off. What is left beside
them all is uvloop and the kernel: reading until all requests are there, writing from then on. Requests have heads of their own.
Reported is the mean of the fastest quarter of the turns, so the figures are those of a machine that is little disturbed.

usage: python -m benchmarks.front_time [--workloads json-64,npy-64,csv-64] [--turns 400]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import models
from benchmarks.markdown import table
from benchmarks.table.bodies import samples
from benchmarks.table.dialects import Plain
from benchmarks.table.records import own_ids
from benchmarks.table.workloads import WORKLOADS, Workload
from evenkeel.serve.codec.csv_rows import CsvRows
from evenkeel.serve.codec.json_document import JsonDocument
from evenkeel.serve.codec.npy import Npy
from evenkeel.serve.contract.lifecycle import Reason, Verdict
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.models import replica
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup import Warmup
from evenkeel.serve.front.http.protocol import FrontProtocol
from evenkeel.serve.front.http.request_head import formats_of
from evenkeel.serve.front.request.invocations import Invocations
from evenkeel.serve.front.request.row_batcher import RowBatcher
from evenkeel.serve.front.request.slot_writer import SlotWriter
from evenkeel.serve.front.routing.router import Router
from evenkeel.serve.transport.channel import Channel
from evenkeel.serve.transport.slots import Slots
from tests.support.front_bench import FrontBench
from tests.support.line import Line

READ, PARSE, ADMIT, DECODE, SLOT, SEND = "kernel: read", "parse", "admit", "decode", "slot", "send"
RECEIVE, MATCH, ENCODE, ANSWER, WRITE = "receive", "match", "encode", "answer", "kernel: write"
CODECS = (JsonDocument, Npy, CsvRows)
STEPS: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    (PARSE, FrontProtocol, ("data_received",)),
    (ADMIT, RowBatcher, ("arrive", "_take_arrived")),
    (ADMIT, Invocations, ("begin",)),
    (ADMIT, Router, ("choose",)),
    *((DECODE, codec, ("decode_row", "decode", "is_quick")) for codec in CODECS),
    (SLOT, Slots, ("claim_all", "release_all")),
    (SLOT, SlotWriter, ("take", "release")),
    (SEND, Channel, ("send",)),
    (RECEIVE, Channel, ("receive",)),
    (MATCH, RowBatcher, ("replied",)),
    *((ENCODE, codec, ("encode_rows", "encode")) for codec in CODECS),
    (ANSWER, FrontProtocol, ("answer",)),
)
ORDER = (READ, PARSE, ADMIT, DECODE, SLOT, SEND, RECEIVE, MATCH, ENCODE, ANSWER, WRITE)
SAYS = {
    READ: "uvloop, epoll and recv",
    PARSE: "the head's shape and the length",
    ADMIT: "the queue, rows, deadline, which engine, the record",
    DECODE: "the body to the bytes of its rows",
    SLOT: "claim, write, release",
    SEND: "records to the engine, one write a turn",
    RECEIVE: "records of the engine, one read a batch",
    MATCH: "replies to their requests, and counting",
    ENCODE: "outputs to text",
    ANSWER: "the head of the answer",
    WRITE: "uvloop and send",
}
WARM_TURNS = 60  # by then shapes are learned, and batches are
SETTLED_S_MAX = 10.0
_now_ns = time.thread_time_ns  # of this process alone: others on the machine take no part in it


@dataclass(slots=True)
class Spent:
    own_ns: float = 0.0
    calls: int = 0
    inner_calls: int = 0  # that it made of others with a stopwatch


@dataclass(slots=True)
class Stopwatch:
    """`inside_ns`: what the functions took that the running one has called so far; `inside_calls`: how many."""

    spent: dict[str, Spent] = field(default_factory=dict)
    inside_ns: int = 0
    inside_calls: int = 0
    own_ns: float = 0.0  # of one call, seen by the function itself
    around_ns: float = 0.0  # of one call, seen by who makes it

    def timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            outer_ns, outer_calls = self.inside_ns, self.inside_calls
            self.inside_ns = self.inside_calls = 0
            began_ns = _now_ns()
            try:
                return function(*args, **kwargs)
            finally:
                took_ns = _now_ns() - began_ns
                spent = self.spent.setdefault(label, Spent())
                spent.own_ns += took_ns - self.inside_ns
                spent.calls += 1
                spent.inner_calls += self.inside_calls
                self.inside_ns, self.inside_calls = outer_ns + took_ns, outer_calls + 1

        return call

    def calibrate(self) -> None:
        """By a function that does nothing."""
        count, best_own, best_around = 2000, 1e9, 1e9

        def nothing(self: object, data: object) -> None: ...

        inner = self.timed("inner", nothing)

        def loop(call: Callable[[object, object], None]) -> None:
            for _ in range(count):
                call(self, self)

        outer = self.timed("outer", loop)
        for _ in range(30):
            self.spent.clear()
            began_ns = _now_ns()
            loop(nothing)
            plain_ns = _now_ns() - began_ns
            outer(inner)
            best_own = min(best_own, (self.spent["inner"].own_ns - plain_ns) / count)
            best_around = min(best_around, self.spent["outer"].own_ns / count)
        self.own_ns, self.around_ns = max(0.0, best_own), best_around
        self.spent.clear()

    def take(self) -> dict[str, float]:
        """Nanoseconds of each step since the last time, and of the stopwatch itself nothing."""
        found = {
            label: max(0.0, s.own_ns - s.calls * self.own_ns - s.inner_calls * self.around_ns) for label, s in self.spent.items()
        }
        self.spent.clear()
        return found


class TimedTransport:
    """Writes with a stopwatch; everything else is the transport's."""

    def __init__(self, transport: Any, stopwatch: Stopwatch) -> None:
        self._transport = transport
        self.write = stopwatch.timed(WRITE, transport.write)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@dataclass(slots=True)
class TimedFront:
    """One workload on its bench."""

    bench: FrontBench
    stopwatch: Stopwatch
    requests: Sequence[tuple[bytes, bytes]]  # the beginning of a head, and a body
    lines: list[Line] = field(default_factory=list)
    sent: int = 0

    def connect(self, connections: int) -> None:
        for _ in range(connections):
            line = Line(self.bench, self.lines[0].connections if self.lines else None, tcp_pair())
            line.front.transport = TimedTransport(line.transport, self.stopwatch)  # type: ignore[assignment]
            self.lines.append(line)

    def turn(self) -> dict[str, float]:
        """Everybody asks once and is answered. Returns what the front took for it, in nanoseconds by step."""
        for line in self.lines:
            head, body = self.requests[self.sent % len(self.requests)]
            self.sent += 1
            line.client.send(head + own_ids(1, self.sent) + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.stopwatch.take()
        pending, end_s = self.bench.front.in_flight.pending, time.monotonic() + SETTLED_S_MAX
        read, write = (self.stopwatch.timed(step, self.bench.step_front) for step in (READ, WRITE))
        while len(pending) < len(self.lines):
            read()
            assert time.monotonic() < end_s, "requests arrive"
        while pending:
            self.bench.engines[0].turn()
            self.bench.clock.advance(0.001)  # it may wait a moment for more rows
            write()
            assert time.monotonic() < end_s, "requests are answered"
        found = self.stopwatch.take()
        self.bench.front.sweep()  # as twenty times a second: it learns what a row costs
        self.bench.step_front()
        for line in self.lines:
            assert line.client.recv(1 << 20).startswith(b"HTTP/1.1 200"), "every request has its answer"
        return found


def measured(workload: Workload, turns: int) -> dict[str, float]:
    """Microseconds a request, by step."""
    folder, stopwatch = models.ensure() / workload.model, Stopwatch()
    stopwatch.calibrate()
    asked = [Plain("/invocations").request(workload.wire, sample.value) for sample in samples(workload, folder)]
    requests = [(_beginning(a.headers), a.body) for a in asked]
    with ExitStack() as stack:
        for step, owner, names in STEPS:
            for name in names:
                stack.callback(_patched(owner, name, stopwatch.timed(step, getattr(owner, name))))
        formats_of.cache_clear()  # it holds methods without a stopwatch
        stack.callback(formats_of.cache_clear)
        bench = stack.enter_context(FrontBench(lambda: _loaded(folder)))
        bench.page.write_verdict(Verdict(True, Reason.READY), 1.0)
        front = TimedFront(bench, stopwatch, requests)
        front.connect(workload.connections)
        for _ in range(WARM_TURNS):
            front.turn()
        gc.collect()
        gc.freeze()
        found = sorted((front.turn() for _ in range(turns)), key=lambda steps: sum(steps.values()))
        for line in front.lines:
            line.client.close()
        bench.settle()
    quick = found[: max(1, turns // 4)]
    return {step: sum(f.get(step, 0.0) for f in quick) / len(quick) / workload.connections / 1e3 for step in ORDER}


def _patched(owner: type, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Sets it, and returns what sets it back."""
    own = owner.__dict__.get(name)
    setattr(owner, name, function)
    return lambda: delattr(owner, name) if own is None else setattr(owner, name, own)


def _beginning(headers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}".encode()


def _loaded(folder: Path) -> Replica:
    made = replica.load(folder, LoadOptions(threads=1))
    Warmup(made, [], lambda done, total, what: None).run()
    return made


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """A client and what a server would accept."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        served = listener.accept()[0]
    for end in (client, served):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, served


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="json-64,npy-64,csv-64")
    parser.add_argument("--turns", type=int, default=400)
    options = parser.parse_args()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    names = options.workloads.split(",")
    found = {name: measured(WORKLOADS[name], options.turns) for name in names}
    rows = [[step, SAYS[step], *(f"{found[name][step]:.2f}" for name in names)] for step in ORDER]
    rows.append(["together", "", *(f"{sum(found[name].values()):.2f}" for name in names)])
    print("\n".join(table(["step", "what", *names], rows)))


if __name__ == "__main__":
    main()
