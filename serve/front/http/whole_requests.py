"""The hot half of a connection: a request that comes whole, under a head that was read before, and an answer of 200.

Most requests are no more than this: their bytes are compared with those of the last one, or looked up among the heads that this
worker knows, and their answer is one write. Whatever comes otherwise goes to the shared connection; see protocol.py.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from evenkeel.serve.front.http.answering import Answering
from evenkeel.serve.front.http.request_head import HEAD_BYTES_REMEMBERED, Route, Usual, build
from evenkeel.serve.front.http.silence import JUST_NOW
from evenkeel.serve.front.request.invocation import Invocation
from evenkeel.serve.http.connection_state import ConnectionState, step

if TYPE_CHECKING:
    from evenkeel.serve.front.http.connections import Connections

JOIN_BYTES_MAX = 64 * 1024  # up to this size an answer's head and body are copied together into one write
LENGTHS = tuple(b"%d\r\n\r\n" % i for i in range(4096))  # the end of a small answer's head, by its length
# The steps of the table that are made here, looked up once: the state is set without asking again.
ANSWERING = step(ConnectionState.IDLE, ConnectionState.ANSWERING)
IDLE = step(ConnectionState.ANSWERING, ConnectionState.IDLE)
NO_USUAL = Usual(b"", -1, build(Route.NOWHERE, b"", {}, 0, False, None))
_monotonic = time.monotonic


class WholeRequests(Answering):
    """Compares, looks up, answers. `_usual`: what the last request of this connection began with."""

    def __init__(self, connections: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections = connections
        self._row_batcher = connections.invocations.row_batcher
        self._head_of = connections.heads.get
        self._usual = NO_USUAL
        self._leaving = connections.leaving  # the next answer is the last

    def data_received(self, data: bytes) -> None:
        usual = self._usual
        if self.state is IDLE:
            if len(data) == usual.length and data.startswith(usual.raw):
                self.state = ANSWERING
                self.request = invocation = Invocation(self, usual.head)
                self._row_batcher.arrive(invocation, data[len(usual.raw) :])
                return
            if not self._leaving and self._is_known(data):
                return
        self.silence.heard_s = _monotonic()
        self.silence.arrived += len(data)
        super().data_received(data)

    def _is_known(self, data: bytes) -> bool:
        """Whether this is one whole request with a remembered head; then it is on its way."""
        end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_REMEMBERED) + 4
        head = self._head_of(data[:end])
        if head is None or len(data) != end + head.length:  # type: ignore[operator]  # only heads with a length are remembered
            return False
        self.state = ANSWERING
        self.request = invocation = Invocation(self, head)
        if head.route is Route.INVOKE:
            self._usual = Usual(data[:end], len(data), head)
            self._row_batcher.arrive(invocation, data[end:])
        else:
            self.answer_ping(invocation)
        return True

    def answer(self, invocation: Invocation, start: bytes, body: bytes, extra: bytes = b"") -> None:
        """A 200. `start` ends where the value of Content-Length goes."""
        size = len(body)
        if invocation.keep_alive and not extra and size < len(LENGTHS):
            self.state = IDLE  # before the write, which may find that the client takes nothing
            self.silence.quiet_since_s = JUST_NOW
            self.transport.write(start + LENGTHS[size] + body)
            if self._held or self.flow.read_paused:
                self.loop.call_soon(self._go_on)
            return
        if not self.transport.is_closing():
            close = b"" if invocation.keep_alive else b"connection: close\r\n"
            if size > JOIN_BYTES_MAX:
                self.connections.make_room_for_answer(size)
            head = b"%b%d\r\n%b%b\r\n" % (start, size, extra, close)
            self.transport.writelines((head, body)) if size > JOIN_BYTES_MAX else self.transport.write(head + body)
        self.answered(invocation.keep_alive)

    def answer_is_last(self) -> None:
        self._leaving = True
        self._usual = NO_USUAL
