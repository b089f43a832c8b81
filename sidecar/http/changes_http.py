"""What changes something: drains, versions and rollouts, for those who may."""

from __future__ import annotations

from starlette.requests import Request

from evenkeel.serve.contract.command_client import Asks
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.sidecar.http import drain_http, rollout_http, versions_http
from evenkeel.sidecar.http.host_guard import NO_STORE, require_authority
from evenkeel.sidecar.http.route_table import Routes
from evenkeel.sidecar.rollout_service import RolloutService


def add(routes: Routes, page: StatusPage, supervisor: Asks, judging: RolloutService, token: str) -> None:
    def guard(request: Request) -> None:
        require_authority(request, token)

    drain_http.add(routes, supervisor, guard)
    versions_http.add(routes, page, supervisor, guard, NO_STORE)
    rollout_http.add(routes, judging, guard, NO_STORE)
