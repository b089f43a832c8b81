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
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.contract import strict
from serve.contract.lifecycle import Reason, Verdict
from serve.errors import (
    BadRequest,
    BodyTimeout,
    BodyTooLarge,
    EvenkeelError,
    HeadersTooLarge,
    HeaderTimeout,
)
from serve.front import answers
from serve.front.answers import CONTINUE, PING_OK, PING_OK_LAST, name_line, refusal, stream_head
from serve.front.body_reader import DIRECT_FROM, BodyReader, room
from serve.front.desk import Desk
from serve.front.heads import HEAD_BYTES_REMEMBERED, Head, Route, build
from serve.front.patience import GRACE_S, Patience, Taking
from serve.front.request import Invocation
from serve.front.streams import Stream, last_words

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 256  # each takes far more memory than its bytes
# What a body may have around its bytes when it is chunked (sizes, extensions, trailers): so much, and so much a byte. A
# chunk of one byte has 5 around it.
FRAMING_BYTES_MAX, FRAMING_SHARE_MAX = 64 * 1024, 16
SLICE_BYTES = 16 * 1024  # a chunked body is parsed in such pieces, so that its framing is counted as it comes
JOIN_BYTES_MAX = 64 * 1024  # up to this size an answer's head and body are copied together into one write
LINGER_S = 2.0  # after a refusal in the middle of a body: time for the client to read it before the reset
LINGER_S_MAX = 30.0  # even if it goes on sending
ROUTES = {b"/invocations": Route.INVOKE, b"/ping": Route.PING}
HEAD_TOO_LARGE = f"the request's head is larger than {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} headers"
FRAMING_TOO_LARGE = "the chunked body has too much around its bytes: larger chunks, no extensions"
METHODS = {Route.INVOKE: (b"POST",), Route.PING: (b"GET", b"POST", b"HEAD")}
LENGTHS = tuple(b"%d\r\n\r\n" % i for i in range(4096))  # the end of a small answer's head, by its length
_monotonic = time.monotonic


class FrontProtocol(HttpToolsProtocol):
    """One connection. `cycle` is the last request parsed, `_current` the one whose turn to be answered it is."""

    cycle: Any  # an Invocation, or uvicorn's own cycle; likewise `_current`

    def __init__(self, desk: Desk, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.desk = desk
        self._arrive = desk.invocations.arrive
        self._known = desk.heads.get
        self._current: Any = None
        self._receiving = False  # in the middle of a request's bytes
        self._in_head = False
        self._head_bytes = self._head_arrived = 0  # by the parser's count, and unparsed
        self._hot: Invocation | None = None  # the hot request whose bytes are arriving
        self._reader: BodyReader | None = None  # reads in our place while the rest of a large body comes
        self._raw_head = b""  # of the message that starts with the current data, when it is all there
        # The head of the last request, its bytes, and the length of the whole: most clients repeat all three. The length
        # is -1 whenever what comes next may not be taken as a whole request at once.
        self._usual, self._usual_length = b"", -1
        self._usual_head: Head
        # When the client last said something of a request or was answered, and when the request in hand began.
        self._heard_s = self.began_s = _monotonic()
        self._arrived = self._framing = self._body_bytes = 0  # of the body that is coming
        self._chunked = self._handed_over = False  # the latter: to the application
        grace_s, rate = max(GRACE_S, desk.limits.body_timeout_s), desk.limits.body_rate
        self._sending, self._taking = Patience(grace_s, rate), Taking(grace_s, rate)  # the client, its bodies and our answers
        self._wrong: EvenkeelError | None = None  # why we stopped the parser
        self._lingering = False  # nothing more is read as HTTP; what still comes is thrown away
        self._leaving = desk.leaving  # the next answer is the last

    @property
    def _busy(self) -> bool:
        return self._current is not None and not self._current.response_complete

    # ---- bytes in ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.desk.admit(self)

    def data_received(self, data: bytes) -> None:
        if len(data) == self._usual_length and self.cycle.response_complete and data.startswith(self._usual):
            self.cycle = self._current = invocation = Invocation(self, self._usual_head)
            self._arrive(invocation, data[len(self._usual) :])
            return
        cycle = self.cycle
        resting = not self._receiving and (cycle is None or cycle.response_complete)
        if resting and not self._lingering and not self._leaving and not self.flow.write_paused:
            end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_REMEMBERED) + 4
            if end > 4:
                head = self._known(data[:end])
                if head is not None and len(data) == end + head.length:  # type: ignore[operator]
                    self.cycle = self._current = invocation = Invocation(self, head)
                    if head.route is Route.INVOKE:
                        self._usual, self._usual_head, self._usual_length = data[:end], head, len(data)
                        self._arrive(invocation, data[end:])
                    else:
                        self._ping(invocation)
                    return
                self._raw_head = data[:end]
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Everything that is not one whole request with a known head."""
        self._usual_length = -1
        if self._receiving or self._lingering:  # empty lines between requests keep nobody's connection
            self._heard_s = _monotonic()
            self._arrived += len(data)
        while data and not self._lingering and not self.transport.is_closing():
            was_in_head = self._in_head
            piece = data[:SLICE_BYTES] if self._chunked else data
            if self._receiving and not was_in_head:
                self._framing += len(piece)  # less what `on_body` finds in it
            try:
                self.parser.feed_data(piece)
                data = data[len(piece) :]
                if was_in_head and self._in_head:
                    self._count_arrived(len(piece))
                elif self._framing > FRAMING_BYTES_MAX and self._receiving:
                    self._refuse_connection(BadRequest(FRAMING_TOO_LARGE))
            except httptools.HttpParserUpgrade as e:
                data = strict.without_offer(self.parser.get_method(), self.url, self.headers) + data[e.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError as e:
                self._refuse_connection(self._wrong or BadRequest(f"not valid HTTP: {e}"))
        self._raw_head = b""
        hot = self._hot
        if hot is not None and hot.body is not None and hot.turn and (hot.head.length or 0) - hot.received >= DIRECT_FROM:
            self._read_directly(hot)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving = self._in_head = True
        self._heard_s = self.began_s = _monotonic()
        self._head_bytes = self._head_arrived = self._framing = self._body_bytes = 0
        self._chunked = self._handed_over = False
        self._hot = None

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        if len(self.headers) >= HEADERS_MAX:
            self._stop(HeadersTooLarge(HEAD_TOO_LARGE))
        if self._in_head:  # what comes later is the trailer of a chunked body, which nothing here needs
            super().on_header(name, value)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            self._stop(HeadersTooLarge(HEAD_TOO_LARGE))

    def _stop(self, error: EvenkeelError) -> NoReturn:
        """Out of the parser's callbacks: it stops, and `_parse` says why."""
        self._wrong = error
        raise ValueError(error.message)

    def _count_arrived(self, size: int) -> None:
        """Bytes of a head that the parser keeps to itself, because a header in it has not ended yet."""
        self._head_arrived += size
        if self._head_arrived > HEAD_BYTES_MAX:
            self._refuse_connection(HeadersTooLarge(HEAD_TOO_LARGE))

    def on_headers_complete(self) -> None:
        self._in_head = False
        method, version = self.parser.get_method(), self.parser.get_http_version()
        wrong = strict.fault(version, method, self.headers)
        if wrong:
            self._stop(BadRequest(wrong))
        if self.parser.should_upgrade():
            return
        raw, self._raw_head = self._raw_head, b""
        self._arrived = 0
        self._sending.renew(self._heard_s)
        route = ROUTES.get(self._path())
        if route is not Route.PING and self in self.desk.reserve:
            self._stop(self.desk.too_many())
        if route is None or method not in METHODS[route]:
            self._hand_to_application()
            return
        lasting = version != "1.0" and self.parser.should_keep_alive()
        head = build(route, method, self.headers, lasting and not self._leaving, self.desk.default_accept)
        self._chunked = head.length is None
        if raw:
            self.desk.heads.remember(raw, len(self.headers), head)
        existing = self.cycle
        self.cycle = self._hot = invocation = Invocation(self, head)
        invocation.complete = False
        if self.parser.get_http_version() == "1.0":
            invocation.delimited = False
        if (head.length or 0) > self.desk.limits.body_bytes_max:
            invocation.refused = self._too_large()
        if (existing is None or existing.response_complete) and not self.flow.write_paused:
            self._take_turn(invocation)
        else:
            self._queue(invocation)

    def _path(self) -> bytes:
        """Of a request target in origin-form, or in absolute-form as proxies send it (RFC 9112, 3.2.2)."""
        if self.url[:1] == b"/":
            return self.url.partition(b"?")[0]
        try:
            return httptools.parse_url(self.url).path or b"/"
        except httptools.HttpParserError:
            self._stop(BadRequest("the request's target is not a path"))

    def _hand_to_application(self) -> None:
        try:
            super().on_headers_complete()
        except httptools.HttpParserError:
            self._stop(BadRequest("the request's target is not a path"))
        self._handed_over = True
        self._chunked = any(name == b"transfer-encoding" for name, _ in self.headers)

    def on_body(self, body: bytes) -> None:
        hot = self._hot
        size = len(body)
        self._framing = max(0, self._framing - FRAMING_SHARE_MAX * size)
        self._body_bytes += size
        if hot is None:
            if self._body_bytes > self.desk.limits.body_bytes_max:
                self._stop(self._too_large())
            if self.cycle is not None and not isinstance(self.cycle, Invocation):
                super().on_body(body)
            return
        if hot.refused is not None or hot.response_complete:
            return
        if hot.body is None:
            hot.body = room(hot.head.length or 0)
        hot.body[hot.received : hot.received + size] = body
        self._note_received(hot, size)

    def _note_received(self, hot: Invocation, size: int) -> None:
        hot.received += size
        self.desk.receiving_bytes += size
        if hot.received > self.desk.limits.body_bytes_max:
            self._refuse_body(hot, self._too_large())
        elif self.desk.receiving_bytes > self.desk.limits.queue_bytes_max:
            self.desk.make_room_for_body(self)

    def _read_directly(self, hot: Invocation) -> None:
        """Its length is known and its turn has come: what is still to come goes straight to its place."""
        if hot.keep_alive and not self._lingering and not self.flow.read_paused and not self.transport.is_closing():
            self._reader = BodyReader(self, hot)
            self._reader.begin()

    def body_grew(self, hot: Invocation, size: int) -> None:
        """So much of the body has been read to its place."""
        self._heard_s = _monotonic()
        self._arrived += size
        self._note_received(hot, size)
        if self._reader is not None and hot.received == hot.head.length:
            self._stop_reader()
            self.parser = httptools.HttpRequestParser(self)  # the other one still waits for this body
            self.on_message_complete()

    def _stop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.end()

    @property
    def is_receiving(self) -> bool:
        """Whether it holds memory for a body that is not complete yet."""
        return self._hot is not None and self._hot.body is not None

    def refuse_receiving(self, error: EvenkeelError) -> None:
        assert self._hot is not None, "asked only of those that are receiving"
        self._refuse_body(self._hot, error)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is over the limit of {self.desk.limits.body_bytes_max} bytes (EVENKEEL_MAX_BODY_MB)")

    def on_message_complete(self) -> None:
        self._receiving = False
        hot = self._hot
        if self.parser.should_upgrade():
            return
        if hot is None:
            if not isinstance(self.cycle, Invocation):
                super().on_message_complete()
            return
        hot.complete = True
        self._hot = None
        if hot.turn and not hot.response_complete:
            self._start(hot)

    # ---- turns ---------------------------------------------------------------------------------------------------

    def _queue(self, invocation: Invocation) -> None:
        """Wait for the answers before this one. Reading stops, so at most one read's worth of requests waits."""
        invocation.turn = False
        self.flow.pause_reading()
        self.pipeline.appendleft((invocation, self.app))  # type: ignore[arg-type]

    def _take_turn(self, invocation: Invocation) -> None:
        """Every earlier answer is out: this request may be answered as soon as it is complete, or refused already."""
        self._current = invocation
        invocation.turn = True
        if invocation.refused is not None:
            self._refuse(invocation, invocation.refused)
        elif invocation.complete:
            self._start(invocation)
        else:
            self.flow.resume_reading()
            self._sending.renew(_monotonic())
            if invocation.head.expects_continue:
                self.transport.write(CONTINUE)

    def _start(self, invocation: Invocation) -> None:
        body, invocation.body = invocation.body or b"", None
        self.desk.receiving_bytes -= invocation.received
        if invocation.head.route is Route.INVOKE:
            self.desk.invocations.begin(invocation, body)
        else:
            self._ping(invocation)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """uvicorn starts a request here; out of the pipeline it may be one of ours."""
        if isinstance(cycle, Invocation):
            self._take_turn(cycle)
        else:
            self._current = cycle
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """uvicorn's own cycles end here. Silence is watched by the desk's sweep, so no timer is set."""
        self._heard_s = _monotonic()
        self.loop.call_soon(self._next)

    def _done(self, invocation: Invocation) -> None:
        invocation.response_complete = True
        self._heard_s = invocation.started_s or _monotonic()
        if not invocation.keep_alive:
            self.transport.close()
        elif self.pipeline or self.flow.read_paused:
            self.loop.call_soon(self._next)  # not now: a long pipeline would answer itself ever deeper in the stack

    def _next(self) -> None:
        """Go on with what waits here, once the current request is answered and the client takes its answers."""
        if self._busy or self.flow.write_paused or self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._usual_length = -1

    def resume_writing(self) -> None:
        super().resume_writing()
        if isinstance(self._current, Invocation):
            self.desk.invocations.streams.resume(self._current)  # if it is answered in parts
        self.loop.call_soon(self._next)

    # ---- answers out ---------------------------------------------------------------------------------------------

    def answer(self, invocation: Invocation, start: bytes, body: bytes, extra: bytes = b"") -> None:
        """A 200. `start` ends where the value of Content-Length goes."""
        size = len(body)
        if invocation.keep_alive and not extra and size < len(LENGTHS):
            self.transport.write(start + LENGTHS[size] + body)
            invocation.response_complete = True
            self._heard_s = invocation.started_s
            if self.pipeline or self.flow.read_paused:
                self.loop.call_soon(self._next)
            return
        if not self.transport.is_closing():
            close = b"" if invocation.keep_alive else b"connection: close\r\n"
            if size > JOIN_BYTES_MAX:
                self.desk.make_room_for_answer(size)
            head = b"%b%d\r\n%b%b\r\n" % (start, size, extra, close)
            self.transport.writelines((head, body)) if size > JOIN_BYTES_MAX else self.transport.write(head + body)
        self._done(invocation)

    def answer_error(self, invocation: Invocation, error: EvenkeelError) -> None:
        """A small JSON error with Content-Length. The connection goes on unless the body was not read to its end.

        In the middle of a stream it is one more record, and the connection ends without the stream's own end.
        """
        if invocation.stream is not None:
            self._break_stream(invocation, invocation.stream, error)
        elif invocation.complete:
            self.transport.write(refusal(error, invocation.keep_alive, invocation.head.is_head, name_line(invocation)))
            self._done(invocation)
        else:
            invocation.response_complete = True
            self.transport.write(refusal(error, False, invocation.head.is_head, name_line(invocation)))
            self._linger()

    def open_stream(self, invocation: Invocation, content_type: str, extra: bytes) -> None:
        """A 200 whose body comes in parts."""
        if not invocation.delimited:
            invocation.keep_alive = False
        self.transport.write(stream_head(invocation, content_type, extra))

    def write_part(self, invocation: Invocation, part: bytes) -> bool:
        """One chunk, at once. Returns whether the client keeps up."""
        self.transport.write(answers.part(invocation, part))
        return not self.flow.write_paused

    def end_stream(self, invocation: Invocation) -> None:
        if invocation.delimited:
            self.transport.write(b"0\r\n\r\n")
        self._done(invocation)

    def _break_stream(self, invocation: Invocation, stream: Stream, error: EvenkeelError) -> None:
        words = last_words(stream, error)
        if words:
            self.write_part(invocation, words)
        invocation.keep_alive = False
        self._done(invocation)

    def _ping(self, invocation: Invocation) -> None:
        invocation.caller = None
        invocation.started_s = _monotonic()
        verdict = self.desk.page.verdict()
        if verdict.ready and self.desk.invocations.engines.reach.is_apart:  # whoever else is ready: not this worker
            verdict = Verdict(False, Reason.NOT_CONNECTED)
        if verdict.ready:
            self.transport.write(PING_OK if invocation.keep_alive else PING_OK_LAST)
        else:
            self.transport.write(refusal(answers.not_ready(verdict), invocation.keep_alive, invocation.head.is_head))
        self._done(invocation)

    def _refuse_body(self, invocation: Invocation, error: EvenkeelError) -> None:
        """Refuse a request whose body is still coming: in its turn, which may be now."""
        invocation.refused = error
        self._let_go_of_body(invocation)
        if invocation.turn:
            self._refuse(invocation, error)

    def _refuse(self, invocation: Invocation, error: EvenkeelError) -> None:
        invocation.caller = None
        self.desk.invocations.count_error(error)
        self.answer_error(invocation, error)

    def _refuse_connection(self, error: EvenkeelError) -> None:
        """What came is not a request. Nothing after it can be understood: answer in turn, and close."""
        self._lingering = True
        self._usual_length = -1
        if self._receiving and self._handed_over and self._end_application(error):
            return
        broken, self._hot = self._hot, None
        if broken is None or broken.response_complete:
            self.cycle = broken = Invocation(self, NO_HEAD)
            broken.complete = False
            if self._busy or self.pipeline:
                self._queue(broken)
        self._refuse_body(broken, error)

    def _end_application(self, error: EvenkeelError) -> bool:
        """The body of a request to the application is broken. False: that request is not the one to be answered now."""
        cycle = self.cycle
        if cycle is None or isinstance(cycle, Invocation) or cycle is not self._current:
            return False
        if not cycle.response_started:  # else it has its answer already, and gets no second one
            self.desk.invocations.count_error(error)
            self.transport.write(refusal(error, False))
        cycle.disconnected = cycle.response_complete = True
        cycle.message_event.set()
        self._linger()
        return True

    def _linger(self) -> None:
        """Close our side and throw away what still comes, so that the answer is not lost in a reset."""
        self._lingering = True
        self._usual_length = -1
        self._heard_s = self.began_s = _monotonic()
        self.flow.resume_reading()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    # ---- time and ends -------------------------------------------------------------------------------------------

    def check_silence(self, now_s: float) -> None:
        """Close an idle connection, refuse a request that stopped half-way, end a lingering or stalled one."""
        silent_s, limits = now_s - self._heard_s, self.desk.limits
        if self._taking.too_slow(now_s, self.transport.get_write_buffer_size(), self.cycle):
            self.transport.abort()
        elif self._lingering:
            if silent_s > (limits.body_timeout_s if self._busy else LINGER_S) or now_s - self.began_s > LINGER_S_MAX:
                self.transport.abort()
        elif self._receiving:
            self._check_receiving(now_s, silent_s)
        elif not self._busy and silent_s > (LINGER_S if self in self.desk.reserve else limits.keep_alive_s):
            self.transport.close()

    def _check_receiving(self, now_s: float, silent_s: float) -> None:
        limits, arrived = self.desk.limits, self._arrived
        self._arrived = 0
        if self.flow.read_paused:  # it is we who do not read
            self._heard_s = self.began_s = now_s
            self._sending.pause(now_s)
        elif self._in_head and now_s - self.began_s > (LINGER_S if self._leaving else limits.header_timeout_s):
            self._refuse_connection(HeaderTimeout(f"the request's head was not complete after {now_s - self.began_s:.0f} s"))
        elif silent_s > (LINGER_S if self._leaving else limits.body_timeout_s):
            self._refuse_connection(BodyTimeout(f"nothing came for {silent_s:.0f} s in the middle of a request"))
        elif not self._in_head and self._sending.ends(now_s, arrived):
            self._refuse_connection(BodyTimeout(f"the body comes slower than {limits.body_rate:g} bytes/s (EVENKEEL_BODY_RATE)"))

    @property
    def patience_s(self) -> float:
        return self._taking.left_s

    def restrict(self) -> None:
        """Beyond the limit of connections: the first answer is the last, and only /ping gets one."""
        self._leaving = True

    def turn_away(self) -> None:
        """No room is left even for /ping: the shortest of answers, and the end."""
        if not self._busy and not self._lingering:
            error = self.desk.too_many()
            self.desk.invocations.count_error(error)
            self.transport.write(refusal(error, False))
        self._lingering = True
        self.transport.close()

    def shutdown(self) -> None:
        """The worker is stopping: close when what has begun to arrive has been answered."""
        self.answer_is_last()
        self.desk.stop()
        if not self._receiving and not self._busy and not self.pipeline:
            self.transport.close()
        elif self.cycle is not None and not self._in_head:
            self.cycle.keep_alive = False

    def answer_is_last(self) -> None:
        self._leaving = True
        self._usual_length = -1

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more. In the middle of a request it is told so, if it still listens; a client that waits for
        an answer has hung up, as far as anybody can tell. Returns whether the connection stays open for the moment."""
        others_wait = self.pipeline or (self._busy and (self._in_head or self._current is not self.cycle))
        if not self._receiving or self._lingering or others_wait:
            return False
        self._refuse_connection(BadRequest(answers.cut_short(self._in_head, self._hot)))
        self.transport.close()  # once the answer is out
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.desk.forget(self)
        for cycle in {self.cycle, self._current, *(c for c, _ in self.pipeline)}:
            if isinstance(cycle, Invocation):
                self._leave(cycle)
        self.pipeline.clear()
        self._hot = None
        if isinstance(self.cycle, Invocation):
            self.cycle = None if isinstance(self._current, Invocation) else self._current
        super().connection_lost(exc)

    def _leave(self, invocation: Invocation) -> None:
        self._let_go_of_body(invocation)
        if not invocation.response_complete:
            invocation.response_complete = True
            self.desk.invocations.abandon(invocation)

    def _let_go_of_body(self, invocation: Invocation) -> None:
        if invocation.body is not None:
            self._stop_reader()
            self.desk.receiving_bytes -= invocation.received
            invocation.body = None


# Stands for the head of what could not be read as a request.
NO_HEAD = build(Route.INVOKE, b"", [], False, None)
