"""`/rollout…` on the sidecar: name a rollout, go to its next stage, end it, and read the decision. Decides nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from evenkeel.serve.errors import BadRequest, BodyTimeout, BodyTooLarge
from evenkeel.sidecar.http.route_table import Routes
from evenkeel.sidecar.rollout import adapters
from evenkeel.sidecar.rollout.judge_errors import CannotJudge
from evenkeel.sidecar.rollout.spec import Split, from_json, split_from_json
from evenkeel.sidecar.rollout_service import RolloutService

BODY_BYTES_MAX = 64 << 10
BODY_S_MAX = 10.0

Guard = Callable[[Request], None]  # raises when the caller may change nothing


def add(routes: Routes, judging: RolloutService, guard: Guard, headers: dict[str, str]) -> None:
    _add_reading(routes, judging, headers)

    @routes.post("/rollout")
    async def name(request: Request) -> JSONResponse:
        guard(request)
        data = await _json(request)
        return JSONResponse(await _asked(lambda: judging.name(from_json(data, _name_of_now()))), 202, headers)

    @routes.delete("/rollout")
    async def end(request: Request) -> JSONResponse:
        guard(request)
        return JSONResponse({"ended": await run_in_threadpool(judging.end)}, 200, headers)

    @routes.post("/rollout/stage")
    async def stage(request: Request) -> JSONResponse:
        guard(request)
        data = await _json(request)
        return JSONResponse(await _asked(lambda: judging.next_stage(_split(data))), 202, headers)


def _add_reading(routes: Routes, judging: RolloutService, headers: dict[str, str]) -> None:
    @routes.get(adapters.DECISION)
    def decision(request: Request) -> JSONResponse:
        return JSONResponse(judging.shown(), 200, headers)

    @routes.get("/rollout/log")
    def replay_log(request: Request) -> Response:
        text = "".join(line + "\n" for line in judging.log_lines())
        return Response(text, 200, {**headers, "content-type": "application/jsonlines"})

    @routes.post(adapters.FLAGGER + "{hook}")
    def flagger(request: Request) -> JSONResponse:
        """What Flagger sends, the canary's name, is not read: a sidecar follows one rollout."""
        reply = adapters.answer("POST", adapters.FLAGGER + request.path_params["hook"], judging.shown())
        return JSONResponse(reply.body, reply.status, headers)


def _name_of_now() -> str:
    return time.strftime("rollout-%Y%m%dT%H%M%SZ", time.gmtime())


def _split(data: object) -> Split | None:
    if not isinstance(data, dict) or set(data) != {"split"}:
        raise BadRequest('expected {"split": {"baseline": 1, "candidate": 1}}, the weights from now on, or "unchecked"')
    split = split_from_json("split", data["split"])
    return None if isinstance(split, str) else split


async def _asked(change: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """In a thread, because it writes files; what is wrong with the request becomes a 400."""
    try:
        return await run_in_threadpool(change)
    except CannotJudge as e:
        raise BadRequest(e.message) from e


async def _json(request: Request) -> object:
    try:
        async with asyncio.timeout(BODY_S_MAX):
            body = await _body(request)
    except TimeoutError as e:
        raise BodyTimeout(f"the body did not come within {BODY_S_MAX:g} s") from e
    try:
        return json.loads(body, parse_constant=_no_constant, object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as e:
        raise BadRequest(f"the body is not JSON: {str(e)[:200] or type(e).__name__}") from e


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise BodyTooLarge(f"at most {BODY_BYTES_MAX} bytes name a rollout")
    return bytes(body)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key given twice would leave it to chance which one counts."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key is given twice")
    return fields
