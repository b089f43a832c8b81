"""One HTTP/1.1 connection: bytes to requests, one after the other, with every bound on heads and bodies in one place.

The data port and the sidecar's ports each derive their connection from this one. Here it is decided what is a request, where it
ends, when the next one's turn is, and how a refusal is said so that it is heard. What a request is for, how long anybody may take
and who has to make room is theirs. States and legal steps are in connection_state.py; what a head may be in strict.py.

What a client sends ahead of its turn is held as it came, and reading stops: so at most one read's worth waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from evenkeel.serve.errors import BadRequest, EvenkeelError
from evenkeel.serve.http import strict
from evenkeel.serve.http.chunks import ChunkedBody, Part
from evenkeel.serve.http.connection_state import BUSY, READING, RECEIVING, ConnectionState, step
from evenkeel.serve.http.head_beginning import HeadBeginning
from evenkeel.serve.http.strict import RequestHead

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BETWEEN = (ConnectionState.IDLE, ConnectionState.BODY)  # two requests, or two pieces of one: what is held is read on from there
_monotonic = time.monotonic


class Connection(asyncio.Protocol):
    """`state` says all of where it is. `request` is the one in hand, or the last one."""

    head_bytes_max = 64 * 1024
    headers_max = 256  # each takes far more memory than its bytes

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:  # fmt: skip
        self.app, self.asgi_version = config.loaded_app, config.asgi_version
        self.server_state, self.app_state = server_state, app_state
        self.loop = _loop or asyncio.get_running_loop()
        self.logger = logging.getLogger("uvicorn.error")
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self.flow: FlowControl = None  # type: ignore[assignment]
        self.state = ConnectionState.IDLE
        self.request: Any = None
        self.began_s = 0.0  # when the request in hand began to come
        self.body_bytes_left = 0  # of a body of known length
        self._chunks: ChunkedBody | None = None  # the body that comes, where its length is not known
        self._held = b""  # the beginning of a head, or what came ahead of its turn
        self._beginning = HeadBeginning(self.head_bytes_max)
        self._finished = 0  # requests that have come whole
        self._owes_continue = False  # the client waits for our word before it sends the body

    # ---- what the ports add --------------------------------------------------------------------------------------

    def begin(self, head: RequestHead, raw: bytes) -> None:
        """A head has come, these bytes. Sets `request`; may raise a refusal."""
        raise NotImplementedError

    def take_body(self, piece: bytes) -> None:
        """A piece of the request's body. May raise a refusal."""
        raise NotImplementedError

    def serve(self) -> None:
        """The request is whole and its turn has come."""
        raise NotImplementedError

    def wait_for_body(self) -> None:
        """What has come of the body is taken; the rest is still under way."""

    def refusal(self, error: EvenkeelError) -> bytes:
        """The last answer of this connection, for the request in hand or what could not be read as one."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Nobody needs the body of the request in hand any more."""

    def be_last(self) -> None:
        """The answer to the request in hand is the last one."""
        self.request.be_last()

    # ---- states --------------------------------------------------------------------------------------------------

    def move(self, target: ConnectionState) -> None:
        self.state = step(self.state, target)

    @property
    def busy(self) -> bool:
        return self.state in BUSY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.flow = FlowControl(self.transport)
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self.began_s = _monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(self)
        self.flow.resume_writing()  # for an application that waits until it may write
        if self.state is not ConnectionState.CLOSED:
            self.move(ConnectionState.CLOSED)

    # ---- bytes in ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.state in READING:
            held, self._held = self._held, b""
            self._read(held + data if held else data)
        elif self.state < ConnectionState.LINGERING:
            self._hold(data)

    def _read(self, data: bytes) -> None:
        """Take what has come as far as it goes, but no more than one request: others have their turn between."""
        finished = self._finished
        try:
            while data and self.state in READING and self._finished == finished:
                if self.state is not ConnectionState.BODY:
                    data = self._read_head(data)
                    continue
                data = self._read_body(data)
                if self.state is ConnectionState.BODY:
                    break  # what is left is for another turn
            if self.state is ConnectionState.BODY and not data:
                self.wait_for_body()
        except EvenkeelError as e:
            self.refuse(e)
        if data and self.state < ConnectionState.LINGERING:
            self._hold(data)
            if self.state in BETWEEN:
                self.loop.call_soon(self._go_on)

    def _read_head(self, data: bytes) -> bytes:
        """Returns what follows the head, if it is whole."""
        if self.state is ConnectionState.IDLE:
            data = data.lstrip(b"\r\n")  # empty lines between requests (RFC 9112, 2.2)
            if not data:
                return b""
            self.began_s, self._beginning.checked = _monotonic(), 0
        end = self._beginning.end_in(data)
        if not end:
            if self.state is ConnectionState.IDLE:
                self.move(ConnectionState.HEAD)
            self._beginning.check(data)
            self._held = data
            return b""
        raw = data[:end]
        head = strict.read_head(raw, self.headers_max)
        self._chunks = ChunkedBody(self.head_bytes_max) if head.length is None else None
        self.body_bytes_left = head.length or 0
        self._owes_continue = head.expects_continue
        self.begin(head, raw)
        if head.length == 0:
            self._whole()
        else:
            self.move(ConnectionState.BODY)
        return data[end:]

    def _read_body(self, data: bytes) -> bytes:
        """Returns what follows the body, if it is whole, or what of it is left for another turn."""
        chunks, rest = self._chunks, b""
        if chunks is None:
            rest = data[self.body_bytes_left :]
            piece = data[: self.body_bytes_left] if rest else data
            self.body_bytes_left -= len(piece)
            self.take_body(piece)
            is_whole = not self.body_bytes_left
        else:
            pieces = chunks.feed(data)
            if pieces:
                self.take_body(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            rest, is_whole = chunks.rest, chunks.part is Part.DONE
        if is_whole and self.state is ConnectionState.BODY:
            self._whole()
        return rest

    def _whole(self) -> None:
        """The request in hand is all here."""
        self._finished += 1
        self._owes_continue = False
        self.move(ConnectionState.ANSWERING)
        self.serve()

    def ask_for_body(self) -> None:
        """A client that waits for our word gets it, once."""
        if self._owes_continue:
            self._owes_continue = False
            self.transport.write(CONTINUE)

    # ---- turns ---------------------------------------------------------------------------------------------------

    def _hold(self, data: bytes) -> None:
        """It comes ahead of its turn."""
        self._held += data
        self.flow.pause_reading()

    def answered(self, keep_alive: bool) -> None:
        """The whole answer to the request in hand is written."""
        if self.state not in BUSY:
            return  # the connection has ended meanwhile
        if self.state is ConnectionState.OWED or not keep_alive:
            self.end_politely()
            return
        self.move(ConnectionState.STALLED if self.flow.write_paused else ConnectionState.IDLE)
        if self._held or self.flow.read_paused:
            self.loop.call_soon(self._go_on)  # not now: a long pipeline would answer itself ever deeper in the stack

    def _go_on(self) -> None:
        """With what waits here: the rest of a body, or what follows a request that is answered, once the client takes its
        answers."""
        if self.state not in BETWEEN:
            return
        held, self._held = self._held, b""
        if held:
            self._read(held)
        if self.state in (ConnectionState.HEAD, ConnectionState.DIRECT) or (self.state in BETWEEN and not self._held):
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        if self.state is ConnectionState.IDLE:
            self.move(ConnectionState.STALLED)

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if self.state is ConnectionState.STALLED:
            self.move(ConnectionState.IDLE)
            self.loop.call_soon(self._go_on)

    # ---- ends ----------------------------------------------------------------------------------------------------

    def refuse(self, error: EvenkeelError) -> None:
        """The request in hand, or what should have been one, is answered with an error, and nothing after it is read."""
        self.let_go()
        if not self.transport.is_closing():
            self.transport.write(self.refusal(error))
            self.linger()

    def linger(self) -> None:
        """End our half and throw away what still comes, so that the answer is not lost in a reset."""
        self.move(ConnectionState.LINGERING)
        self.began_s = _monotonic()
        self._held, self._chunks = b"", None
        self.flow.resume_reading()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def end_politely(self) -> None:
        """After a last answer: at once, unless the client is still sending, which would make a reset of it."""
        if self._held and self.state is not ConnectionState.OWED:
            self.linger()
        else:
            self.close()

    def close(self) -> None:
        """When what is written has been read."""
        if self.state < ConnectionState.CLOSING:
            self.move(ConnectionState.CLOSING)
        self.transport.close()

    def eof_received(self) -> bool:
        """The client sends nothing more. A request that is whole still gets its answer; one that is not is told so.
        Returns whether the connection stays open for the moment."""
        if self.state in RECEIVING:
            self.refuse(BadRequest(self.cut_short()))
            self.close()
            return True
        if self.state in (ConnectionState.ANSWERING, ConnectionState.STREAMING):
            self.move(ConnectionState.OWED)
            self.be_last()
            return True
        return False

    def cut_short(self) -> str:
        """What a request lacks whose connection ended in the middle of it."""
        part = "head" if self.state is ConnectionState.HEAD else "body"
        return f"the connection ended in the middle of the request's {part}"
