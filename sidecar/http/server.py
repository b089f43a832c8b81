"""One application behind two doors: the TCP port, and the Unix socket for those who may change things."""

from __future__ import annotations

import functools
import os
import socket
import threading
from pathlib import Path

import uvicorn

from evenkeel.serve.contract.command_client import CommandClient
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.sidecar.http.app import Shown, build, trusted
from evenkeel.sidecar.http.connection_limits import ConnectionLimits, SidecarProtocol
from evenkeel.sidecar.http.hosts import Hosts
from evenkeel.sidecar.rollout_service import RolloutService
from evenkeel.sidecar.settings import SidecarSettings, read_token
from evenkeel.sidecar.watch.snapshot import Remembered
from evenkeel.sidecar.watch.watch_loop import LEAVE_S


def serve(page: StatusPage, remembered: Remembered, settings: SidecarSettings) -> None:
    """The TCP port in this thread, the Unix socket for changing calls in another, one application for both."""
    judging = RolloutService(page, Path(settings.run_dir))
    judging.start()
    supervisor = CommandClient(settings.supervisor)
    app = build(Shown(page, remembered, judging, supervisor, read_token(settings.token_fd), called(settings)))
    threading.Thread(target=run_server, args=(trusted(app), settings.admin_fd), name="admin", daemon=True).start()
    if settings.grpc_port:
        from evenkeel.sidecar.export import grpc_health

        grpc_health.start(page, settings.host, settings.grpc_port)
    run_server(app, settings.listen_fd)


def called(settings: SidecarSettings) -> Hosts:
    """What the TCP port may be called: its own descriptor stays open for anyone who listens on it."""
    with socket.socket(fileno=os.dup(settings.listen_fd)) as listener:
        return Hosts.of(listener.getsockname()[0], [settings.host])


def run_server(app: object, listen_fd: int) -> None:
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, ws="none",  # type: ignore[arg-type]
        http=functools.partial(SidecarProtocol, ConnectionLimits()),  # type: ignore[arg-type]
        timeout_graceful_shutdown=LEAVE_S)  # fmt: skip
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listen_fd)])
