"""How commands ask the sidecar of a container that runs on this machine: where it is, and one HTTP call to it."""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evenkeel.container.environment import Environment
from evenkeel.sidecar.settings import ADMIN_SOCKET

TIMEOUT_S = 10.0
REPLY_BYTES_MAX = 16 << 20
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # listening everywhere, it is reached at home


class NoAnswer(Exception):
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


def admin_sockets(env: Environment) -> list[Path]:
    """Of the containers that run here with this run directory and under our user."""
    folder = Path(env["EVENKEEL_RUN_DIR"] or tempfile.gettempdir())
    return sorted(path for path in folder.glob(f"evenkeel-*/{ADMIN_SOCKET}") if _somebody_listens(path))


def _somebody_listens(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(str(path))
    except OSError:
        return False
    return True


def only_socket(env: Environment) -> Path:
    """The one container that runs here. Raises NoAnswer when there is none, or more than one to choose from."""
    found = admin_sockets(env)
    if not found:
        raise NoAnswer("no container of yours runs here: name its socket with --socket, or its address with --url")
    if len(found) > 1:
        raise NoAnswer(f"{len(found)} containers run here, choose with --socket: {', '.join(map(str, found))}")
    return found[0]
