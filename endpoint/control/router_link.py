"""The control plane's end of the router: it starts it, tells it routes, and starts it again when it has ended.

Owner of the listening socket: connections that come while a router starts again wait in its queue.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import orjson

from evenkeel.endpoint.control.control_settings import ACCOUNT, ControlSettings

DRAIN_S = 480.0  # D: the longest that a streamed answer may take
PROCESS = (sys.executable, "-P", "-m", "evenkeel.endpoint.router.router_process")
AGAIN_S = 0.5  # between two starts
Routes = dict[str, dict[str, Any] | None]


class RouterLink:
    def __init__(self, settings: ControlSettings, listener: socket.socket, environment: dict[str, str]) -> None:
        self._settings, self._listener, self._environment = settings, listener, environment
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._routes: Routes = {}
        self._writer: asyncio.StreamWriter | None = None
        self._child: subprocess.Popen[bytes] | None = None

    async def run(self) -> None:
        """For ever: a router, and when it ends the next."""
        while True:
            ours, theirs = socket.socketpair()
            orders = {
                "listener_fd": self._listener.fileno(), "orders_fd": theirs.fileno(), "region": self._settings.region,
                "account": ACCOUNT, "payload_bytes": int(self._settings.payload_mb * (1 << 20)),
            }  # fmt: skip
            self._child = subprocess.Popen(
                [*PROCESS, orjson.dumps(orders).decode()],
                pass_fds=(self._listener.fileno(), theirs.fileno()),
                env=self._environment,
            )
            theirs.close()
            reader, self._writer = await asyncio.open_connection(sock=ours)
            self._send({"routes": self._routes})
            while line := await reader.readline():
                future = self._waiting.pop(orjson.loads(line)["id"], None)
                if future is not None and not future.done():
                    future.set_result(None)
            self._gone()
            await asyncio.sleep(AGAIN_S)

    def tell(self, endpoint: str, route: dict[str, Any] | None) -> None:
        """Nothing happens where it is what was told before."""
        if endpoint in self._routes and self._routes[endpoint] == route:
            return
        self._routes[endpoint] = route
        self._send({"routes": {endpoint: route}})
        if route is None:
            del self._routes[endpoint]

    async def drained(self, instances: Sequence[str]) -> None:
        """Returns once nothing of theirs is in flight. They must not be among the routes any more."""
        future = self._send({"drain": list(instances), "within_s": DRAIN_S})
        if future is not None:
            await future

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._child is not None:
            self._child.terminate()

    def _send(self, order: dict[str, Any]) -> asyncio.Future[None] | None:
        if self._writer is None:
            return None
        number = next(self._ids)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(orjson.dumps({"id": number, **order}) + b"\n")
        return future

    def _gone(self) -> None:
        """What was in flight went with it."""
        self._writer = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)
        self._waiting.clear()
