"""The sidecar's paths, each with what answers it: Starlette's, gathered by decorators.

FastAPI, which the data port uses, would read schemas that nothing here has, for 15 MB of memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Endpoint = TypeVar("Endpoint", bound=Callable[[Request], Response] | Callable[[Request], Awaitable[Response]])


class Routes:
    """What is a coroutine answers on the event loop, everything else in a thread. A path that can be read answers HEAD, too."""

    def __init__(self) -> None:
        self.all: list[Route] = []

    def get(self, *paths: str) -> Callable[[Endpoint], Endpoint]:
        return self._at(paths, "GET")

    def post(self, path: str) -> Callable[[Endpoint], Endpoint]:
        return self._at((path,), "POST")

    def delete(self, path: str) -> Callable[[Endpoint], Endpoint]:
        return self._at((path,), "DELETE")

    def paths(self) -> list[str]:
        return sorted({route.path for route in self.all})

    def _at(self, paths: tuple[str, ...], method: str) -> Callable[[Endpoint], Endpoint]:
        def add(endpoint: Endpoint) -> Endpoint:
            self.all += [Route(path, endpoint, methods=[method]) for path in paths]
            return endpoint

        return add
