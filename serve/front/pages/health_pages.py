"""`/v2/health/…` and `/v2/models/{name}/ready` on the data port: the Open Inference Protocol's words for the verdict.

Reads the status page, so `app.state.page` must be set. Those that read an engine's text may wait for its writer, so they run in
FastAPI's thread.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from evenkeel.serve.contract import inference_protocol
from evenkeel.serve.contract.inference_protocol import HealthAnswer
from evenkeel.serve.errors import NotFound

METHODS = ["GET", "HEAD"]

router = APIRouter()


@router.api_route("/v2/health/live", methods=METHODS)
async def live() -> JSONResponse:
    return _reply(inference_protocol.live())


@router.api_route("/v2/health/ready", methods=METHODS)
async def ready(request: Request) -> JSONResponse:
    return _reply(inference_protocol.ready(request.app.state.page))


@router.api_route("/v2/models/{name}/ready", methods=METHODS)
@router.api_route("/v2/models/{name}/versions/{version}/ready", methods=METHODS)
def model_ready(request: Request, name: str, version: str | None = None) -> JSONResponse:
    try:
        return _reply(inference_protocol.model_ready(request.app.state.page, name, version))
    except NotFound as e:
        request.app.state.count_error(e)
        return JSONResponse(inference_protocol.error_body(e), e.status)


def _reply(answer: HealthAnswer) -> JSONResponse:
    return JSONResponse(answer.body, answer.status)
