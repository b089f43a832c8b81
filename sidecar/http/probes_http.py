"""For orchestrators: Kubernetes' probes and the words of the Open Inference Protocol."""

from __future__ import annotations

import time

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from evenkeel.serve.contract import inference_protocol, reach_cells
from evenkeel.serve.contract.inference_protocol import HealthAnswer
from evenkeel.serve.contract.lifecycle import conditions
from evenkeel.serve.contract.status_page import Main, StatusPage
from evenkeel.sidecar.http import probes
from evenkeel.sidecar.http.host_guard import GET, NO_STORE
from evenkeel.sidecar.http.probes import Probe
from evenkeel.sidecar.watch import snapshot


def add(app: FastAPI, page: StatusPage) -> None:
    _add_probes(app, page)
    _add_inference_protocol(app, page)


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
