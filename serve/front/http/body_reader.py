"""Reads the rest of a large body straight to where it will lie, past the HTTP reader.

How it works. A body that comes in pieces is touched three times: the event loop copies what it has read, pieces are cut
from that, and they are copied to their place. Once the head has said how long the body is, there is
nothing in it to parse. So the connection's transport gets this protocol instead of the connection itself for a while: it
hands out the very memory to be read into, never more than the body, so what follows the body stays in the kernel.

Owner of nothing: the body is the request's, and all that may happen to a connection is told to it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from evenkeel.serve.front.http.client_connection import ClientConnection
    from evenkeel.serve.front.request.invocation import Invocation

DIRECT_FROM = 64 * 1024  # bytes of a body still to come; below, changing the protocol costs as much as it saves


def room(length: int) -> bytearray | memoryview:
    """For a body of so many bytes. A large one gets memory that nobody has touched: what was announced and never came costs
    nothing, and nothing is written twice. (A bytearray is filled with zeros when it is made.)"""
    return bytearray(length) if length < DIRECT_FROM else np.empty(length, np.uint8).data


class BodyReader(asyncio.BufferedProtocol):
    """From `begin` until the body is whole or nobody wants it any more (`end`)."""

    def __init__(self, connection: ClientConnection, invocation: Invocation) -> None:
        self._connection, self._invocation = connection, invocation
        self._body = memoryview(invocation.body or b"")

    def begin(self) -> None:
        _read_as(self._connection.transport, self)

    def end(self) -> None:
        """The connection reads for itself again."""
        self._body = memoryview(b"")
        _read_as(self._connection.transport, cast(asyncio.BaseProtocol, self._connection))

    # ---- what the transport says ---------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._body[self._invocation.received :]

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.body_grew(self._invocation, nbytes)

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()


def _read_as(transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
    """The transport looks at the kind of its protocol only when it begins to read."""
    reads = transport.is_reading()
    transport.pause_reading()
    transport.set_protocol(protocol)
    if reads and not transport.is_closing():
        transport.resume_reading()
