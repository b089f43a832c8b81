"""A request that the ASGI application answers: uvicorn's cycle around it, begun when its body is all here.

The cycle writes the answer to the transport by itself; the connection only learns that it is done.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from evenkeel.serve.errors import BodyTooLarge
from evenkeel.serve.http import strict
from evenkeel.serve.http.strict import RequestHead

if TYPE_CHECKING:
    from uvicorn.protocols.http.flow_control import FlowControl

    from evenkeel.serve.http.connection import Connection


ABORT = "evenkeel.abort"  # a key of the ASGI scope, which no client can set: ends the connection without an answer


class ApplicationRequest:
    """From its head to its answer."""

    def __init__(self, head: RequestHead, body_bytes_max: int) -> None:
        self.head = head
        self.keep_alive = head.keep_alive
        self._body = bytearray()
        self._body_bytes_max = body_bytes_max
        self._cycle: RequestResponseCycle | None = None
        if (head.length or 0) > body_bytes_max:
            raise self._too_large()

    def append(self, piece: bytes) -> None:
        if len(self._body) + len(piece) > self._body_bytes_max:
            raise self._too_large()
        self._body += piece

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is larger than {self._body_bytes_max} bytes, the limit of this path")

    def start(self, connection: Connection) -> None:
        """Give it to the application."""
        scope = scope_of(self.head, connection)
        self._cycle = cycle = RequestResponseCycle(
            scope=scope, transport=connection.transport, flow=Writing(connection.flow), logger=connection.logger,  # type: ignore[arg-type]
            access_logger=connection.logger, access_log=False, default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(), expect_100_continue=False, keep_alive=self.keep_alive,
            on_response=lambda: connection.answered(self._keeps()),
        )  # fmt: skip
        cycle.body, cycle.more_body = self._body, False
        cycle.message_event.set()
        task = connection.loop.create_task(cycle.run_asgi(_answers_head(connection.app)))
        tasks = connection.server_state.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def be_last(self) -> None:
        """The connection ends with this answer."""
        self.keep_alive = False
        if self._cycle is not None:
            self._cycle.keep_alive = False

    def _keeps(self) -> bool:
        return self._cycle is not None and self._cycle.keep_alive  # the application may have said that it is the last

    def leave(self) -> None:
        """The client is gone."""
        if self._cycle is not None:
            self._cycle.disconnected = True
            self._cycle.message_event.set()


class Writing:
    """Of a connection's flow control what an answer needs. The cycle would also begin to read again, ahead of its turn."""

    def __init__(self, flow: FlowControl) -> None:
        self._flow = flow

    @property
    def write_paused(self) -> bool:
        return self._flow.write_paused

    async def drain(self) -> None:
        await self._flow.drain()

    def resume_reading(self) -> None:
        """The whole request has been read, and the next has its turn when this one is answered."""


def scope_of(head: RequestHead, connection: Connection) -> dict[str, Any]:
    target = strict.read_target(head.target)
    return {
        "type": "http", "asgi": {"version": connection.asgi_version, "spec_version": "2.3"}, "http_version": head.version,
        "server": get_local_addr(connection.transport), "client": get_remote_addr(connection.transport), "scheme": "http",
        "root_path": "", "headers": list(head.headers), "state": connection.app_state.copy(),
        "method": head.method.decode("ascii"), "path": target.path.decode("utf-8", "replace"),
        "raw_path": target.raw_path, "query_string": target.query, ABORT: connection.transport.abort,
    }  # fmt: skip


def _answers_head(app: Any) -> Any:
    """The application with HEAD wherever it has GET (RFC 9110, 9.3.2): the cycle leaves the body out by itself."""

    async def as_get(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await app({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, send)

    return as_get
