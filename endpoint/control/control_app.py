"""The control plane's HTTP: one path for every service, as AWS's SDKs call it. A plain ASGI application."""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from evenkeel.endpoint.control.operations import Does
from evenkeel.endpoint.loopback import is_loopback
from evenkeel.endpoint.s3.s3_app import S3App
from evenkeel.endpoint.wire import calls
from evenkeel.endpoint.wire.api_errors import INTERNAL, MALFORMED, NOT_LOOPBACK, NOT_SUPPORTED, ApiError, fail
from evenkeel.endpoint.wire.http_records import HttpAnswer, HttpCall
from evenkeel.endpoint.wire.supported import listed
from evenkeel.serve.contract.logline import log

BODY_BYTES_MAX = 4 << 20
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class ControlApp:
    def __init__(self, does: Mapping[str, Does], s3: S3App) -> None:
        self._does, self._s3 = does, s3

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        call = HttpCall(
            scope["method"], scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1"), headers, b""
        )
        try:
            if not is_loopback(headers.get("host", "")):
                raise fail(NOT_LOOPBACK, host=headers["host"][:128])
            if calls.signing_name(call) == "s3":
                await self._s3.answer(call, receive, send)
                return
            body = await _body(receive)
            answer = self.answer(HttpCall(call.method, call.path, call.query, headers, body))
        except ApiError as e:
            answer = calls.refused(e, call)
        await _send(answer, send)

    def answer(self, call: HttpCall) -> HttpAnswer:
        try:
            wanted = calls.wanted(call)
            does = self._does.get(wanted.operation.name)
            if does is None:
                hint = " Calls of sagemaker-runtime go to AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME."
                raise fail(NOT_SUPPORTED, what=wanted.operation.name, supported=listed() + hint)
            return calls.answered(wanted, does(calls.parameters(wanted, call)))
        except ApiError as e:
            return calls.refused(e, call)
        except OSError as e:
            log("endpoint_error", f"a call could not be kept: {e}")
            return calls.refused(fail(INTERNAL, what=str(e)), call)
        except Exception as e:
            log("endpoint_error", "a call failed by a fault of ours", traceback=traceback.format_exc())
            return calls.refused(fail(INTERNAL, what=f"{type(e).__name__}: {e}"), call)


async def _body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise fail(MALFORMED, what="the client left before its body was complete")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES_MAX:
            raise fail(MALFORMED, what=f"the body is larger than {BODY_BYTES_MAX} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


async def _send(answer: HttpAnswer, send: Send) -> None:
    headers = {**answer.headers, "content-length": str(len(answer.body)), "x-amzn-requestid": str(uuid.uuid4())}
    packed = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": packed})
    await send({"type": "http.response.body", "body": answer.body})
