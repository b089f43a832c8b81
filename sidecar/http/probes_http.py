"""For orchestrators: Kubernetes' probes and the words of the Open Inference Protocol."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from evenkeel.serve.contract import inference_protocol, reach_cells
from evenkeel.serve.contract.inference_protocol import HealthAnswer
from evenkeel.serve.contract.lifecycle import conditions
from evenkeel.serve.contract.status_page import Main, StatusPage
from evenkeel.sidecar.http import probes
from evenkeel.sidecar.http.host_guard import NO_STORE
from evenkeel.sidecar.http.probes import Probe
from evenkeel.sidecar.http.route_table import Routes
from evenkeel.sidecar.watch import snapshot


def add(routes: Routes, page: StatusPage) -> None:
    _add_probes(routes, page)
    _add_inference_protocol(routes, page)


def _add_probes(routes: Routes, page: StatusPage) -> None:
    """Coroutines, since they only read the page: threads may all wait for a disk."""

    @routes.get("/livez")
    async def livez(request: Request) -> PlainTextResponse:
        return _probe(probes.live(time.monotonic() - page.main.value[Main.VERDICT_BEAT_S]), request)

    @routes.get("/readyz")
    async def readyz(request: Request) -> PlainTextResponse:
        verdict = page.verdict()
        fronts = reach_cells.front_views(page, time.monotonic())
        verdicts = conditions(snapshot.replica_views(page), snapshot.leaving(page), fronts)
        return _probe(probes.ready(verdict, verdicts), request)

    @routes.get("/startupz")
    def startupz(request: Request) -> PlainTextResponse:
        views = snapshot.replica_views(page)
        return _probe(probes.started(bool(views) and all(r.proven for r in views)), request)


def _probe(probe: Probe, request: Request) -> PlainTextResponse:
    return PlainTextResponse(probe.text("verbose" in request.query_params), probe.status, NO_STORE)


def _add_inference_protocol(routes: Routes, page: StatusPage) -> None:
    @routes.get("/v2/health/live")
    def live(request: Request) -> JSONResponse:
        return _answer(inference_protocol.live())

    @routes.get("/v2/health/ready")
    def ready(request: Request) -> JSONResponse:
        return _answer(inference_protocol.ready(page))

    @routes.get("/v2/models/{name}/ready", "/v2/models/{name}/versions/{version}/ready")
    def model_ready(request: Request) -> JSONResponse:
        return _answer(inference_protocol.model_ready(page, request.path_params["name"], request.path_params.get("version")))


def _answer(answer: HealthAnswer) -> JSONResponse:
    return JSONResponse(answer.body, answer.status, NO_STORE)
