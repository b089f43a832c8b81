"""Everything on the data port that is not the hot path, as a FastAPI application: /metrics, health, the schema.

The hot routes never arrive here, nor does a path or a method that nobody serves, see routes.py; the schema (/openapi.json)
describes them too, see schema.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.errors import NotReady
from evenkeel.serve.front.pages import health_pages, schema

if TYPE_CHECKING:
    from evenkeel.serve.exposition import Scrapes

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # as evenkeel.serve.exposition says, which only a scrape imports


def build(many: bool = False) -> FastAPI:
    """The application; the worker sets `app.state.count_error` and `app.state.page`. `many`: for many models, and the worker sets
    `app.state.models`."""
    app = FastAPI(title="evenkeel", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.include_router(health_pages.router)
    if many:
        from evenkeel.serve.front.pages import models_pages  # here, because a front of one model needs none of it

        app.include_router(models_pages.routes)
    metrics = Metrics()

    @app.get("/metrics")
    async def scrape(request: Request) -> Response:
        return Response(await metrics.text(request.app.state.page), headers={"content-type": METRICS_TYPE})

    @app.get("/execution-parameters")
    async def execution_parameters(request: Request) -> Response:
        try:
            return JSONResponse(request.app.state.execution())
        except NotReady as e:
            request.app.state.count_error(e)
            return _error(e.status, e.code, e.message, {"Retry-After": "1"})

    app.openapi = lambda: schema.described(app)  # type: ignore[method-assign]
    described = orjson.dumps(app.openapi())

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(described, media_type="application/json")

    return app


class Metrics:
    """The text of /metrics, made aside: one thread at a time competes with the event loop, however many ask."""

    def __init__(self) -> None:
        self._scrapes: Scrapes | None = None
        self._making: asyncio.Future[bytes] | None = None

    async def text(self, page: StatusPage) -> bytes:
        kept = self._scrapes.kept() if self._scrapes is not None else None
        if kept is not None:
            return kept
        if self._making is None or self._making.done():
            self._making = asyncio.get_running_loop().run_in_executor(None, self._make, page)
        return await asyncio.shield(self._making)  # who leaves does not take it from the others

    def _make(self, page: StatusPage) -> bytes:
        if self._scrapes is None:
            from evenkeel.serve.exposition import Scrapes  # here, because a front that nobody scrapes needs none of it

            self._scrapes = Scrapes(page)
        return self._scrapes.text()


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    content: dict[str, Any] = {"error": {"code": code, "message": message}}
    return JSONResponse(content, status, headers)
