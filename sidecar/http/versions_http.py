"""`/models…` on the sidecar: which versions are on disk, which serves, which is warm; and the wish for another one.

Decides nothing: the supervisor, who owns the engines, is asked, and says what will come of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from evenkeel.serve.contract import catalogue
from evenkeel.serve.contract.command_client import Asks
from evenkeel.serve.contract.commands import Verb
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import PLAN_TEXT, StatusPage
from evenkeel.serve.errors import BadRequest, NotFound
from evenkeel.sidecar.http.route_table import Routes
from evenkeel.sidecar.http.supervisor_answer import NotPossible, answer_of
from evenkeel.sidecar.watch import versions_view

BODY_BYTES_MAX = 4096
Guard = Callable[[Request], None]  # raises when the caller may change nothing


def add(routes: Routes, page: StatusPage, supervisor: Asks, guard: Guard, headers: dict[str, str]) -> None:
    @routes.get("/models")
    def all_models(request: Request) -> JSONResponse:
        return JSONResponse({"models": [versions_view.shown(page, time.time() - time.monotonic())]}, headers=headers)

    @routes.get("/models/{name}/versions")
    def of_one(request: Request) -> JSONResponse:
        _check_name(page, request.path_params["name"])
        return JSONResponse(versions_view.shown(page, time.time() - time.monotonic()), headers=headers)

    @routes.post("/models/{name}/versions")
    async def use(request: Request) -> JSONResponse:
        guard(request)
        version = _version(await request.body())
        _check_name(page, request.path_params["name"])
        return JSONResponse(await run_in_threadpool(_wish, page, supervisor, version), 202, headers)


def _check_name(page: StatusPage, name: str) -> None:
    served = (page.read_text(PLAN_TEXT).get("model") or {}).get("name", "")
    if name != served:
        raise NotFound(f"no model {name[:200]!r} here; there is {served}")


def _version(body: bytes) -> str:
    try:
        data = json.loads(body[: BODY_BYTES_MAX + 1])
    except (ValueError, RecursionError) as e:
        raise BadRequest('expected {"version": "2"}, the version to serve') from e
    if not isinstance(data, dict) or set(data) != {"version"} or not isinstance(data["version"], str) or not data["version"]:
        raise BadRequest('expected {"version": "2"}, the version to serve')
    return str(data["version"])


def _wish(page: StatusPage, supervisor: Asks, version: str) -> dict[str, Any]:
    """Raises NotFound for a version that is nowhere, NotPossible where there are no versions."""
    plan = page.read_text(PLAN_TEXT)
    swap = plan.get("swap") or {}
    if not swap.get("wanted"):
        raise NotPossible(f"{plan.get('model_dir', 'the model folder')} holds one model and no versions: {catalogue.LAYOUT}")
    problem, on_disk = versions_view.on_disk(plan)
    warm = [e["version"] for e in swap.get("revisions", []) if e["state"] != "leaving"]
    if version not in (*on_disk, *warm):
        hint = problem or f"there is {', '.join(on_disk) or 'none any more'}"
        raise NotFound(f"no version {version[:200]!r} of {plan['model']['name']} on disk: {hint}")
    log("version_asked", f"version {version} is asked for", version=version)
    answer = answer_of(supervisor, Verb.USE, {"version": version}, "GET /models says what came of it")
    return {"version": version, "how": answer["how"], "why": answer["why"], "serving": answer["serving"]}
