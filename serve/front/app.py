"""Everything on the data port that is not the hot path, as a FastAPI application: errors of routing, for now.

The hot routes are declared here too, for the schema and for methods that the hot path does not take; a POST to
/invocations never arrives here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serve.errors import MethodNotAllowed, NotFound

ALLOWED = {"/invocations": "POST", "/ping": "GET, POST, HEAD"}


def build() -> FastAPI:
    """The application; the worker sets `app.state.count_error`."""
    app = FastAPI(title="evenkeel", docs_url=None, redoc_url=None)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, e: HTTPException) -> JSONResponse:
        path = request.url.path
        if e.status_code == 404 and path in ALLOWED:
            request.app.state.count_error(MethodNotAllowed(path))
            message = f"{request.method} is not possible on {path}: use {ALLOWED[path]}"
            return _error(MethodNotAllowed.status, MethodNotAllowed.code, message, {"Allow": ALLOWED[path]})
        if e.status_code == 404:
            request.app.state.count_error(NotFound(path))
            return _error(404, NotFound.code, f"no such path: {path}; there are {', '.join(ALLOWED)}")
        return _error(e.status_code, "http_error", str(e.detail))

    return app


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    content: dict[str, Any] = {"error": {"code": code, "message": message}}
    return JSONResponse(content, status, headers)
