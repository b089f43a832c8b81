"""The hot half of a connection: a request that comes whole, under a head of a shape that is known, and an answer of 200.

Most requests are no more than this: their bytes are compared with those of the last one, or their head matches the pattern of
the last one's shape (head_shapes.py), and their answer is one write. Whatever comes otherwise goes to the shared connection; see
protocol.py.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from evenkeel.serve.front.http.answering import Answering
from evenkeel.serve.front.http.head_shapes import SHAPED_BYTES_MAX
from evenkeel.serve.front.http.request_head import NO_HEAD, Route
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
_monotonic = time.monotonic


class WholeRequests(Answering):
    """Compares, matches, answers. `_usual` and `_usual_head`: how the last request of this connection began, as bytes and read;
    `_usual_bytes`: how long it was."""

    def __init__(self, connections: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections = connections
        self._row_batcher = connections.invocations.row_batcher
        self._shape = connections.shapes.latest
        self._usual, self._usual_bytes, self._usual_head = b"", -1, NO_HEAD
        self._leaving = connections.leaving  # the next answer is the last

    def data_received(self, data: bytes) -> None:
        if self.state is IDLE:
            usual = self._usual
            if len(data) == self._usual_bytes and data.startswith(usual):
                self.state = ANSWERING
                self.request = invocation = Invocation(self, self._usual_head, usual)
                self._row_batcher.arrive(invocation, data[len(usual) :])
                return
            if not self._leaving and self._is_known(data):
                return
        self.silence.heard_s = _monotonic()
        self.silence.arrived += len(data)
        super().data_received(data)

    def _is_known(self, data: bytes) -> bool:
        """Whether this is one whole request with a head of a known shape; then it is on its way."""
        shape = self._shape
        match = shape.match(data, 0, SHAPED_BYTES_MAX)
        if match is None:
            other = self.connections.shapes.find(data)
            if other is None:
                return False
            self._shape = shape = other
            match = shape.match(data, 0, SHAPED_BYTES_MAX)
            assert match is not None, "it was just found"
        end, size = match.end(), int(match[1] or 0)
        if len(data) != end + size or size > self.connections.limits.body_bytes_max:
            return False
        raw, head = match[0], shape.head
        self.state = ANSWERING
        self.request = invocation = Invocation(self, head, raw)
        if head.route is Route.INVOKE:
            self._usual, self._usual_bytes, self._usual_head = raw, len(data), head
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
        self._usual_bytes = -1  # of no request
