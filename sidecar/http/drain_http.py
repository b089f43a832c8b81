"""`POST /drain` on the sidecar: the supervisor is asked to finish what was accepted and to end the container."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from evenkeel.serve.contract.command_client import Asks
from evenkeel.serve.contract.commands import Verb
from evenkeel.serve.contract.logline import log
from evenkeel.sidecar.http.host_guard import TRUSTED
from evenkeel.sidecar.http.route_table import Routes
from evenkeel.sidecar.http.supervisor_answer import answer_of
from evenkeel.sidecar.http.versions_http import Guard


def add(routes: Routes, supervisor: Asks, guard: Guard) -> None:
    @routes.post("/drain")
    def drain(request: Request) -> JSONResponse:
        """In a thread: the answer may be a while in coming."""
        guard(request)
        already = bool(answer_of(supervisor, Verb.DRAIN, {}, "ask again, or send it SIGTERM")["already"])
        if not already:
            log("drain_asked", "asked to drain", over="unix socket" if request.scope.get(TRUSTED) else "http")
        return JSONResponse({"draining": True, "already": already}, 202)
