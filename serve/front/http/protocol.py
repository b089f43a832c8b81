"""Bytes to requests: the HTTP side of the data port.

POST /invocations and /ping are answered here; what else there is goes on to the ASGI application, and what there is not is
refused here. A request that arrives in one piece and whose head was read before, byte for byte, skips the reading of heads
altogether (whole_requests.py). Any other way of arriving (in parts, chunked, ahead of its turn) goes through the shared
connection and ends in the same two calls.

This file owns what one connection reads; other answers than 200 are in answering.py, its bodies in bodies.py, its patience in
silence.py. It never decodes a body.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from evenkeel.serve.contract.status_page import Front
from evenkeel.serve.errors import EvenkeelError
from evenkeel.serve.front.http.answers import refusal
from evenkeel.serve.front.http.bodies import Bodies
from evenkeel.serve.front.http.request_head import Route, build
from evenkeel.serve.front.http.silence import Action, ConnectionView, Silence
from evenkeel.serve.front.http.whole_requests import WholeRequests
from evenkeel.serve.front.pages import routes
from evenkeel.serve.front.request.invocation import Invocation
from evenkeel.serve.http.application import ApplicationRequest
from evenkeel.serve.http.connection import CONTINUE
from evenkeel.serve.http.connection_state import RECEIVING, ConnectionState

if TYPE_CHECKING:
    from evenkeel.serve.front.http.connections import Connections
    from evenkeel.serve.http.strict import RequestHead

APPLICATION_BODY_BYTES_MAX = 64 * 1024  # nothing there takes a body, but a client may send one
SKIPPED_BYTES_MAX = 64 * 1024  # of the body of a refused request; beyond, the connection ends instead
_ARRIVED_PARSED = int(Front.ARRIVED_PARSED)
_monotonic = time.monotonic


class FrontProtocol(WholeRequests):
    """One connection of the data port."""

    request: Invocation | ApplicationRequest | None

    def __init__(self, connections: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(connections, *args, **kwargs)
        self.silence = Silence(connections.limits, _monotonic())
        self.bodies = Bodies(self, connections)
        self.address = ""  # of the client

    # ---- bytes in ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self.connections.admit(self)

    def begin(self, head: RequestHead, raw: bytes) -> None:
        place = routes.find(head.method, head.target, self.connections.many)
        route, refused = (place, None) if isinstance(place, Route) else (Route.NOWHERE, place)
        if route is not Route.PING and self.connections.reserve and self in self.connections.reserve:
            raise self.connections.too_many()
        self.silence.body_begins(self.began_s)
        if route is Route.APPLICATION:
            self.request = ApplicationRequest(head, APPLICATION_BODY_BYTES_MAX)
            self.request.keep_alive = head.keep_alive and not self._leaving
            return
        keep_alive, accept = head.keep_alive and not self._leaving, self.connections.default_accept
        hot_head = build(route, head.method, head.values, keep_alive, accept)
        if route is Route.NAMED:
            hot_head = dataclasses.replace(hot_head, model_name=routes.model_name(head.target))
        self.request = invocation = Invocation(self, hot_head, raw)
        invocation.length = head.length
        invocation.delimited = head.version == "1.1"
        invocation.refused = refused or self.bodies.too_large(head.length or 0)
        if invocation.refused is None and keep_alive and route is not Route.NAMED:  # a shape for each name would be too many
            self._shape = self.connections.shapes.note(raw, head, hot_head)

    def take_body(self, piece: bytes) -> None:
        if isinstance(self.request, Invocation):
            self.bodies.take(self.request, piece)
        elif self.request is not None:
            self.request.append(piece)

    def wait_for_body(self) -> None:
        request = self.request
        if isinstance(request, Invocation):
            if request.refused is not None:
                if self._owes_continue or request.skipped + self.body_bytes_left > SKIPPED_BYTES_MAX:
                    self.refuse(request.refused)  # what would still come is not worth waiting for
                return
            self.bodies.read_directly(request, self.body_bytes_left)
        self.ask_for_body()

    def body_grew(self, invocation: Invocation, size: int) -> None:
        """So much of its body has been read past us."""
        self.silence.heard_s = _monotonic()
        self.silence.arrived += size
        if self.bodies.grew(invocation, size):
            self._whole()

    def serve(self) -> None:
        request = self.request
        if isinstance(request, ApplicationRequest):
            request.start(self)
            return
        assert request is not None, "what is served has come"
        body = self.bodies.finish(request)
        if request.refused is not None:
            request.caller = None
            self.connections.invocations.outcomes.count_error(request.refused)
            self.answer_error(request, request.refused)
        elif request.head.route is Route.PING:
            self.answer_ping(request)
        elif request.head.route is Route.NAMED:
            self.connections.invocations.begin_named(request, body)
        else:
            self.connections.block.count[_ARRIVED_PARSED] += 1
            self._row_batcher.arrive(request, body)

    def resume_writing(self) -> None:
        super().resume_writing()
        if isinstance(self.request, Invocation):
            self.connections.invocations.outcomes.streams.resume(self.request)  # if it is answered in parts

    def refusal(self, error: EvenkeelError) -> bytes:
        self.connections.invocations.outcomes.count_error(error)
        hot = self.request if self.state in (ConnectionState.BODY, ConnectionState.DIRECT) else None
        return refusal(error, False, isinstance(hot, Invocation) and hot.head.is_head)

    # ---- time and ends -------------------------------------------------------------------------------------------

    def excuse(self, away_s: float) -> None:
        """What came meanwhile has not been read yet."""
        self.began_s += away_s
        self.silence.excuse(away_s)

    def check_silence(self, now_s: float) -> None:
        """Close an idle connection, refuse a request that stopped half-way, end a lingering or stalled one."""
        request, hurried = self.request, self._leaving and (self.state in RECEIVING or self in self.connections.reserve)
        unanswered = isinstance(request, Invocation) and request.stream is None and request.delimited
        unread = self.transport.get_write_buffer_size()
        action = self.silence.look(now_s, ConnectionView(self.state, self.began_s, hurried, unread, request, unanswered))
        if isinstance(action, EvenkeelError):
            self.refuse(action)
        elif action is Action.ABORT:
            self.transport.abort()
        elif action is Action.CLOSE:
            self.close()
        elif action is Action.PROBE:
            self.transport.write(CONTINUE)

    @property
    def idle_since_s(self) -> float | None:
        """None: it is not idle, or was not yet when somebody last looked."""
        return self.silence.quiet_since_s or None if self.state is ConnectionState.IDLE else None

    @property
    def is_idle(self) -> bool:
        return self.state is ConnectionState.IDLE

    @property
    def is_receiving(self) -> bool:
        """Whether it holds memory for a body that is not complete yet."""
        held = self.request.body if isinstance(self.request, Invocation) else None
        return held is not None and self.state in (ConnectionState.BODY, ConnectionState.DIRECT)

    def make_room(self) -> None:
        """It is idle, and its place is needed now: a client that has not read its last answer is not waited for."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.close()

    def restrict(self) -> None:
        """Beyond the limit of connections: the first answer is the last, and only /ping gets one."""
        self._leaving = True

    def turn_away(self) -> None:
        """Its place is needed: the shortest of answers where one is owed, and the end."""
        if self.state is ConnectionState.IDLE or self.state in RECEIVING:
            self.let_go()
            self.transport.write(self.refusal(self.connections.too_many()))
        self.close()

    def shutdown(self) -> None:
        """The worker is stopping: close when what has begun to arrive has been answered."""
        self.answer_is_last()
        self.connections.stop()
        if self.state in (ConnectionState.IDLE, ConnectionState.STALLED) and not self._held:
            self.close()
        elif self.busy or self.state in (ConnectionState.BODY, ConnectionState.DIRECT):
            self.be_last()

    def be_last(self) -> None:
        if isinstance(self.request, ApplicationRequest):
            self.request.be_last()
        elif self.request is not None:
            self.request.keep_alive = False

    def let_go(self) -> None:
        if self.state in (ConnectionState.BODY, ConnectionState.DIRECT) and isinstance(self.request, Invocation):
            self.bodies.let_go(self.request)

    def cut_short(self) -> str:
        request = self.request
        if self.state is ConnectionState.HEAD or not isinstance(request, Invocation) or request.length is None:
            return super().cut_short()
        return f"the body ended after {request.received} of the {request.length} bytes that Content-Length announced"

    def eof_received(self) -> bool:
        self.silence.heard_s = _monotonic()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.forget(self)
        self.let_go()
        request = self.request
        if self.busy and isinstance(request, ApplicationRequest):
            request.leave()
        elif self.busy and isinstance(request, Invocation) and request.caller is not None:
            self.connections.invocations.cancellation.abandon(request)
        super().connection_lost(exc)
