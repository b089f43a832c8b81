"""Before traffic comes: a worker asks itself a few questions, over the whole way that a client's will go.

The first request through cold code (imports, caches, memory never touched, an interpreter that has not specialised)
takes ten times as long as the hundredth. So when an engine says HELLO it brings request bodies along, and this worker
sends them to itself over a socket pair: parse, decode, slot, engine, encode, write. The engine turns READY when every
worker has done so, or after a bound. Its answers are counted where nobody reads.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import time
from collections.abc import Callable, Mapping

from serve.contract.lifecycle import State
from serve.contract.logline import log
from serve.contract.status import BLOCK_CELLS, TIME_CELLS, Block, Engine, Front
from serve.errors import FAMILIES
from serve.front.engines import Engines
from serve.front.links import EngineLink

RUNS = 50  # of each body: Python specialises code within about 50 calls
SECONDS_MAX = 0.4  # of the rehearsal with one engine, however slow the model
READ_BYTES = 1 << 16


class Rehearsal:
    """One worker's rehearsal, with the first engine that it meets while that warms up. With later ones it is warm."""

    def __init__(self, engines: Engines, block: Block, connect: Callable[[], asyncio.Protocol]) -> None:
        """`connect` makes the protocol of a new connection, as for a client."""
        self._engines, self._block, self._connect = engines, block, connect
        self._done = False
        self._answered = 0
        self._tasks: set[asyncio.Task[None]] = set()
        block.count[Front.REHEARSED] = 0

    def engine_up(self, place: int, link: EngineLink) -> None:
        if self._done or not warming(link):
            self._block.count[Front.REHEARSED] |= 1 << place
            return
        self._done = True
        task = asyncio.get_running_loop().create_task(self._with(place, link))
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    def excuse(self, place: int) -> None:
        """This engine has no traffic and is not to wait for us."""
        self._block.count[Front.REHEARSED] |= 1 << place

    def engine_lost(self, place: int) -> None:
        self._block.count[Front.REHEARSED] &= ~(1 << place)

    async def _with(self, place: int, link: EngineLink) -> None:
        model = link.model
        assert model is not None, "called when the engine has said HELLO"
        aside = Aside(model.tally)
        self._engines.rehearse_with(link)
        self._answered = 0
        try:
            await asyncio.wait_for(self._send(model.rehearsals, link), 2 * SECONDS_MAX)
        except (OSError, TimeoutError) as e:
            log("no_rehearsal", f"the way to engine {place} is not warm: {e!r}")
        finally:
            self._engines.rehearse_with(None)
            aside.end(self._answered)
        if link.model is model:
            self._block.count[Front.REHEARSED] |= 1 << place

    async def _send(self, bodies: tuple[Mapping[str, str], ...], link: EngineLink) -> None:
        """All bodies, one after the other, again and again."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        end_s = time.monotonic() + SECONDS_MAX
        transport, _ = await loop.connect_accepted_socket(self._connect, theirs)
        try:
            requests = [request(body) for body in bodies]
            for _ in range(RUNS):
                for data in requests:
                    if not warming(link) or (time.monotonic() > end_s and self._answered >= len(requests)):
                        return
                    await loop.sock_sendall(ours, data)
                    await self._read_answer(loop, ours)
                    self._answered += 1
        finally:
            transport.close()
            ours.close()

    async def _read_answer(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += await self._read(loop, sock)
        if b"transfer-encoding: chunked" in data[:end]:
            while not data.endswith(b"0\r\n\r\n"):
                data = data[-8:] + await self._read(loop, sock)
            return
        size = int(data[:end].lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        left = size - (len(data) - end - 4)
        while left > 0:
            left -= len(await self._read(loop, sock))

    async def _read(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
        data = await loop.sock_recv(sock, READ_BYTES)
        if not data:
            raise ConnectionResetError("the worker closed its own connection")
        return data


class Aside:
    """While it lasts a version's answers are counted where nobody reads: a counter that rose and fell again would look like a
    restart. Whoever asks although the container is not ready is answered, too; then all of it counts in the end."""

    def __init__(self, tally: Block) -> None:
        self._tally, self._real = tally, (tally.count, tally.value)
        memory = memoryview(bytearray(BLOCK_CELLS * 8))
        tally.count, tally.value = memory.cast("Q"), memory.cast("d")

    def end(self, rehearsed: int) -> None:
        """`rehearsed`: so many of the answers were ours."""
        aside, tally = (self._tally.count, self._tally.value), self._tally
        tally.count, tally.value = self._real
        if aside[0][Front.OK] + sum(aside[0][Front.ERRORS : Front.ERRORS + len(FAMILIES)]) == rehearsed:
            return
        tally.value[Front.LATENCY_SUM_S] += aside[1][Front.LATENCY_SUM_S]
        for cell in (Front.OK, Front.ABANDONED, *range(Front.ERRORS, Front.ERRORS + len(FAMILIES)),
                     *range(Front.LATENCY, Front.LATENCY + TIME_CELLS)):  # fmt: skip
            tally.count[cell] += aside[0][cell]


def warming(link: EngineLink) -> bool:
    """Whether the engine there still waits for us. One that is ready, or waits no longer, counts what it is sent as traffic."""
    return link.block.count[Engine.STATE] == State.WARMING


def request(body: Mapping[str, str]) -> bytes:
    data = base64.b64decode(body["body"])
    head = f"POST /invocations HTTP/1.1\r\nHost: rehearsal\r\nContent-Type: {body['content_type']}\r\nContent-Length: {len(data)}"
    return head.encode("latin-1") + b"\r\n\r\n" + data
