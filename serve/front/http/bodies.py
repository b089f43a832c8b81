"""The body of the request that a connection is receiving: where it lies, what it is counted against, and how the rest of a
large one is read past the connection.

Owner of the body while it comes. What all connections together may hold is their own, see connections.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.serve.codec import Body
from evenkeel.serve.errors import BodyTooLarge, EvenkeelError
from evenkeel.serve.front.http.body_reader import DIRECT_FROM, BodyReader, room
from evenkeel.serve.front.request.invocation import Invocation
from evenkeel.serve.http.connection_state import ConnectionState

if TYPE_CHECKING:
    from evenkeel.serve.front.http.client_connection import ClientConnection
    from evenkeel.serve.front.http.connections import Connections


class Bodies:
    """Of one connection, one after the other."""

    __slots__ = ("_connection", "_connections", "_reader")

    def __init__(self, connection: ClientConnection, connections: Connections) -> None:
        self._connection, self._connections = connection, connections
        self._reader: BodyReader | None = None  # reads in the connection's place while the rest of a large body comes

    def too_large(self, size: int) -> BodyTooLarge | None:
        return self._too_large() if size > self._connections.limits.body_bytes_max else None

    def _too_large(self) -> BodyTooLarge:
        most = self._connections.limits.body_bytes_max
        return BodyTooLarge(f"the body is over the limit of {most} bytes (EVENKEEL_MAX_BODY_MB)")

    def take(self, invocation: Invocation, piece: bytes) -> None:
        """A piece that came through the connection. One that is the whole body stays where it is."""
        size = len(piece)
        if invocation.refused is not None:
            invocation.skipped += size
            return
        if invocation.body is None:
            if size == invocation.length:
                invocation.single_piece = piece
                return
            invocation.body = room(invocation.length or 0)
        invocation.body[invocation.received : invocation.received + size] = piece
        self._count(invocation, size)

    def _count(self, invocation: Invocation, size: int) -> None:
        invocation.received += size
        self._connections.receiving_bytes += size
        if invocation.received > self._connections.limits.body_bytes_max:
            raise self._too_large()
        if self._connections.receiving_bytes > self._connections.limits.queue_bytes_max:
            self._connections.make_room_for_body(self._connection)

    def finish(self, invocation: Invocation) -> Body:
        """It is all here, and counts no more as being received."""
        body, invocation.body = invocation.body, None
        self._connections.receiving_bytes -= invocation.received
        return invocation.single_piece if body is None else body

    def let_go(self, invocation: Invocation) -> None:
        """Nobody needs it any more."""
        invocation.caller = None
        self._stop_reader()
        if invocation.body is not None:
            self.finish(invocation)

    # ---- past the connection -------------------------------------------------------------------------------------

    def read_directly(self, invocation: Invocation, left: int) -> None:
        """If so much of it is still to come that it pays: straight to its place."""
        connection = self._connection
        if left >= DIRECT_FROM and invocation.body is not None and not connection.transport.is_closing():
            connection.move(ConnectionState.DIRECT)
            self._reader = BodyReader(connection, invocation)
            self._reader.begin()

    def grew(self, invocation: Invocation, size: int) -> bool:
        """So much has been read to its place. Returns whether it is whole."""
        try:
            self._count(invocation, size)
        except EvenkeelError as e:  # not by its length, which was looked at before
            self._connection.refuse(e)
        if self._reader is None or invocation.received != invocation.length:
            return False
        self._stop_reader()
        return True

    def _stop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.end()
