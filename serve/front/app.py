"""Everything on the data port that is not the hot path, as a FastAPI application: health, and errors of routing.

The hot routes are declared here too, for the schema and for methods that the hot path does not take; a POST to
/invocations never arrives here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serve.errors import MethodNotAllowed, NotFound
from serve.front import health

ALLOWED = {"/invocations": "POST", "/ping": "GET, POST, HEAD"}


def build() -> FastAPI:
    """The application; the worker sets `app.state.count_error` and `app.state.page`."""
    app = FastAPI(title="evenkeel", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(health.router)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, e: HTTPException) -> JSONResponse:
        path = request.url.path
        if e.status_code == 404 and path in ALLOWED:
            request.app.state.count_error(MethodNotAllowed(path))
            message = f"{request.method} is not possible on {path}: use {ALLOWED[path]}"
            return _error(MethodNotAllowed.status, MethodNotAllowed.code, message, {"Allow": ALLOWED[path]})
        if e.status_code == 404:
            request.app.state.count_error(NotFound(path))
            return _error(404, NotFound.code, f"no such path: {path}; there are {', '.join((*ALLOWED, *health.PATHS))}")
        if e.status_code == 405:
            allowed = (e.headers or {}).get("Allow", "")
            request.app.state.count_error(MethodNotAllowed(path))
            return _error(
                405, MethodNotAllowed.code, f"{request.method} is not possible on {path}: use {allowed}", {"Allow": allowed}
            )
        return _error(e.status_code, "http_error", str(e.detail))

    return app


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    content: dict[str, Any] = {"error": {"code": code, "message": message}}
    return JSONResponse(content, status, headers)
