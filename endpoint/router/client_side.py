"""The router's connections from clients: a request is read whole, checked and handed to an exchange; its answer is written.

Bounds: a head of 64 KiB, a body of the payload limit, 60 s for both together, and one request at a time on a connection: what
a client sends beyond it ends the connection. Whether signatures are right is not looked at.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from typing import cast

import httptools

from evenkeel.endpoint.loopback import is_loopback
from evenkeel.endpoint.router import invocation_heads as heads
from evenkeel.endpoint.router.exchange import Exchange
from evenkeel.endpoint.router.invocation_heads import InvocationPath
from evenkeel.endpoint.router.invocation_routes import VariantRoute
from evenkeel.endpoint.router.router_state import RouterState
from evenkeel.endpoint.wire import calls
from evenkeel.endpoint.wire.api_errors import (
    INVOKE_NO_ENDPOINT,
    INVOKE_NO_VARIANT,
    INVOKE_TOO_LARGE,
    MALFORMED,
    NOT_LOOPBACK,
    NOT_SUPPORTED,
    ApiError,
    fail,
)
from evenkeel.endpoint.wire.http_records import HttpCall
from evenkeel.endpoint.wire.supported import listed

HEAD_BYTES_MAX = 64 << 10
REQUEST_S = 60.0
IDLE_S = 75.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TARGET = heads.AMZN + b"target-variant"


class ClientSide(asyncio.Protocol):
    def __init__(self, state: RouterState) -> None:
        self._state = state
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._refusal: ApiError | None = None
        self._is_reading = False
        self._keeps_alive = True
        self._path = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._body = bytearray()
        self.deadline_s = time.monotonic() + IDLE_S
        state.watch(self)

    def answer(self, data: bytes, is_last: bool) -> None:
        if self._transport is None:
            return
        self._transport.write(data)
        if is_last:
            self._exchange = None
            self.deadline_s = time.monotonic() + IDLE_S
            if not self._keeps_alive:
                self._transport.close()

    # ---- asyncio -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:  # a second request before the answer of the first
            self._leave()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as e:
            self._refuse(fail(MALFORMED, what=f"this is no HTTP request: {e}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._state.forget(self)
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.resume()

    # ---- httptools -----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._path, self._headers, self._head_bytes, self._refusal = b"", [], 0, None
        self._body = bytearray()
        self._is_reading = True
        self.deadline_s = time.monotonic() + REQUEST_S

    def on_url(self, part: bytes) -> None:
        self._bound_head(len(part))
        self._path += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._bound_head(len(name) + len(value))
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        given = dict(self._headers)
        size = given.get(b"content-length", b"0")
        if size.isdigit() and int(size) > self._state.payload_bytes:
            self._refusal = self._too_large()
        elif given.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
            self._transport.write(CONTINUE)

    def on_body(self, data: bytes) -> None:
        if self._refusal is None:
            self._body += data
            if len(self._body) > self._state.payload_bytes:
                self._refusal = self._too_large()
        if self._refusal is not None:
            self._body.clear()

    def on_message_complete(self) -> None:
        self._is_reading = False
        self.deadline_s = math.inf  # now it is the exchange's time
        self._keeps_alive = self._parser.should_keep_alive()
        try:
            if self._refusal is not None:
                raise self._refusal
            asked, variant = self._understood()
        except ApiError as e:
            self.answer(heads.error_answer(e), True)
            return
        self._exchange = Exchange(self._state, self, asked, variant, self._headers, bytes(self._body))
        self._exchange.begin()

    # ---- what is asked -------------------------------------------------------------------------------------------------

    def _understood(self) -> tuple[InvocationPath, VariantRoute]:
        """Raises ApiError."""
        given = dict(self._headers)
        if not is_loopback(given.get(b"host", b"").decode("latin-1")):
            raise fail(NOT_LOOPBACK, host=given.get(b"host", b"").decode("latin-1")[:128])
        asked = heads.invocation(self._path) if self._parser.get_method() == b"POST" else None
        if asked is None:
            what = f"{self._parser.get_method().decode('latin-1')} {self._path[:128].decode('latin-1')}"
            raise fail(NOT_SUPPORTED, what=what, supported=listed())
        if any(name.startswith(heads.AMZN) for name in given):
            self._check(given)
        route = self._state.routes.get(asked.endpoint)
        if route is None:
            raise fail(INVOKE_NO_ENDPOINT, name=asked.endpoint[:63], account=self._state.account)
        target = given.get(TARGET, b"").decode("latin-1")
        variant = route.variant(random.random(), target)
        if variant is None:
            raise fail(INVOKE_NO_VARIANT, variant=target[:63], name=asked.endpoint)
        return asked, variant

    def _check(self, given: dict[bytes, bytes]) -> None:
        """The constraints of the API's model on its headers. Only for calls that have one: a plain one has none to break."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in given.items()}
        call = HttpCall("POST", self._path.partition(b"?")[0].decode("latin-1"), "", headers, b"")
        calls.parameters(calls.wanted(call), call)

    def _too_large(self) -> ApiError:
        return fail(INVOKE_TOO_LARGE, limit=self._state.payload_bytes)

    def _bound_head(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > HEAD_BYTES_MAX:
            raise ValueError(f"its head is larger than {HEAD_BYTES_MAX} bytes")

    # ---- leaving -------------------------------------------------------------------------------------------------------

    def is_due(self) -> None:
        """It has been silent for too long."""
        self.deadline_s = math.inf
        if self._is_reading:
            self._refuse(fail(MALFORMED, what=f"the request was not complete within {REQUEST_S:g} s"))
        else:
            self._leave()

    def _refuse(self, problem: ApiError) -> None:
        if self._transport is not None:
            self._transport.write(heads.error_answer(problem))
            self._transport.close()

    def _leave(self) -> None:
        if self._transport is not None:
            self._transport.abort()
