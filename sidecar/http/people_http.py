"""For people and programs that want to know everything: the page, /status and /metrics."""

from __future__ import annotations

import math
import time

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from evenkeel.serve import exposition
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.errors import BadRequest
from evenkeel.sidecar.http import page_html
from evenkeel.sidecar.http.host_guard import NO_STORE
from evenkeel.sidecar.http.route_table import Routes
from evenkeel.sidecar.rollout_service import RolloutService
from evenkeel.sidecar.watch import snapshot
from evenkeel.sidecar.watch.snapshot import Remembered, Snapshot


def add(routes: Routes, page: StatusPage, remembered: Remembered, judging: RolloutService) -> None:
    text, policy = page_html.load()

    @routes.get("/")
    def people(request: Request) -> HTMLResponse:
        return HTMLResponse(text, headers={**NO_STORE, "Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})

    @routes.get("/status")
    def status(request: Request) -> JSONResponse:
        after_s = _number(request, "points_after_s")
        at = Snapshot(time.monotonic(), time.time())
        body = snapshot.status(page, at, remembered, after_s)
        return JSONResponse({**body, "rollout": judging.status(at.unix)}, headers=NO_STORE)

    _add_metrics(routes, page)


def _number(request: Request, name: str) -> float:
    raw = request.query_params.get(name, "0")
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRequest(f"{name}={raw[:40]!r} must be a number of seconds, as `now_s` in /status")
    return value


def _add_metrics(routes: Routes, page: StatusPage) -> None:
    scrapes = exposition.Scrapes(page)

    @routes.get("/metrics")
    def metrics(request: Request) -> Response:
        return Response(scrapes.text(), headers={**NO_STORE, "content-type": exposition.CONTENT_TYPE})
