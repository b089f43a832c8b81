"""The bytes of answers that no model gives: errors, /ping, the heads of streams. Pure."""

from __future__ import annotations

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from evenkeel.serve.contract.lifecycle import CLEARS, Verdict
from evenkeel.serve.errors import EvenkeelError, MethodNotAllowed, NotReady
from evenkeel.serve.front.request.invocation import Invocation, model_of

PING_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
PING_OK_LAST = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
LAST = b"connection: close\r\n"
MESSAGE_CHARS_MAX = 2000


def refusal(error: EvenkeelError, keep_alive: bool, is_head: bool = False, named: bytes = b"") -> bytes:
    """A small JSON error with Content-Length. `named`: the line that names the model whose error this is."""
    body = orjson.dumps({"error": {"code": error.code, "message": error.message[:MESSAGE_CHARS_MAX]}})
    extra = named if keep_alive else named + LAST
    if isinstance(error, MethodNotAllowed):
        extra += b"allow: %b\r\n" % error.allow.encode("latin-1")
    if error.retry_after_s is not None:
        extra += b"retry-after: %d\r\n" % error.retry_after_s
    head = b"%bcontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n" % (STATUS_LINE[error.status], len(body), extra)
    return head if is_head else head + body


def not_ready(verdict: Verdict) -> NotReady:
    """What /ping says of a verdict that is not ready: its reason is the code."""
    clears = CLEARS[verdict.reason]
    waits = clears and not clears.startswith("nothing")
    error = NotReady(f"waiting until {clears}" if waits else clears.removeprefix("nothing: ") or verdict.reason.code)
    error.code = verdict.reason.code
    return error


def stream_head(invocation: Invocation, content_type: str, extra: bytes) -> bytes:
    """A 200 whose body comes in parts: chunks, or for HTTP/1.0 whatever comes until the connection ends."""
    framing = b"transfer-encoding: chunked\r\n" if invocation.delimited else b""
    last = b"" if invocation.keep_alive else LAST
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b%b%b%b\r\n" % (
        content_type.encode("latin-1"), framing, extra, name_line(invocation), last)  # fmt: skip


def part(invocation: Invocation, data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if invocation.delimited else data


def name_line(invocation: Invocation) -> bytes:
    """The line that names the model whose answer or error this is; b"" before there is one."""
    model = model_of(invocation)
    return model.starts.line if model is not None else b""
