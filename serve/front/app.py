"""Everything on the data port that is not the hot path, as a FastAPI application: /metrics, health, errors of routing.

The hot routes never arrive here, but for methods that they do not take; the schema (/openapi.json) describes them too, see
schema.py.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serve.contract.status import StatusPage
from serve.errors import MethodNotAllowed, NotFound, NotReady
from serve.front import health, schema

if TYPE_CHECKING:
    from serve.exposition import PageCollector

ALLOWED = {"/invocations": "POST", "/ping": "GET, POST, HEAD", "/metrics": "GET", "/execution-parameters": "GET"}


def build() -> FastAPI:
    """The application; the worker sets `app.state.count_error` and `app.state.page`."""
    app = FastAPI(title="evenkeel", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(health.router)

    @app.get("/metrics")
    def metrics(request: Request) -> Response:  # not async: a thread, so that the first import stops nobody
        from serve import exposition  # here, because a front that nobody scrapes needs none of it

        return Response(_collector(request.app.state.page).text(), headers={"content-type": exposition.CONTENT_TYPE})

    @app.get("/execution-parameters")
    def execution_parameters(request: Request) -> Response:
        try:
            return JSONResponse(request.app.state.execution())
        except NotReady as e:
            request.app.state.count_error(e)
            return _error(e.status, e.code, e.message, {"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, e: HTTPException) -> JSONResponse:
        path = request.url.path
        if e.status_code in (404, 405) and path in ALLOWED:
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

    app.openapi = lambda: schema.described(app)  # type: ignore[method-assign]
    return app


@cache
def _collector(page: StatusPage) -> PageCollector:
    from serve.exposition import PageCollector

    return PageCollector(page)


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    content: dict[str, Any] = {"error": {"code": code, "message": message}}
    return JSONResponse(content, status, headers)
