"""`/models` on the data port of a container of many: load, list, look at, unload. Invoking is the hot path's.

Lists and looks read the table and ask nobody. Loads and unloads are the supervisor's to decide; who asks waits for what comes
of it. `app.state.models` must be set.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from evenkeel.serve.contract.commands import CommandError, Refusal, Verb
from evenkeel.serve.contract.model_table import LoadedNames, ModelRow
from evenkeel.serve.errors import BadRequest, EvenkeelError, ModelExists, NoRoom, NotFound, NotReady
from evenkeel.serve.front.pages.model_request import ModelRequest, model_request, page_bounds
from evenkeel.serve.front.pages.routes import model_name
from evenkeel.serve.front.pages.supervisor_client import SupervisorClient
from evenkeel.serve.front.routing.named_models import not_loaded

LOAD_S, UNLOAD_S = 300.0, 345.0  # that an answer is waited for; the platform waits 360 s for an unload

routes = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class ModelsApi:
    """What these pages need of their worker."""

    names: LoadedNames
    supervisor: SupervisorClient
    root: Path


@routes.get("/models")
async def list_models(request: Request, next_page_token: str | None = None, limit: str | None = None) -> JSONResponse:
    try:
        first, count = page_bounds(next_page_token, limit)
    except BadRequest as e:
        return refused(request, e)
    rows, following = _api(request).names.page(first, count)
    more = {} if following is None else {"nextPageToken": str(following)}
    return JSONResponse({"models": [_shown(row) for row in rows], **more})


@routes.post("/models")
async def load_model(request: Request) -> JSONResponse:
    api = _api(request)
    try:
        wanted = await run_in_threadpool(model_request, await request.body(), api.root)
        if api.names.find(wanted.name) is not None:
            raise ModelExists(f"model {wanted.name!r} is loaded already")
        await _ask(api, Verb.ADD_MODEL, LOAD_S, name=wanted.name, url=wanted.url, folder=wanted.folder)
    except EvenkeelError as e:
        return refused(request, e)
    return JSONResponse(_loaded(wanted))


@routes.get("/models/{rest:path}")
async def show_model(request: Request) -> JSONResponse:
    try:
        name = model_name(request.scope["raw_path"])
        row = _api(request).names.find(name)
        if row is None:
            raise not_loaded(name)
    except EvenkeelError as e:
        return refused(request, e)
    return JSONResponse(_shown(row))


@routes.delete("/models/{rest:path}")
async def unload_model(request: Request) -> JSONResponse:
    try:
        name = model_name(request.scope["raw_path"])
        await _ask(_api(request), Verb.REMOVE_MODEL, UNLOAD_S, name=name)
    except EvenkeelError as e:
        return refused(request, e)
    return JSONResponse({"modelName": name})


def _api(request: Request) -> ModelsApi:
    api: ModelsApi = request.app.state.models
    return api


async def _ask(api: ModelsApi, verb: Verb, within_s: float, **arguments: str) -> None:
    try:
        await api.supervisor.ask(verb, arguments, within_s)
    except CommandError as e:
        raise _translated(e) from e


def _translated(error: CommandError) -> EvenkeelError:
    kinds: dict[str, type[EvenkeelError]] = {
        Refusal.LOADED: ModelExists, Refusal.NOT_LOADED: NotFound, Refusal.NO_MEMORY: NoRoom, Refusal.FAILED: BadRequest,
        Refusal.MALFORMED: BadRequest, Refusal.TOO_LONG: BadRequest,
    }  # fmt: skip
    return kinds.get(error.refusal, NotReady)(error.message, retry_after_s=error.retry_after_s)


def refused(request: Request, error: EvenkeelError) -> JSONResponse:
    request.app.state.count_error(error)
    headers = {"Retry-After": str(round(error.retry_after_s))} if error.retry_after_s else None
    content: dict[str, Any] = {"error": {"code": error.code, "message": error.message}}
    return JSONResponse(content, error.status, headers)


def _shown(row: ModelRow) -> dict[str, str]:
    return {"modelName": row.name, "modelUrl": row.url}


def _loaded(model: ModelRequest) -> dict[str, str]:
    return {"modelName": model.name, "modelUrl": model.url}
