"""One invocation on its way: an instance is chosen, asked, and its answer becomes the client's. Ends exactly once."""

from __future__ import annotations

import random
import time
from typing import Protocol

from evenkeel.endpoint.router import invocation_heads as heads
from evenkeel.endpoint.router import invocation_routes
from evenkeel.endpoint.router.instance_side import InstanceSide
from evenkeel.endpoint.router.invocation_heads import Headers, InvocationPath
from evenkeel.endpoint.router.invocation_routes import InstanceAddress, VariantRoute
from evenkeel.endpoint.router.router_state import RouterState
from evenkeel.endpoint.wire.api_errors import INVOKE_NO_INSTANCE, ApiError, fail
from evenkeel.endpoint.wire.event_stream import payload_part

TRIES_MAX = 2  # instances that are asked for a connection (ours)
ANSWER_S, STREAM_S = 60.0, 480.0  # D: HOST, FAQ
TIMED_OUT = "Your invocation timed out while waiting for a response from container primary."
STREAM_TIMED_OUT = (
    "Your model primary did not complete sending the inference response in the allotted time."  # O: python-sdk #1119
)


class Client(Protocol):
    """Who asked."""

    def answer(self, data: bytes, is_last: bool) -> None: ...


class Exchange:
    def __init__(
        self, state: RouterState, client: Client, asked: InvocationPath, variant: VariantRoute, headers: Headers, body: bytes
    ) -> None:
        self._state, self._client, self._asked, self._variant = state, client, asked, variant
        self._head = heads.to_container(headers, len(body), asked.is_stream)
        self._body = body
        self._side: InstanceSide | None = None
        self._instance = ""
        self._tries = 0
        self._is_over = False
        self._answer_headers: Headers = ()
        self._status = 0
        self._answer = bytearray()
        self._streams = False
        self.deadline_s = time.monotonic() + (STREAM_S if asked.is_stream else ANSWER_S)
        state.watch(self)

    # ---- to the instance -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._ask("")

    def _ask(self, without: str) -> None:
        """`without`: an instance that took no connection. Nothing has been sent to it, so another may have the request."""
        self._tries += 1
        chosen = invocation_routes.instance(self._variant, random.random(), random.random(), self._state.in_flight, without)
        if chosen is None:
            self._fail(fail(INVOKE_NO_INSTANCE, variant=self._variant.name))
            return
        self._state.taken(chosen.name)
        self._instance = chosen.name
        side = self._state.pool(chosen).idle()
        if side is not None:
            self._send(side)
        else:
            self._state.run(self._connect(chosen))

    async def _connect(self, chosen: InstanceAddress) -> None:
        try:
            side = await self._state.pool(chosen).connect()
        except OSError as e:
            self._refused(chosen, str(e) or "it took too long")
            return
        if self._is_over:
            side.drop()
        else:
            self._send(side)

    def _refused(self, chosen: InstanceAddress, why: str) -> None:
        if self._is_over:
            return
        self._state.left(chosen.name)
        self._instance = ""
        if self._tries < TRIES_MAX:
            self._ask(chosen.name)
        else:
            self._fail(self._state.no_answer(self._asked.endpoint, f"{chosen.name} takes no connection: {why}"))

    def _send(self, side: InstanceSide) -> None:
        self._side = side
        side.send(self, self._head, self._body)

    # ---- from the instance ---------------------------------------------------------------------------------------------

    def head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status, self._answer_headers = status, headers
        self._streams = self._asked.is_stream and status < 300
        if self._streams:
            self._client.answer(heads.answer_head(headers, self._variant.name, None), False)

    def body(self, data: bytes) -> None:
        if self._streams:
            self._client.answer(_chunk(payload_part(data)), False)
            return
        self._answer += data
        if len(self._answer) > self._state.payload_bytes:
            self.broken(
                f"the answer is larger than {self._state.payload_bytes} bytes, and could not load the entire response body"
            )

    def complete(self) -> None:
        self._side = None
        if self._streams:
            self._end(b"0\r\n\r\n")
        elif self._status < 300:
            self._end(heads.answer_head(self._answer_headers, self._variant.name, len(self._answer)) + self._answer)
        else:
            self._fail(self._state.model_error(self._asked.endpoint, self._status, bytes(self._answer)))

    def broken(self, why: str) -> None:
        if self._streams:
            self._end(_chunk(heads.stream_broken(why, "StreamBroken")) + b"0\r\n\r\n")
        else:
            self._fail(self._state.no_answer(self._asked.endpoint, why))

    def pause(self) -> None:
        if self._side is not None:
            self._side.pause()

    def resume(self) -> None:
        if self._side is not None:
            self._side.resume()

    # ---- the end -------------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """The client has left: the instance is told by a closed connection."""
        self._over()

    def is_due(self) -> None:
        """The time is over."""
        if self._streams:
            self._end(_chunk(heads.stream_broken(STREAM_TIMED_OUT, "ModelInvocationTimeExceeded")) + b"0\r\n\r\n")
        else:
            self._fail(self._state.no_answer(self._asked.endpoint, TIMED_OUT))

    def _fail(self, problem: ApiError) -> None:
        self._end(heads.error_answer(problem))

    def _end(self, data: bytes) -> None:
        if not self._is_over:
            self._over()
            self._client.answer(data, True)

    def _over(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._state.forget(self)
        if self._side is not None:
            self._side.drop()
            self._side = None
        if self._instance:
            self._state.left(self._instance)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
