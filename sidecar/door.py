"""The sidecar's side of a connection: uvicorn's protocol with bounds on heads, bodies, time and connections.

Probes must get through whatever else happens, so when all places are taken the connection that has waited longest
without asking anything makes room for the next. Requests here are few and small: each connection has one timer.
This file knows nothing of what is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.contract import strict
from serve.contract.health import error_body
from serve.errors import (
    BadRequest,
    BodyTimeout,
    BodyTooLarge,
    EvenkeelError,
    HeadersTooLarge,
    HeaderTimeout,
    TooManyConnections,
)

CONNECTIONS_MAX = 256  # at each door
MESSAGE_BYTES_MAX = 128 * 1024  # of a request, with everything around its body
HEAD_BYTES_MAX = 32 * 1024
HEADERS_MAX = 100
HEAD_TOO_LARGE = f"the request's head is larger than {HEAD_BYTES_MAX} bytes"
IDLE_S = 15.0  # without a request
REQUEST_S = 10.0  # from its first byte to its last
ANSWER_S = 30.0  # to be made and read


class Door:
    """The connections of one server, the oldest first."""

    def __init__(self, connections_max: int = CONNECTIONS_MAX) -> None:
        self.connections: dict[DoorProtocol, None] = {}
        self._most = connections_max

    def admit(self, newest: DoorProtocol) -> None:
        self.connections[newest] = None
        if len(self.connections) <= self._most:
            return
        leaving = next((c for c in self.connections if not c.busy), newest)
        self.connections.pop(leaving)
        leaving.refuse(TooManyConnections(f"{self._most} connections are open already"))


class DoorProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, door: Door, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door = door
        self._receiving = self._in_head = self._deaf = False
        self._size = 0  # bytes of the request in hand
        self._wrong: EvenkeelError | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(IDLE_S, transport.close)
        self._door.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connections.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        super().data_received(data)
        if self._receiving:
            self._size += len(data)
            if self._in_head and self._size > HEAD_BYTES_MAX:
                self.refuse(HeadersTooLarge(HEAD_TOO_LARGE))
            elif self._size > MESSAGE_BYTES_MAX:
                self.refuse(BodyTooLarge(f"the request is larger than {MESSAGE_BYTES_MAX} bytes"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving = self._in_head = True
        self._size = 0
        if not self.busy:
            self._wait(REQUEST_S, self._too_slow)

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= HEADERS_MAX:
            self._wrong = HeadersTooLarge(f"more than {HEADERS_MAX} headers")
            raise ValueError(self._wrong.message)
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES_MAX:  # it came at once
            self._wrong = HeadersTooLarge(HEAD_TOO_LARGE)
            raise ValueError(self._wrong.message)
        wrong = strict.fault(self.parser.get_http_version(), self.parser.get_method(), self.headers)
        if wrong:
            self._wrong = BadRequest(wrong)
            raise ValueError(wrong)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._receiving = False
        super().on_message_complete()
        self._wait(ANSWER_S, self.transport.abort)

    def on_response_complete(self) -> None:
        super().on_response_complete()  # which closes an idle connection soon, but waits for ever until the answer is read
        self._wait(ANSWER_S, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's word for what its parser, or we in its callbacks, did not understand."""
        self.refuse(self._wrong or BadRequest("not valid HTTP"))

    def refuse(self, error: EvenkeelError) -> None:
        """Say so and close. In the middle of an answer nothing is said: it ends, and the connection with it."""
        self._deaf = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            if cycle.response_started or cycle.more_body is False:
                return
            cycle.disconnected = True
            cycle.message_event.set()
        if not self.transport.is_closing():
            body = orjson.dumps(error_body(error))
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.status] + head + body)
            self.transport.close()

    def _too_slow(self) -> None:
        kind = HeaderTimeout if self._in_head else BodyTimeout
        self.refuse(kind(f"the request did not come within {REQUEST_S:g} s"))

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, then)
