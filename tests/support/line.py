"""One connection of the data port on a bench: both its ends in one event loop, stepped by hand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from evenkeel.serve.front.http.body_reader import BodyReader
from evenkeel.serve.front.http.connections import Connections
from evenkeel.serve.front.http.protocol import FrontProtocol
from tests.support.front_bench import FrontBench

WITHIN_S = 10.0


class Line:
    """One connection between a FrontProtocol and a client of ours, in one event loop stepped by hand."""

    def __init__(
        self, bench: FrontBench, connections: Connections | None = None, ends: tuple[socket.socket, socket.socket] | None = None
    ) -> None:
        """`connections`: that of another, for two connections of one worker. `ends`: the client's and the server's socket."""
        self.bench = bench
        self.connections = connections or Connections(bench.page, bench.page.front(0), bench.front, bench.limits, None)
        self.client, theirs = ends or socket.socketpair()
        self.client.setblocking(False)
        self.heard = b""
        self._waiting = b""
        self.transport, self.front = bench.loop.run_until_complete(self._connect(theirs))

    async def _connect(self, theirs: socket.socket) -> tuple[Any, FrontProtocol]:
        config = uvicorn.Config(_nothing, http="h11", log_config=None, access_log=False, lifespan="off", ws="none")
        config.load()
        server = uvicorn.Server(config)
        loop = asyncio.get_running_loop()
        state = server.server_state
        return await loop.connect_accepted_socket(
            lambda: FrontProtocol(self.connections, config=config, server_state=state, app_state={}), theirs
        )

    def send(self, data: bytes) -> None:
        self._waiting += data

    def until(self, done: Callable[[], object]) -> None:
        end_s = time.monotonic() + WITHIN_S
        while not done():
            assert time.monotonic() < end_s, self.heard[:300]
            self._let_flow()
            self.bench.settle(1)
            self.bench.clock.advance(0.001)  # the engine may wait a moment for more rows

    def _let_flow(self) -> None:
        if self.client.fileno() < 0:
            return
        with contextlib.suppress(BlockingIOError):
            self.heard += self.client.recv(1 << 20)
        with contextlib.suppress(BlockingIOError):
            self._waiting = self._waiting[self.client.send(self._waiting[:50_000]) :] if self._waiting else b""

    @property
    def reads_directly(self) -> bool:
        return isinstance(self.transport.get_protocol(), BodyReader)


async def _nothing(scope: object, receive: object, send: object) -> None: ...
