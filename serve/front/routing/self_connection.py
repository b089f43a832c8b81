"""A connection of a worker to itself, over which it asks what a client would ask: parse, decode, slot, engine, encode, write.

What comes over it goes to one engine, whichever takes the traffic, and is never counted: a counter that rose before the first
client came would look like traffic, and one that fell again like a restart.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import dataclasses
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from evenkeel.serve.codec import Body
from evenkeel.serve.contract.status_page import BLOCK_CELLS, StatusBlock
from evenkeel.serve.errors import NotReady
from evenkeel.serve.front.http.connections import Connections
from evenkeel.serve.front.routing.destination import Destination
from evenkeel.serve.front.routing.engine_channel import EngineChannel, ServedVersion

if TYPE_CHECKING:
    from evenkeel.serve.front.request.invocation import Invocation
    from evenkeel.serve.front.request.invocations import Invocations

READ_BYTES = 1 << 16
OURS = frozenset({429, 503, 504})  # answers that a worker gives when no engine has given one

Connect = Callable[[Connections], asyncio.Protocol]  # makes the protocol of a new connection, as for a client


class SelfConnection:
    """One request at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def ask(self, data: bytes) -> int:
        """The status of the whole answer."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._sock, data)
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += await self._read()
        status = int(answer.split(b" ", 2)[1])
        if b"transfer-encoding: chunked" in answer[:end]:
            while not answer.endswith(b"0\r\n\r\n"):
                answer = answer[-8:] + await self._read()
            return status
        size = int(answer[:end].lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        left = size - (len(answer) - end - 4)
        while left > 0:
            left -= len(await self._read())
        return status

    async def _read(self) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self._sock, READ_BYTES)
        if not data:
            raise ConnectionResetError("the worker closed its own connection")
        return data


class OwnRequests:
    """Invocations, as a connection of our own sees them. `row_batcher` is what a connection brings its requests to."""

    def __init__(self, invocations: Invocations, link: EngineChannel, model: ServedVersion) -> None:
        self._invocations, self._link = invocations, link
        nowhere = StatusBlock(memoryview(bytearray(BLOCK_CELLS * 8)))
        self._to = Destination.of(dataclasses.replace(model, counters=nowhere), link)

    @property
    def row_batcher(self) -> OwnRequests:
        return self

    def arrive(self, invocation: Invocation, body: Body) -> None:
        invocation.uncounted = True
        if self._link.model is not None:
            self._invocations.row_batcher.take([(invocation, body)], self._to)
        elif invocation.caller is not None:  # gone since, and it would wait there for its deadline
            invocation.caller.answer_error(invocation, NotReady("the engine has gone"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._invocations, name)


@contextlib.asynccontextmanager
async def connected_to(
    connect: Connect, connections: Connections, link: EngineChannel, model: ServedVersion
) -> AsyncIterator[SelfConnection]:
    """A connection whose requests that engine gets. It takes no client's place, and no limit of theirs keeps it out."""
    own = copy.copy(connections)
    own.open, own.reserve = set(), {}
    own.invocations = OwnRequests(connections.invocations, link, model)  # type: ignore[assignment]
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    try:
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: connect(own), theirs)
        try:
            yield SelfConnection(ours)
        finally:
            transport.close()
    finally:
        ours.close()


async def ask_one(connect: Connect, connections: Connections, link: EngineChannel, model: ServedVersion, data: bytes) -> bool:
    """Ask that engine one thing of its model. Whether it answered: a refusal of the worker's own is no answer."""
    async with connected_to(connect, connections, link, model) as line:
        return await line.ask(data) not in OURS


def request(body: Mapping[str, str]) -> bytes:
    data = base64.b64decode(body["body"])
    head = f"POST /invocations HTTP/1.1\r\nHost: warm-up\r\nContent-Type: {body['content_type']}\r\nContent-Length: {len(data)}"
    return head.encode("latin-1") + b"\r\n\r\n" + data
