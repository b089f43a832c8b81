"""What the sidecar says over HTTP: the page for people, /status, probes, the Open Inference Protocol's words,
/models…, /drain, /rollout….

Two doors lead here: the TCP port, and the Unix socket in the run directory, whose callers are trusted because only the
container's own user can open it (`trusted` marks them). Nothing here decides on readiness.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from evenkeel.serve.contract.command_client import Asks
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.sidecar.http import changes_http, errors_http, people_http, probes_http
from evenkeel.sidecar.http.host_guard import TRUSTED, HostGuard
from evenkeel.sidecar.http.hosts import ANY, Hosts
from evenkeel.sidecar.http.route_table import Routes
from evenkeel.sidecar.rollout_service import RolloutService
from evenkeel.sidecar.watch.snapshot import Remembered


@dataclass(frozen=True, slots=True)
class Shown:
    """What the routes read, whom they ask, and the token for changing calls."""

    page: StatusPage
    remembered: Remembered
    judging: RolloutService
    supervisor: Asks
    token: str = ""
    hosts: Hosts = ANY  # what the TCP port may be called


def build(shown: Shown) -> Starlette:
    routes = Routes()
    people_http.add(routes, shown.page, shown.remembered, shown.judging)
    probes_http.add(routes, shown.page)
    changes_http.add(routes, shown.page, shown.supervisor, shown.judging, shown.token)
    guard = Middleware(HostGuard, allowed=shown.hosts)
    app = Starlette(routes=routes.all, middleware=[guard], exception_handlers=errors_http.handlers(routes.paths()))
    app.router.redirect_slashes = False
    return app


def trusted(app: ASGIApp) -> ASGIApp:
    """The same application for those who came through the Unix socket."""

    async def through_the_socket(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, TRUSTED: True}, receive, send)

    return through_the_socket
