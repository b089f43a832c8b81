"""For people and programs that want to know everything: the page, /status and /metrics."""

from __future__ import annotations

import math
import time

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from evenkeel.serve import exposition
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.errors import BadRequest
from evenkeel.sidecar.http import page_html
from evenkeel.sidecar.http.host_guard import GET, NO_STORE
from evenkeel.sidecar.rollout_service import RolloutService
from evenkeel.sidecar.watch import snapshot
from evenkeel.sidecar.watch.snapshot import Remembered, Snapshot


def add(app: FastAPI, page: StatusPage, remembered: Remembered, judging: RolloutService) -> None:
    text, policy = page_html.load()

    @app.api_route("/", methods=GET)
    def people() -> HTMLResponse:
        return HTMLResponse(text, headers={**NO_STORE, "Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})

    @app.api_route("/status", methods=GET)
    def status(request: Request) -> JSONResponse:
        after_s = _number(request, "points_after_s")
        at = Snapshot(time.monotonic(), time.time())
        body = snapshot.status(page, at, remembered, after_s)
        return JSONResponse({**body, "rollout": judging.status(at.unix)}, headers=NO_STORE)

    _add_metrics(app, page)


def _number(request: Request, name: str) -> float:
    raw = request.query_params.get(name, "0")
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRequest(f"{name}={raw[:40]!r} must be a number of seconds, as `now_s` in /status")
    return value


def _add_metrics(app: FastAPI, page: StatusPage) -> None:
    scrapes = exposition.Scrapes(page)

    @app.api_route("/metrics", methods=GET)
    def metrics() -> Response:
        return Response(scrapes.text(), headers={**NO_STORE, "content-type": exposition.CONTENT_TYPE})
