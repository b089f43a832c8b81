"""The uvicorn server of one worker process: with our protocol for its connections, and the pages behind it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import uvicorn
from starlette.types import ASGIApp

from evenkeel.serve.front.http.acceptor import Server
from evenkeel.serve.front.http.connections import Connections
from evenkeel.serve.front.http.protocol import FrontProtocol
from evenkeel.serve.front.pages.paced import Paced
from evenkeel.serve.front.routing.self_connection import Connect
from evenkeel.serve.settings import FrontSettings


def make(pages: ASGIApp, connections: Connections, settings: FrontSettings, beat: Callable[[], Awaitable[None]]) -> Server:
    """`pages`: the ASGI application of what is no invocation. `beat`: called about once a second while the event loop turns."""
    config = uvicorn.Config(
        Paced(pages), http=functools.partial(FrontProtocol, connections),  # type: ignore[arg-type]
        log_config=None, access_log=False, lifespan="off", ws="none", server_header=False, date_header=False,
        proxy_headers=False, callback_notify=beat, timeout_notify=1,
        timeout_graceful_shutdown=round(settings.drain_s),
    )  # fmt: skip
    config.load()
    return Server(config, settings.fronts)


def own_connect(server: Server) -> Connect:
    """How the worker connects to itself: over the server's protocol, among the connections that the call names."""
    return functools.partial(FrontProtocol, config=server.config, server_state=server.server_state, app_state={})
