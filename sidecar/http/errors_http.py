"""What is wrong, as JSON: our own errors, paths and methods that are not there, and bugs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from evenkeel.serve.contract.logline import log
from evenkeel.serve.errors import BadRequest, EvenkeelError, MethodNotAllowed, NotFound
from evenkeel.sidecar.http.auth import WrongToken
from evenkeel.sidecar.http.host_guard import WrongTokens, refusal

Handler = Callable[[Request, Any], Awaitable[Response]]


def handlers(paths: list[str]) -> dict[Any, Handler]:
    """By class of the error, as Starlette takes them. `paths`: every one there is, for the message about one that is not."""

    async def routing(request: Request, e: HTTPException) -> Response:
        path = request.url.path[:200]
        if e.status_code == 405:
            allowed = ", ".join(sorted((e.headers or {}).get("Allow", "").split(", ")))
            return refusal(MethodNotAllowed(f"{request.method} is not possible on {path}: use {allowed}"), {"Allow": allowed})
        if e.status_code == 404:
            return refusal(NotFound(f"no such path: {path}; there are {', '.join(paths)}"))
        return refusal(BadRequest(str(e.detail)[:200]))

    return {WrongToken: WrongTokens().refuse, EvenkeelError: _ours, HTTPException: routing, Exception: _bug}


async def _ours(request: Request, e: EvenkeelError) -> Response:
    return refusal(e, {"WWW-Authenticate": "Bearer"} if e.status == 401 else {})


async def _bug(request: Request, e: Exception) -> Response:
    log("sidecar_error", f"{request.method} {request.url.path[:200]}: {e!r}")
    return refusal(EvenkeelError("an error of ours; the log has the details"))
