"""What is wrong, as JSON: our own errors, paths and methods that are not there, and bugs."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from evenkeel.serve.contract.logline import log
from evenkeel.serve.errors import BadRequest, EvenkeelError, MethodNotAllowed, NotFound
from evenkeel.sidecar.http.auth import WrongToken
from evenkeel.sidecar.http.host_guard import WrongTokens, refusal


def add(app: FastAPI) -> None:
    app.add_exception_handler(WrongToken, WrongTokens().refuse)

    @app.exception_handler(EvenkeelError)
    async def ours(request: Request, e: EvenkeelError) -> JSONResponse:
        return refusal(e, {"WWW-Authenticate": "Bearer"} if e.status == 401 else {})

    @app.exception_handler(HTTPException)
    async def routing(request: Request, e: HTTPException) -> JSONResponse:
        path = request.url.path[:200]
        if e.status_code == 405:
            allowed = ", ".join(sorted((e.headers or {}).get("Allow", "").split(", ")))
            return refusal(MethodNotAllowed(f"{request.method} is not possible on {path}: use {allowed}"), {"Allow": allowed})
        if e.status_code == 404:
            return refusal(NotFound(f"no such path: {path}; there are {', '.join(paths(app))}"))
        return refusal(BadRequest(str(e.detail)[:200]))

    @app.exception_handler(Exception)
    async def bug(request: Request, e: Exception) -> JSONResponse:
        log("sidecar_error", f"{request.method} {request.url.path[:200]}: {e!r}")
        return refusal(EvenkeelError("an error of ours; the log has the details"))


def paths(app: FastAPI) -> list[str]:
    """Every path there is, for the message about one that is not."""
    return sorted({str(getattr(route, "path", "")) for route in app.routes})
