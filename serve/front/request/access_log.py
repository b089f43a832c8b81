"""A line in the log for a share of the requests: EVENKEEL_ACCESS_LOG. Off by default, and then none of this is loaded.

How it works. A request that is logged has another caller in front of its own, which passes on what the caller is told and then
writes the line. So the request's path knows nothing of it, and the others are served as before.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evenkeel.serve.contract.logline import log
from evenkeel.serve.errors import EvenkeelError
from evenkeel.serve.front.http.request_head import request_id
from evenkeel.serve.front.request.invocation import Caller, Invocation, model_of
from evenkeel.serve.front.request.row_batcher import RowBatcher

if TYPE_CHECKING:
    from evenkeel.serve.codec import Body

# Version, trace id, parent id, flags: https://www.w3.org/TR/trace-context/#traceparent-header. AMZN_TRACE is of AWS's balancers.
TRACEPARENT = re.compile(rb"\r\ntraceparent:[\t ]*[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", re.IGNORECASE)
AMZN_TRACE = re.compile(rb"\r\nx-amzn-trace-id:[\t ]*([!-~][!-~ ]{0,255})", re.IGNORECASE)
STATUS_AT = len(b"HTTP/1.1 ")


class LoggedArrivals(RowBatcher):
    """Also writes a line about `share` of its requests, evenly: of 0.1 each tenth."""

    def __init__(self, share: float, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._share, self._due = share, 1.0 - share

    def arrive(self, invocation: Invocation, body: Body) -> None:
        self._due += self._share
        if self._due >= 1.0 and invocation.caller is not None:
            self._due -= 1.0
            invocation.caller = LoggedCaller(invocation.caller, self._clock)
        super().arrive(invocation, body)


class LoggedCaller:
    """A Caller in front of the one that waits."""

    __slots__ = ("_began_s", "_caller", "_clock")

    def __init__(self, caller: Caller, clock: Callable[[], float] = time.monotonic) -> None:
        self._caller, self._clock, self._began_s = caller, clock, clock()

    def answer(self, invocation: Invocation, start: bytes, body: bytes, extra: bytes = b"") -> None:
        self._caller.answer(invocation, start, body, extra)
        self._tell(invocation, int(start[STATUS_AT : STATUS_AT + 3]), bytes=len(body))

    def answer_error(self, invocation: Invocation, error: EvenkeelError) -> None:
        self._caller.answer_error(invocation, error)
        self._tell(invocation, error.status, code=error.code)

    def open_stream(self, invocation: Invocation, content_type: str, extra: bytes) -> None:
        self._caller.open_stream(invocation, content_type, extra)

    def write_part(self, invocation: Invocation, part: bytes) -> bool:
        return self._caller.write_part(invocation, part)

    def end_stream(self, invocation: Invocation) -> None:
        self._caller.end_stream(invocation)
        self._tell(invocation, 200, streamed=True)

    def _tell(self, invocation: Invocation, status: int, **more: Any) -> None:
        model = model_of(invocation)
        name, version = (model.name, model.version) if model is not None else ("", "")
        millis = round(1e3 * (self._clock() - self._began_s), 3)
        id = invocation.request_id or request_id(invocation.head_bytes)
        log("access", "", request_id=id, model=name, version=version, status=status, ms=millis, rows=invocation.rows, **more,
            **trace_of(invocation.head_bytes))  # fmt: skip


def trace_of(head: bytes) -> dict[str, str]:
    """Which trace a request belongs to, by its head as it came; empty where it says none."""
    found, amzn = TRACEPARENT.search(head), AMZN_TRACE.search(head)
    trace = {"trace_id": found[1].decode().lower(), "parent_id": found[2].decode().lower()} if found else {}
    return trace | ({"amzn_trace_id": amzn[1].decode().strip()} if amzn else {})
