"""The client process behind engine_load.py: one event loop, many connections, every reply compared with its own payload.

Started as `python -m benchmarks.load_client '<Plan as JSON>'`; commands come as JSON lines on standard input, intervals
and the final tally go out as JSON lines. It never repeats a request: what failed is told.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import sys
import time
from collections import deque
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import uvloop

from benchmarks.load import COLUMNS, FAILURES_MAX, PATIENCE_S, Failure, Interval, Plan, Tally

BIN_S = 0.1
SWEEP_S = 0.25
RECONNECT_S = 0.02
EXACT_BELOW = 1 << 24  # whole numbers that float32 holds exactly
NPY_EVERY = 4
REFUSED_S = 0.2  # a closed loop that asks on at full speed after a refusal is no client, but an attack


class Payload:
    """One request and the only right answer to it."""

    __slots__ = ("body", "mime", "rows")

    def __init__(self, number: int, plan: Plan) -> None:
        count = plan.rows[number % len(plan.rows)]
        high, low = divmod(number, EXACT_BELOW)
        self.rows = [[low, i, high, plan.seed] + [0] * (COLUMNS - 4) for i in range(count)]
        if number % NPY_EVERY == NPY_EVERY - 1 and not plan.echo_bytes:
            out = io.BytesIO()
            np.save(out, np.array(self.rows, np.float32))
            self.body, self.mime = out.getvalue(), "application/x-npy"
        else:
            self.body, self.mime = json.dumps({"instances": self.rows}).encode(), "application/json"

    def request(self) -> bytes:
        head = (
            f"POST /invocations HTTP/1.1\r\nHost: chaos\r\nContent-Type: {self.mime}\r\nContent-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body

    def is_answered_by(self, answer: bytes, echo_bytes: bool) -> bool:
        if echo_bytes or self.mime != "application/json":
            return answer == self.body
        try:
            return bool(json.loads(answer) == {"predictions": self.rows})
        except ValueError:
            return False


class Client:
    """The state of the load: who is free, what was sent, what came back."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.random = plan, random.Random(plan.seed)
        self.tally = Tally()
        self.free: deque[Caller] = deque()
        self.quiet = self.stopping = False
        self.number = 0
        self._answered_s = 0.0
        self._half_line = b""
        self._rate, self._rate_since_s, self._due_sent = plan.rate, time.monotonic(), 0
        self._begin("start")
        self.callers = [Caller(self) for _ in range(plan.connections)]

    # ---- the story -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(end_on_a_bug)
        loop.add_reader(sys.stdin.fileno(), self._command)
        for caller in self.callers:
            caller.connect()
        swept_s = 0.0
        while not (self.stopping and not any(c.is_owed for c in self.callers)):
            now_s = time.monotonic()
            if now_s - swept_s > SWEEP_S:
                swept_s = now_s
                for caller in self.callers:
                    caller.look(now_s)
            if self._rate and not self.quiet:
                self._send_due(now_s)
            await asyncio.sleep(0.001 if self._rate else 0.02)
        self._end_interval()
        tell(asdict(self.tally))

    def _send_due(self, now_s: float) -> None:
        due = int((now_s - self._rate_since_s) * self._rate) - self._due_sent
        self._due_sent += due
        for _ in range(due):
            if not self.free:
                self.interval.unsent += 1
                continue
            self.free.popleft().ask()

    def _command(self) -> None:
        data = os.read(sys.stdin.fileno(), 65536)
        *lines, self._half_line = (self._half_line + data).split(b"\n") if data else (b'{"stop": true}', b"")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, command: dict[str, Any]) -> None:
        if command.get("stop") or command.get("quiet"):
            self.quiet = True
        self.stopping = self.stopping or bool(command.get("stop"))
        if "rate" in command:
            self._rate, self._rate_since_s, self._due_sent = command["rate"], time.monotonic(), 0
        if not self.quiet:
            self._burst(command.get("burst", 0))
        if "interval" in command:
            self._end_interval()
            tell(asdict(self.interval))
            self._begin(command["interval"])

    def _burst(self, connections: int) -> None:
        self.callers = [c for c in self.callers if not c.is_done]
        newcomers = [Caller(self, once=True) for _ in range(connections)]
        self.callers += newcomers
        for caller in newcomers:
            caller.connect()

    # ---- what is noted -------------------------------------------------------------------------------------------

    def _begin(self, name: str) -> None:
        self.interval = Interval(name, time.monotonic())
        self._latencies: list[float] = []
        self._refusals: list[float] = []

    def _end_interval(self) -> None:
        interval = self.interval
        interval.ended_s = time.monotonic()
        interval.right, interval.refused = len(self._latencies), len(self._refusals)
        interval.latency_s, interval.refusal_s = quantiles(self._latencies), quantiles(self._refusals)

    def _bin(self, now_s: float) -> int:
        series, at = self.interval.series, int((now_s - self.interval.began_s) / BIN_S)
        while len(series) <= at:
            series.append((0, 0, 0.0))
        return at

    def note_right(self, sent_s: float, now_s: float) -> None:
        self.tally.right += 1
        gap_s = now_s - self._answered_s
        if self._answered_s and gap_s > self.tally.longest_gap_s:
            self.tally.longest_gap_s, self.tally.gap_at_s = gap_s, self._answered_s
        self._answered_s = now_s
        self._latencies.append(now_s - sent_s)
        at, series = self._bin(now_s), self.interval.series
        right, refused, worst_s = series[at]
        series[at] = (right + 1, refused, max(worst_s, now_s - sent_s))

    def note_refused(self, kind: str, sent_s: float, now_s: float) -> None:
        self.tally.refused[kind] = self.tally.refused.get(kind, 0) + 1
        self._refusals.append(now_s - sent_s)
        at, series = self._bin(now_s), self.interval.series
        right, refused, worst_s = series[at]
        series[at] = (right, refused + 1, worst_s)

    def note_failed(self, failure: Failure) -> None:
        self.tally.failed += 1
        if len(self.tally.failures) < FAILURES_MAX:
            self.tally.failures.append(failure)


class Caller(asyncio.Protocol):
    """One connection after the other, with at most one request at a time; or, `once`, one of each."""

    def __init__(self, client: Client, once: bool = False) -> None:
        self._client, self._once = client, once
        self.is_done = False
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._opened_s = self._sent_s = 0.0
        self._pause: asyncio.TimerHandle | None = None
        self.payload: Payload | None = None

    @property
    def is_owed(self) -> bool:
        """An answer is still to come."""
        return self.payload is not None or (self._once and not self.is_done)

    # ---- asking --------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        if not self._client.stopping:
            self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop, began_s = asyncio.get_running_loop(), time.monotonic()
        try:
            await loop.create_connection(lambda: self, "127.0.0.1", self._client.plan.port)
        except OSError as e:
            if self._once or not self._client.quiet:
                self._client.tally.sent += 1  # somebody wanted to ask
                self._client.note_failed(Failure("no connection", began_s, began_s, time.monotonic(), str(e)[:100]))
            self.is_done = self._once
            if not self._once:
                loop.call_later(RECONNECT_S, self.connect)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._opened_s = cast(asyncio.Transport, transport), time.monotonic()
        self._buffer.clear()
        if self._once:
            self.ask()
        else:
            self._rest()

    def _rest(self, least_s: float = 0.0) -> None:
        """Until it is due again: in the open loop when somebody calls, in the closed loop after a pause."""
        client = self._client
        if client.plan.rate:
            client.free.append(self)
        else:
            think_s = least_s + client.random.random() * client.plan.think_s_max
            self._pause = asyncio.get_running_loop().call_later(think_s, self.ask)

    def ask(self) -> None:
        client = self._client
        if (client.quiet and not self._once) or self._transport is None or self._transport.is_closing():
            return
        assert self.payload is None, "one request at a time: an answer is told by its place on the connection"
        client.number += 1
        client.tally.sent += 1
        client.interval.sent += 1
        self.payload, self._sent_s = Payload(client.number, client.plan), time.monotonic()
        self._transport.write(self.payload.request())

    def look(self, now_s: float) -> None:
        """A request that nobody answers must not hold up the end."""
        if self.payload is not None and now_s - self._sent_s > PATIENCE_S:
            self._fail("silent", f"no answer for {PATIENCE_S:g} s")
            if self._transport is not None:
                self._transport.abort()

    # ---- being answered --------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).decode("latin-1").lower()
        size = int(head.partition("content-length:")[2].split("\r\n", 1)[0])
        if len(self._buffer) < end + 4 + size:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + size])
        extra = bytes(self._buffer[end + 4 + size :])
        self._buffer.clear()
        self._answered(int(head.split(" ", 2)[1]), body, extra)
        if self._once or "connection: close" in head:
            assert self._transport is not None, "an answer came over it"
            self._transport.close()  # connection_lost makes another
        else:
            self._rest(REFUSED_S if "retry-after:" in head else 0.0)

    def _answered(self, status: int, body: bytes, extra: bytes) -> None:
        payload, client, now_s = self.payload, self._client, time.monotonic()
        if payload is None or extra:
            self._fail("wrong", f"an answer that nobody asked for: {body[:100]!r} {extra[:100]!r}")
            return
        if status != 200:
            code = json.loads(body)["error"]["code"]
            if client.plan.refusals_expected and status in (429, 503):
                client.note_refused(f"{status} {code}", self._sent_s, now_s)
            else:
                self._fail(f"{status} {code}", body[:200].decode())
        elif payload.is_answered_by(body, client.plan.echo_bytes):
            client.note_right(self._sent_s, now_s)
        else:
            self._fail("wrong", f"asked {payload.body[:100]!r}, answered {body[:100]!r}")
        self.payload = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._pause is not None:
            self._pause.cancel()
        if self in self._client.free:
            self._client.free.remove(self)
        if self.payload is not None:
            self._fail("closed", repr(exc) if exc else "")
        self.is_done = self._once
        if not self._once:
            self.connect()

    def _fail(self, kind: str, detail: str) -> None:
        self.payload = None
        self._client.note_failed(Failure(kind, self._opened_s, self._sent_s, time.monotonic(), detail))


def end_on_a_bug(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A client that miscounts proves nothing."""
    loop.default_exception_handler(context)
    sys.stderr.flush()
    os._exit(1)


def quantiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in at.items()}


def tell(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def main() -> None:
    data = json.loads(sys.argv[1])
    uvloop.run(Client(Plan(**{**data, "rows": tuple(data["rows"])})).run())


if __name__ == "__main__":
    main()
