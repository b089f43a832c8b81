"""How commands ask the sidecar of a container: one HTTP call, over its Unix socket or its port."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evenkeel.container.environment import Environment

TIMEOUT_S = 10.0
REPLY_BYTES_MAX = 16 << 20
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # listening everywhere, it is reached at home


class CommandFailed(Exception):
    """What came of it instead, in words for the person who typed the command."""


class NoAnswer(CommandFailed):
    """Nobody is there, or not one of ours. The message says where we asked."""


@dataclass(frozen=True, slots=True)
class SidecarReply:
    status: int
    body: dict[str, Any]

    @property
    def error(self) -> str:
        """What a refusal says, for people."""
        told = self.body.get("error")
        return str(told.get("message")) if isinstance(told, dict) else f"status {self.status}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("sidecar", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class SidecarAddress:
    """Where a sidecar is asked: by its Unix socket, which needs no token, or else by its URL."""

    where: str  # the URL, or what is shown of the socket
    socket: Path | None = None
    token: str = ""

    def call(self, method: str, path: str, body: bytes = b"") -> SidecarReply:
        """Raises NoAnswer, saying why."""
        if self.socket is not None:
            return over_socket(method, self.socket, path, body)
        return over_http(method, self.where, path, {"Authorization": f"Bearer {self.token}"} if self.token else {}, body)

    def answers(self) -> bool:
        try:
            return "ready" in self.call("GET", "/status?points_after_s=1e18").body
        except NoAnswer:
            return False


def sidecar_url(env: Environment) -> str:
    """Where the settings say that the sidecar is. Raises NoAnswer for port 0, which only the kernel knows."""
    host, port = env.sidecar
    if len(env.sidecar_ports) > 1:
        raise NoAnswer("the sidecar has a port of SAGEMAKER_SAFE_PORT_RANGE, which the log names: say where it is with --url")
    if not port:
        raise NoAnswer("EVENKEEL_SIDECAR_ADDRESS names port 0, any port: say where the sidecar is with --url")
    host = ANYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def over_http(method: str, url: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> SidecarReply:
    """Raises NoAnswer, saying why."""
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise NoAnswer(f"{url} is no address: {e}") from e
    if parts.scheme not in ("http", "https") or not host:
        raise NoAnswer(f"{url} is no address: it must be http://HOST:PORT")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return _call(kind(host, port, timeout=TIMEOUT_S), url, method, parts.path.rstrip("/") + path, headers, body)


def over_socket(method: str, socket_path: Path, path: str, body: bytes = b"") -> SidecarReply:
    return _call(_UnixConnection(str(socket_path)), str(socket_path), method, path, {}, body)


def _call(
    connection: http.client.HTTPConnection, where: str, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
) -> SidecarReply:
    try:
        connection.request(method, path, body=body or None, headers=dict(headers))
        answer = connection.getresponse()
        found = json.loads(answer.read(REPLY_BYTES_MAX))
    except (OSError, http.client.HTTPException) as e:
        raise NoAnswer(f"nothing answers at {where}: {getattr(e, 'strerror', None) or e}") from e
    except (ValueError, RecursionError) as e:
        raise NoAnswer(f"what answers at {where} is no evenkeel sidecar") from e
    finally:
        connection.close()
    if not isinstance(found, dict):
        raise NoAnswer(f"what answers at {where} is no evenkeel sidecar")
    return SidecarReply(answer.status, found)
