"""Bytes to requests and answers to bytes: the HTTP side of the hot path, inside uvicorn's httptools protocol.

POST /invocations and /ping are answered here; every other request goes on to the ASGI application as uvicorn does it.
Both kinds may follow each other on one connection, pipelined too: an Invocation takes the place of uvicorn's own
request cycle in its pipeline, so the answers keep their order.

A request that arrives in one piece and whose head was parsed before, byte for byte, skips the parser altogether. Any
other way of arriving (in parts, chunked, pipelined) goes through the parser and ends in the same two calls.

This file owns the state of one connection. It never decodes a body.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.contract.lifecycle import CLEARS
from serve.contract.status import Block, Front, StatusPage
from serve.errors import BadRequest, BodyTimeout, BodyTooLarge, EvenkeelError, HeadersTooLarge, NotReady
from serve.front.heads import HEAD_BYTES_REMEMBERED, Head, Heads, Route, build
from serve.front.invocation import Invocation, Invocations
from serve.settings import Limits

HEAD_BYTES_MAX = 64 * 1024
JOIN_BYTES_MAX = 64 * 1024  # up to this size an answer's head and body are copied together into one write
LINGER_S = 2.0  # after a refusal in the middle of a body: time for the client to read it before the reset
ROUTES = {b"/invocations": Route.INVOKE, b"/ping": Route.PING}
METHODS = {Route.INVOKE: (b"POST",), Route.PING: (b"GET", b"POST", b"HEAD")}
PING_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
PING_OK_LAST = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
LENGTHS = tuple(b"%d\r\n\r\n" % i for i in range(4096))  # the end of a small answer's head, by its length
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_monotonic = time.monotonic


class Desk:
    """What all connections of a worker share."""

    def __init__(
        self, page: StatusPage, block: Block, invocations: Invocations, limits: Limits, default_accept: str | None
    ) -> None:
        self.page, self.block, self.invocations, self.limits = page, block, invocations, limits
        self.default_accept = default_accept
        self.heads = Heads()
        self.connections: set[FrontProtocol] = set()
        self.receiving_bytes = 0  # of bodies that are not complete yet, over all connections

    def sweep(self) -> None:
        """Close what is idle or has stopped sending. Called about once a second."""
        now_s = _monotonic()
        for connection in list(self.connections):
            connection.check_silence(now_s)
        self.block.count[Front.CONNECTIONS] = len(self.connections)
        self.block.value[Front.BEAT_S] = now_s


class FrontProtocol(HttpToolsProtocol):
    """One connection."""

    cycle: Any  # an Invocation, or uvicorn's own cycle

    def __init__(self, desk: Desk, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.desk = desk
        self._begin = desk.invocations.begin
        self._known = desk.heads.get
        self._receiving = False  # in the middle of a request's bytes
        self._in_head = False
        self._head_bytes = 0
        self._hot: Invocation | None = None  # the hot request whose bytes are arriving
        self._raw_head = b""  # of the message that starts with the current data, when it is all there
        # The head of the last request, its bytes, and the length of the whole: most clients repeat all three.
        self._usual, self._usual_length = b"", -1
        self._usual_head: Head
        self._heard_s = _monotonic()
        self._lingering = False  # refused for good; what still comes is thrown away

    # ---- bytes in ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.desk.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        cycle = self.cycle
        resting = not self._receiving and (cycle is None or cycle.response_complete)
        if resting and not self._lingering:
            if len(data) == self._usual_length and data.startswith(self._usual):
                self.cycle = invocation = Invocation(self, self._usual_head)
                self._begin(invocation, data[len(self._usual) :])
                return
            end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_REMEMBERED) + 4
            if end > 4:
                head = self._known(data[:end])
                if head is not None and len(data) == end + head.length:  # type: ignore[operator]
                    self.cycle = invocation = Invocation(self, head)
                    if head.route is Route.INVOKE:
                        self._usual, self._usual_head, self._usual_length = data[:end], head, len(data)
                        self._begin(invocation, data[end:])
                    else:
                        self._ping(invocation)
                    return
                self._raw_head = data[:end]
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Everything that is not one whole request with a known head."""
        self._heard_s = _monotonic()
        if self._lingering or self.transport.is_closing():
            return
        if self._in_head or not self._receiving:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._hot is None:
                self.handle_upgrade()
        except httptools.HttpParserError as e:
            self._refuse_connection(BadRequest(f"not valid HTTP: {e}"))
        self._raw_head = b""
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse_connection(HeadersTooLarge(f"the request's head is larger than {HEAD_BYTES_MAX} bytes"))

    def handle_upgrade(self) -> None:
        """Nothing here speaks another protocol; answer as if the Upgrade had not been asked for."""
        self._refuse_connection(BadRequest("Upgrade is not supported on this path"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving = self._in_head = True
        self._hot = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes later is the trailer of a chunked body, which nothing here needs
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        raw, self._raw_head, self._head_bytes = self._raw_head, b"", 0
        route = ROUTES.get(self.url.partition(b"?")[0])
        method = self.parser.get_method()
        if route is None or method not in METHODS[route] or self.parser.should_upgrade():
            super().on_headers_complete()
            return
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        head = build(route, method, self.headers, keep_alive, self.desk.default_accept)
        if raw:
            self.desk.heads.remember(raw, len(self.headers), head)
        existing = self.cycle
        self.cycle = self._hot = invocation = Invocation(self, head)
        invocation.complete = False
        if (head.length or 0) > self.desk.limits.body_bytes_max:
            invocation.refused = self._too_large()
        if existing is None or existing.response_complete:
            self._take_turn(invocation)
        else:
            invocation.turn = False
            self.flow.pause_reading()
            self.pipeline.appendleft((invocation, self.app))  # type: ignore[arg-type]

    def on_body(self, body: bytes) -> None:
        hot = self._hot
        if hot is None:
            if self.cycle is not None and not isinstance(self.cycle, Invocation):
                super().on_body(body)
            return
        if hot.refused is not None or hot.response_complete:
            return
        if hot.body is None:
            # Untouched pages of a large block take no memory, so a lying Content-Length costs nothing.
            hot.body = bytearray(hot.head.length or 0)
        end = hot.received + len(body)
        hot.body[hot.received : end] = body
        hot.received = end
        self.desk.receiving_bytes += len(body)
        if end > self.desk.limits.body_bytes_max:
            self._refuse_body(hot, self._too_large())
        elif self.desk.receiving_bytes > self.desk.limits.queue_bytes_max:
            self._refuse_body(hot, NotReady("too many large requests are being received at once", retry_after_s=1))

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is over the limit of {self.desk.limits.body_bytes_max} bytes (EVENKEEL_MAX_BODY_MB)")

    def on_message_complete(self) -> None:
        self._receiving = False
        hot = self._hot
        if hot is None:
            if not isinstance(self.cycle, Invocation):
                super().on_message_complete()
            return
        hot.complete = True
        self._hot = None
        if hot.turn and not hot.response_complete:
            self._start(hot)

    # ---- turns ---------------------------------------------------------------------------------------------------

    def _take_turn(self, invocation: Invocation) -> None:
        """Every earlier answer is out: this request may be answered as soon as it is complete, or refused already."""
        invocation.turn = True
        if invocation.refused is not None:
            self._refuse_body(invocation, invocation.refused)
        elif invocation.complete:
            self._start(invocation)
        elif invocation.head.expects_continue:
            self.transport.write(CONTINUE)

    def _start(self, invocation: Invocation) -> None:
        body, invocation.body = invocation.body or b"", None
        self.desk.receiving_bytes -= invocation.received
        if invocation.head.route is Route.INVOKE:
            self._begin(invocation, body)
        else:
            self._ping(invocation)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """uvicorn starts the next request of the pipeline here; it may be one of ours."""
        if isinstance(cycle, Invocation):
            self._take_turn(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def _done(self, invocation: Invocation) -> None:
        invocation.response_complete = True
        if not invocation.keep_alive:
            self.transport.close()
        elif self.pipeline or self.flow.read_paused:
            self.on_response_complete()
            self._unset_keepalive_if_required()  # silence is watched by the desk's sweep instead
        self._heard_s = invocation.started_s

    # ---- answers out ---------------------------------------------------------------------------------------------

    def answer(self, invocation: Invocation, start: bytes, body: bytes, extra: bytes = b"") -> None:
        """A 200. `start` ends where the value of Content-Length goes."""
        size = len(body)
        if invocation.keep_alive and not extra and size < len(LENGTHS):
            self.transport.write(start + LENGTHS[size] + body)
        else:
            close = b"" if invocation.keep_alive else b"connection: close\r\n"
            head = b"%b%d\r\n%b%b\r\n" % (start, size, extra, close)
            self.transport.writelines((head, body)) if size > JOIN_BYTES_MAX else self.transport.write(head + body)
        self._done(invocation)

    def answer_error(self, invocation: Invocation, error: EvenkeelError) -> None:
        """A small JSON error with Content-Length. The connection goes on unless the body was not read to its end."""
        if not invocation.complete:
            invocation.keep_alive = False
        self._write_error(error, invocation.keep_alive, invocation.head.is_head)
        if invocation.complete:
            self._done(invocation)
        else:
            invocation.response_complete = True
            self._linger()

    def _write_error(self, error: EvenkeelError, keep_alive: bool, is_head: bool = False) -> None:
        body = orjson.dumps({"error": {"code": error.code, "message": error.message[:2000]}})
        extra = b"" if keep_alive else b"connection: close\r\n"
        if error.retry_after_s is not None:
            extra += b"retry-after: %d\r\n" % error.retry_after_s
        head = b"%bcontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n" % (STATUS_LINE[error.status], len(body), extra)
        self.transport.write(head if is_head else head + body)

    def _ping(self, invocation: Invocation) -> None:
        invocation.caller = None
        invocation.started_s = _monotonic()
        verdict = self.desk.page.verdict()
        if verdict.ready:
            self.transport.write(PING_OK if invocation.keep_alive else PING_OK_LAST)
        else:
            error = NotReady(f"waiting until {CLEARS[verdict.reason]}" if CLEARS[verdict.reason] else verdict.reason.code)
            error.code = verdict.reason.code
            self._write_error(error, invocation.keep_alive, invocation.head.is_head)
        self._done(invocation)

    def _refuse_body(self, invocation: Invocation, error: EvenkeelError) -> None:
        """Refuse a request whose body is still coming: answer in its turn, then close."""
        invocation.refused = error
        if invocation.body is not None:
            self.desk.receiving_bytes -= invocation.received
            invocation.body = None
        if invocation.turn:
            invocation.caller = None
            self.desk.invocations.count_error(error)
            self.answer_error(invocation, error)

    def _refuse_connection(self, error: EvenkeelError) -> None:
        """What came is not a request. Nothing after it can be understood, so answer once and close."""
        self.desk.invocations.count_error(error)
        cycle = self.cycle
        if cycle is not None and cycle is not self._hot and not cycle.response_complete:
            cycle.keep_alive = False  # an earlier request is still being answered; its answer is the last
            self._lingering = True
            return
        if self._hot is not None:
            self._hot.caller, self._hot.response_complete = None, True
        self._write_error(error, keep_alive=False)
        self._linger()

    def _linger(self) -> None:
        """Close our side and throw away what still comes, so that the answer is not lost in a reset."""
        self._lingering = True
        self._heard_s = _monotonic()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # ---- time and ends -------------------------------------------------------------------------------------------

    def check_silence(self, now_s: float) -> None:
        """Close an idle connection, refuse a request that stopped half-way, end a lingering one."""
        silent_s = now_s - self._heard_s
        limits = self.desk.limits
        if self._lingering:
            if silent_s > LINGER_S and (self.cycle is None or self.cycle.response_complete):
                self.transport.close()
        elif self._receiving:
            if silent_s > limits.body_timeout_s and (self.cycle is None or self.cycle is self._hot or self._in_head):
                error = BodyTimeout(f"nothing came for {limits.body_timeout_s:g} s in the middle of a request")
                if self._hot is not None and self._hot.turn:
                    self._refuse_body(self._hot, error)
                else:
                    self._refuse_connection(error)
        elif (self.cycle is None or self.cycle.response_complete) and silent_s > limits.keep_alive_s:
            self.transport.close()

    def shutdown(self) -> None:
        """The worker is stopping: close when the request in flight has been answered."""
        if not self._receiving and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()
        elif self.cycle is not None:
            self.cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.desk.connections.discard(self)
        for cycle in [self.cycle, *(c for c, _ in self.pipeline)]:
            if isinstance(cycle, Invocation):
                self._leave(cycle)
        if isinstance(self.cycle, Invocation):
            self.cycle = None
        self._hot = None
        super().connection_lost(exc)

    def _leave(self, invocation: Invocation) -> None:
        if invocation.body is not None:
            self.desk.receiving_bytes -= invocation.received
            invocation.body = None
        if not invocation.response_complete:
            invocation.response_complete = True
            self.desk.invocations.abandon(invocation)
