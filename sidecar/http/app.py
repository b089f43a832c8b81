"""What the sidecar says over HTTP: the page for people, /status, probes, the Open Inference Protocol's words,
/models…, /drain, /rollout….

Two doors lead here: the TCP port, and the Unix socket in the run directory, whose callers are trusted because only the
container's own user can open it (`trusted` marks them). Nothing here decides on readiness.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from evenkeel.serve import exposition
from evenkeel.serve.contract import inference_protocol, reach_cells
from evenkeel.serve.contract.command_client import Asks
from evenkeel.serve.contract.inference_protocol import HealthAnswer
from evenkeel.serve.contract.lifecycle import conditions
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Main, StatusPage
from evenkeel.serve.errors import BadRequest, EvenkeelError, MethodNotAllowed, NotFound
from evenkeel.sidecar.http import auth, drain_http, page_html, probes, rollout_http, versions_http
from evenkeel.sidecar.http.auth import WrongToken
from evenkeel.sidecar.http.host_guard import NO_STORE, TRUSTED, HostGuard, WrongTokens, refusal
from evenkeel.sidecar.http.hosts import ANY, Hosts
from evenkeel.sidecar.http.probes import Probe
from evenkeel.sidecar.rollout_service import RolloutService
from evenkeel.sidecar.watch import snapshot
from evenkeel.sidecar.watch.snapshot import Remembered, Snapshot

GET = ["GET", "HEAD"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the routes read, whom they ask, and the token for changing calls."""

    page: StatusPage
    remembered: Remembered
    judging: RolloutService
    supervisor: Asks
    token: str = ""
    hosts: Hosts = ANY  # what the TCP port may be called


def build(shown: Shown) -> FastAPI:
    app = FastAPI(title="evenkeel sidecar", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(HostGuard, allowed=shown.hosts)
    _add_errors(app)
    _add_people(app, shown)
    _add_metrics(app, shown.page)
    _add_probes(app, shown.page)
    _add_inference_protocol(app, shown.page)
    _add_changes(app, shown)
    return app


def trusted(app: ASGIApp) -> ASGIApp:
    """The same application for those who came through the Unix socket."""

    async def through_the_socket(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, TRUSTED: True}, receive, send)

    return through_the_socket


def now() -> Snapshot:
    return Snapshot(time.monotonic(), time.time())


# ---- for people and programs that want to know everything --------------------------------------------------------------


def _add_people(app: FastAPI, shown: Shown) -> None:
    text, policy = page_html.load()

    @app.api_route("/", methods=GET)
    def people() -> HTMLResponse:
        return HTMLResponse(text, headers={**NO_STORE, "Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})

    @app.api_route("/status", methods=GET)
    def status(request: Request) -> JSONResponse:
        after_s = _number(request, "points_after_s")
        at = now()
        body = snapshot.status(shown.page, at, shown.remembered, after_s)
        return JSONResponse({**body, "rollout": shown.judging.status(at.unix)}, headers=NO_STORE)


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


# ---- for orchestrators -------------------------------------------------------------------------------------------------


def _add_probes(app: FastAPI, page: StatusPage) -> None:
    """Coroutines, since they only read the page: threads may all wait for a disk."""

    @app.api_route("/livez", methods=GET)
    async def livez(request: Request) -> PlainTextResponse:
        return _probe(probes.live(time.monotonic() - page.main.value[Main.VERDICT_BEAT_S]), request)

    @app.api_route("/readyz", methods=GET)
    async def readyz(request: Request) -> PlainTextResponse:
        verdict = page.verdict()
        fronts = reach_cells.front_views(page, time.monotonic())
        verdicts = conditions(snapshot.replica_views(page), snapshot.leaving(page), fronts)
        return _probe(probes.ready(verdict, verdicts), request)

    @app.api_route("/startupz", methods=GET)
    def startupz(request: Request) -> PlainTextResponse:
        views = snapshot.replica_views(page)
        return _probe(probes.started(bool(views) and all(r.proven for r in views)), request)


def _probe(probe: Probe, request: Request) -> PlainTextResponse:
    return PlainTextResponse(probe.text("verbose" in request.query_params), probe.status, NO_STORE)


def _add_inference_protocol(app: FastAPI, page: StatusPage) -> None:
    @app.api_route("/v2/health/live", methods=GET)
    def live() -> JSONResponse:
        return _answer(inference_protocol.live())

    @app.api_route("/v2/health/ready", methods=GET)
    def ready() -> JSONResponse:
        return _answer(inference_protocol.ready(page))

    @app.api_route("/v2/models/{name}/ready", methods=GET)
    @app.api_route("/v2/models/{name}/versions/{version}/ready", methods=GET)
    def model_ready(name: str, version: str | None = None) -> JSONResponse:
        return _answer(inference_protocol.model_ready(page, name, version))


def _answer(answer: HealthAnswer) -> JSONResponse:
    return JSONResponse(answer.body, answer.status, NO_STORE)


# ---- changing calls ----------------------------------------------------------------------------------------------------


def _add_changes(app: FastAPI, shown: Shown) -> None:
    def guard(request: Request) -> None:
        _require_authority(request, shown.token)

    drain_http.add(app, shown.supervisor, guard)
    versions_http.add(app, shown.page, shown.supervisor, guard, NO_STORE)
    rollout_http.add(app, shown.judging, guard, NO_STORE)


def _require_authority(request: Request, token: str) -> None:
    if not request.scope.get(TRUSTED):
        auth.check(request.headers.getlist("authorization"), token)


# ---- errors ------------------------------------------------------------------------------------------------------------


def _add_errors(app: FastAPI) -> None:
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
