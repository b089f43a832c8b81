"""What stands before the routes on the TCP port: foreign Hosts, foreign pages, and those who guess at the token.

Owns the count of wrong tokens and the refusals that wait. Anyone who came through the Unix socket passes: only our own user can.
"""

from __future__ import annotations

import time
from asyncio import TimerHandle, get_running_loop, sleep

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from evenkeel.serve.contract import inference_protocol
from evenkeel.serve.contract.logline import log
from evenkeel.serve.errors import EvenkeelError
from evenkeel.serve.http.application import ABORT
from evenkeel.sidecar.http import auth, hosts
from evenkeel.sidecar.http.auth import Guesses
from evenkeel.sidecar.http.hosts import Hosts

TRUSTED = "evenkeel.trusted"  # a key of the ASGI scope, which no client can set
NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
WRONG_TOKEN_S = 0.5  # before a wrong token is refused; the right one never waits
WAITING_MAX = 32  # such refusals at once, well below the door's connections; those beyond lose their connection instead


def refusal(error: EvenkeelError, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(inference_protocol.error_body(error), error.status, {**NO_STORE, **(headers or {})})


def require_authority(request: Request, token: str) -> None:
    """Raises Unauthorized or Forbidden, unless the caller came through the Unix socket or shows the token."""
    if not request.scope.get(TRUSTED):
        auth.check(request.headers.getlist("authorization"), token)


class HostGuard:
    """The application behind a check of Host and Origin."""

    def __init__(self, app: ASGIApp, allowed: Hosts) -> None:
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and not scope.get(TRUSTED):
            try:
                hosts.check(scope["method"], scope["headers"], self._allowed)
            except EvenkeelError as e:
                app = refusal(e)
        await app(scope, receive, send)


class WrongTokens:
    """Refuses them slowly, and tells of them once a minute."""

    def __init__(self) -> None:
        self._guesses, self._waiting = Guesses(), 0
        self._timer: TimerHandle | None = None

    async def refuse(self, request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, EvenkeelError), "registered for WrongToken"
        self._count(request.client.host if request.client else "")
        if self._waiting >= WAITING_MAX:
            request.scope[ABORT]()
            return refusal(error)  # which nobody gets
        self._waiting += 1
        try:
            await sleep(WRONG_TOKEN_S)
        finally:
            self._waiting -= 1
        return refusal(error)

    def _count(self, peer: str) -> None:
        wait_s = self._guesses.add(peer, time.monotonic())
        if wait_s == 0:
            self._tell()
        elif self._timer is None:
            self._timer = get_running_loop().call_later(wait_s + 0.1, self._tell)

    def _tell(self) -> None:
        self._timer = None
        if due := self._guesses.told(time.monotonic()):
            count, peer = due
            message = f"{count} changing calls with a wrong token since the last such line, the newest from {peer}"
            log("wrong_admin_token", message, level="warning", count=count, peer=peer)
