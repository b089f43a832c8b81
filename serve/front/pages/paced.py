"""The ASGI application, a few requests in each turn of the event loop.

What goes through the framework costs ten times as much as a request to the model. However many such requests one client sends at
once, the hot path has its turn after a few of them.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

BEGUN_MAX = 2  # a turn; each takes 0.1 to 0.3 ms


class Paced:
    """Owner of the requests to the application that have not begun."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._begun = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._begun >= BEGUN_MAX:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        else:
            self._count()
        await self._app(scope, receive, send)

    def _count(self) -> None:
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._begun += 1

    def _next_turn(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < BEGUN_MAX:
            turn = self._waiting.popleft()
            if not turn.done():  # else it was cancelled
                self._count()
                turn.set_result(None)
