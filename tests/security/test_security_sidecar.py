"""The sidecar's two doors: the same strictness, and probes that are answered whatever else happens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import sidecar.door as door
from serve.contract.status import StatusPage
from sidecar.judging import Judging
from tests.security.cases import REFUSED
from tests.support import sidecar_app
from tests.support.sidecar_app import CONNECTIONS_MAX, App, ask

HEAD = b"POST /rollout HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a-token-of-the-tests\r\n"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    for name, seconds in (("IDLE_S", 3.0), ("REQUEST_S", 1.5), ("ANSWER_S", 3.0)):
        monkeypatch.setattr(door, name, seconds)
    page = StatusPage.create()
    with sidecar_app.serving_sidecar(page, Judging(page, tmp_path), tmp_path) as served:
        yield served


def connect(where: int | Path) -> socket.socket:
    if isinstance(where, int):
        return socket.create_connection(("127.0.0.1", where), 15.0)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(15.0)
    sock.connect(str(where))
    return sock


def said(sock: socket.socket) -> bytes:
    """Everything until the server closes."""
    found = b""
    try:
        while data := sock.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    sock.close()
    return found


def both(app: App) -> tuple[int, Path]:
    return app.port, app.admin


def sent(where: int | Path, data: bytes) -> bytes:
    sock = connect(where)
    try:
        sock.sendall(data)
    except OSError:
        pass  # refused meanwhile
    return said(sock)


@pytest.mark.parametrize("name", [name for name, data in REFUSED.items() if len(data) < 1000])
def test_nothing_behind_an_ambiguous_request_is_answered(app: App, name: str) -> None:
    answer = sent(app.port, REFUSED[name] + b"GET /livez?verbose HTTP/1.1\r\nHost: smuggled\r\n\r\n")
    assert answer.count(b"content-length:") <= 1 and b"HTTP/1.1 200" not in answer, answer
    if b"chunk" not in name.encode() and "trailer" not in name and "extension" not in name:
        assert answer.startswith(b"HTTP/1.1 400 "), answer  # a body that nobody reads may break after the answer


@pytest.mark.parametrize("door_number", [0, 1])
def test_large_heads_and_bodies_are_refused(app: App, door_number: int) -> None:
    where = both(app)[door_number]
    assert b" 431 " in sent(where, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000)
    assert b" 431 " in sent(where, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    for garbage in (b"\0\1\2\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\0" + b"a" * 50, b"GET / HTTP/9.9\r\n\r\n"):
        assert b" 400 " in sent(where, garbage) and b'{"error":{"code":"bad_request"' in sent(where, garbage), garbage
    assert b" 431 " in sent(where, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: 1\r\n" % i for i in range(200)) + b"\r\n")
    assert b" 413 " in sent(where, HEAD + b"Content-Length: 10000000\r\n\r\n" + b" " * 1_000_000)


@pytest.mark.parametrize("door_number", [0, 1])
def test_slow_heads_slow_bodies_and_silence_end(app: App, door_number: int) -> None:
    where = both(app)[door_number]
    assert b"header_timeout" in sent(where, b"GET /livez HT")
    assert b"body_timeout" in sent(where, HEAD + b"Content-Length: 10\r\n\r\n{")
    assert sent(where, b"") == b"", "silent from the start"
    assert sent(where, b"\r\n") == b""


@pytest.mark.parametrize("door_number", [0, 1])
def test_probes_are_answered_however_many_are_connected(app: App, door_number: int) -> None:
    where = both(app)[door_number]
    crowd = [connect(where) for _ in range(3 * CONNECTIONS_MAX)]
    for _ in range(5):
        assert ask(where, "/livez").status in (200, 503)
    first = said(crowd[0])
    assert b" 503 " in first and b"too_many_connections" in first, "the oldest made room, and was told why"
    for sock in crowd[1:]:
        sock.close()
