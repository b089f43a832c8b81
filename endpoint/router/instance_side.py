"""The router's connections to instances: one request at a time each, kept for the next as long as it is safe.

A server may close a connection that has been idle, in the moment in which a request is on its way over it. So one is used again
only within a second: servers keep idle ones for two seconds or more (1.2.7 of the contract). Then no request must be sent twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol, cast

import httptools

IDLE_S = 1.0
IDLE_MAX = 256  # connections kept for an instance
CONNECT_S = 0.25  # D: 1.2.4
HEADER_BYTES_MAX = 64 << 10  # of an answer


class Receiver(Protocol):
    """Who waits for the answer."""

    def head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None: ...
    def body(self, data: bytes) -> None: ...
    def complete(self) -> None: ...
    def broken(self, why: str) -> None: ...


class InstanceSide(asyncio.Protocol):
    def __init__(self, pool: InstancePool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0
        self._receiver: Receiver | None = None
        self.idle_since_s = 0.0

    def send(self, receiver: Receiver, *parts: bytes) -> None:
        assert self._transport is not None and self._receiver is None, "a connection has one request at a time"
        self._receiver = receiver
        self._transport.writelines(parts)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def drop(self) -> None:
        """Nobody waits any more: what the instance still sends is for nobody."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    # ---- asyncio -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._receiver is None:  # it speaks without being asked
            self.drop()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as e:
            self._break(f"the container's answer is no HTTP: {e}")

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._receiver is not None:
            self._break("the container closed the connection before its answer was complete")

    # ---- httptools -----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._headers, self._header_bytes = [], 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_BYTES_MAX:
            raise ValueError(f"its head is larger than {HEADER_BYTES_MAX} bytes")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._receiver is not None and self._parser.get_status_code() >= 200:
            self._receiver.head(self._parser.get_status_code(), self._headers)

    def on_body(self, data: bytes) -> None:
        if self._receiver is not None:
            self._receiver.body(data)

    def on_message_complete(self) -> None:
        if self._receiver is None or self._parser.get_status_code() < 200:
            return
        receiver, self._receiver = self._receiver, None
        if self._parser.should_keep_alive():
            self._pool.give_back(self)
        elif self._transport is not None:
            self._transport.close()
        receiver.complete()

    def _break(self, why: str) -> None:
        receiver, self._receiver = self._receiver, None
        if self._transport is not None:
            self._transport.abort()
        if receiver is not None:
            receiver.broken(why)


class InstancePool:
    """Idle connections to one instance."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: deque[InstanceSide] = deque(maxlen=IDLE_MAX)

    def idle(self) -> InstanceSide | None:
        """The one that was used last, if it is still good."""
        while self._idle:
            side = self._idle.pop()
            if side.is_open and time.monotonic() - side.idle_since_s < IDLE_S:
                return side
            side.drop()
        return None

    async def connect(self) -> InstanceSide:
        """Raises OSError, also when it takes too long."""
        async with asyncio.timeout(CONNECT_S):
            _, side = await asyncio.get_running_loop().create_connection(lambda: InstanceSide(self), self._host, self._port)
        return side

    def give_back(self, side: InstanceSide) -> None:
        side.idle_since_s = time.monotonic()
        if len(self._idle) == IDLE_MAX:
            self._idle.popleft().drop()
        self._idle.append(side)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().drop()
