"""The sidecar's side of a connection: the shared connection, with bounds that suit small and few requests.

Probes must get through whatever else happens, so when all places are taken the connection that has waited longest
without asking anything makes room for the next. Each connection has one timer, set by the state it is in.
This file knows nothing of what is served.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from evenkeel.serve.contract.inference_protocol import error_body
from evenkeel.serve.errors import BodyTimeout, EvenkeelError, HeaderTimeout, TooManyConnections
from evenkeel.serve.http.application import ApplicationRequest
from evenkeel.serve.http.connection import Connection
from evenkeel.serve.http.connection_state import RECEIVING, ConnectionState
from evenkeel.serve.http.strict import RequestHead

CONNECTIONS_MAX = 256  # on each of its ports
MESSAGE_BYTES_MAX = 128 * 1024  # of a request, its head and its body
IDLE_S = 15.0  # without a request
REQUEST_S = 10.0  # from its first byte to its last
ANSWER_S = 30.0  # to be made and read
LINGER_S = 2.0  # for a refusal to be read


class ConnectionLimits:
    """The connections of one server, the oldest first."""

    def __init__(self, connections_max: int = CONNECTIONS_MAX) -> None:
        self.connections: dict[SidecarProtocol, None] = {}
        self._most = connections_max

    def admit(self, newest: SidecarProtocol) -> None:
        self.connections[newest] = None
        if len(self.connections) <= self._most:
            return
        leaving = next((c for c in self.connections if not c.busy), newest)
        self.connections.pop(leaving)
        leaving.turn_away(TooManyConnections(f"{self._most} connections are open already"))


class SidecarProtocol(Connection):
    """One connection."""

    head_bytes_max = 32 * 1024
    headers_max = 100
    request: ApplicationRequest | None

    def __init__(self, limits: ConnectionLimits, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._set_timer(ConnectionState.IDLE)
        self._limits.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.connections.pop(self, None)
        if self.busy and self.request is not None:
            self.request.leave()
        super().connection_lost(exc)

    # ---- requests ------------------------------------------------------------------------------------------------

    def begin(self, head: RequestHead, raw: bytes) -> None:
        self.request = ApplicationRequest(head, MESSAGE_BYTES_MAX - len(raw))

    def take_body(self, piece: bytes) -> None:
        assert self.request is not None, "a body belongs to a request"
        self.request.append(piece)

    def wait_for_body(self) -> None:
        self.ask_for_body()

    def serve(self) -> None:
        assert self.request is not None, "what is served has come"
        self.request.start(self)

    def refusal(self, error: EvenkeelError) -> bytes:
        body = orjson.dumps(error_body(error))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        return STATUS_LINE[error.status] + head + body

    # ---- time and ends -------------------------------------------------------------------------------------------

    def move(self, target: ConnectionState) -> None:
        begun = self.state in RECEIVING
        super().move(target)
        if not (begun and target in RECEIVING):  # a request has one time from its first byte to its last
            self._set_timer(target)

    def _set_timer(self, state: ConnectionState) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if state in RECEIVING:
            self._timer = self.loop.call_later(REQUEST_S, self._too_slow)
        elif state is ConnectionState.IDLE:
            self._timer = self.loop.call_later(IDLE_S, self.close)
        elif state is not ConnectionState.CLOSED:
            self._timer = self.loop.call_later(LINGER_S if state is ConnectionState.LINGERING else ANSWER_S, self.transport.abort)

    def _too_slow(self) -> None:
        kind = HeaderTimeout if self.state is ConnectionState.HEAD else BodyTimeout
        self.refuse(kind(f"the request did not come within {REQUEST_S:g} s"))

    def turn_away(self, error: EvenkeelError) -> None:
        """Its place is needed."""
        if self.state is ConnectionState.IDLE or self.state in RECEIVING:
            self.transport.write(self.refusal(error))
        self.close()

    def shutdown(self) -> None:
        """The server is stopping: close when what has begun to arrive has been answered."""
        if self.busy:
            self.be_last()
        elif self.state not in RECEIVING:
            self.close()
