"""What the sidecar is told at start."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass

ADMIN_SOCKET = "admin.sock"  # in the run directory: changing calls, to the sidecar
SUPERVISOR_SOCKET = "supervisor.sock"  # the same: commands, to the supervisor
TOKEN_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    """Handed down as an argument of the process, which every user of the machine can read: so no secrets in it. The
    token lies in a memfd, which stays open in the supervisor for the next sidecar."""

    listen_fd: int
    status_fd: int
    admin_fd: int  # the listening Unix socket for changing calls
    token_fd: int
    supervisor: str  # the address of the Unix socket where the supervisor takes commands
    run_dir: str  # private to our user: where a rollout in progress is saved
    log_text: bool
    log_fd: int = 1
    emf_period_s: float = 0.0  # 0: no metrics on stdout
    emf_namespace: str = "evenkeel"
    host: str = ""  # as it was configured: of the TCP port and of gRPC health
    grpc_port: int = 0  # 0: no gRPC health
    shape_log: str = ""  # file to keep the shapes in use in; empty: none


def dump(settings: SidecarSettings) -> str:
    return json.dumps(dataclasses.asdict(settings))


def parse(text: str) -> SidecarSettings:
    return SidecarSettings(**json.loads(text))


def hold_token(token: str) -> int:
    """A memfd that holds the token; empty when changing calls are not enabled over HTTP."""
    fd = os.memfd_create("evenkeel-token", os.MFD_CLOEXEC)
    os.write(fd, token.encode())
    return fd


def read_token(fd: int) -> str:
    return os.pread(fd, TOKEN_BYTES_MAX, 0).decode()
