"""The sidecar's real HTTP application in this process: on a port of 127.0.0.1 as for strangers, and on a Unix socket."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.sidecar.http.app import Shown, build, trusted
from evenkeel.sidecar.http.connection_limits import ConnectionLimits, SidecarProtocol
from evenkeel.sidecar.http.hosts import Hosts
from evenkeel.sidecar.rollout_service import RolloutService
from evenkeel.sidecar.watch.snapshot import Remembered
from evenkeel.sidecar.watch.transitions import TransitionLog
from tests.support.fake_supervisor import FakeSupervisor

CONNECTIONS_MAX = 16
TOKEN = "a-token-of-the-tests"


@dataclass(frozen=True)
class Said:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("sidecar", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


def ask(where: int | Path, path: str, method: str = "GET", body: object = None, **headers: str) -> Said:
    """`where`: a port or a Unix socket. A body that is no bytes is sent as JSON."""
    connection = _Unix(where) if isinstance(where, Path) else http.client.HTTPConnection("127.0.0.1", where, timeout=20)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    with contextlib.closing(connection):
        connection.request(method, path, body=data, headers=headers)
        reply = connection.getresponse()
        return Said(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read().decode())


@dataclass(frozen=True)
class App:
    port: int
    admin: Path
    supervisor: FakeSupervisor

    def ask(self, path: str, method: str = "GET", body: object = None) -> Said:
        """As whoever may change things."""
        return ask(self.admin, path, method, body)


@contextlib.contextmanager
def serving_sidecar(page: StatusPage, judging: RolloutService, folder: Path, token: str = TOKEN) -> Iterator[App]:
    supervisor = FakeSupervisor()
    app = build(Shown(page, Remembered(memory=TransitionLog()), judging, supervisor, token, Hosts.of("127.0.0.1")))
    tcp = socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.bind(str(folder / "admin.sock"))
    unix.listen()
    with contextlib.ExitStack() as stack:
        for served, sock in ((app, tcp), (trusted(app), unix)):
            stack.enter_context(_running(served, sock))
        yield App(tcp.getsockname()[1], folder / "admin.sock", supervisor)


@contextlib.contextmanager
def _running(app: Any, sock: socket.socket) -> Iterator[None]:
    http: Any = functools.partial(SidecarProtocol, ConnectionLimits(CONNECTIONS_MAX))
    config = uvicorn.Config(
        app, http=http, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
        sock.close()
