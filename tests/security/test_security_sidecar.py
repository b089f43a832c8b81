"""The sidecar's two doors: the same strictness, and probes that are answered whatever else happens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import evenkeel.sidecar.http.connection_limits as door
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.sidecar.rollout_service import RolloutService
from tests.security.cases import REFUSED
from tests.support import sidecar_app
from tests.support.sidecar_app import CONNECTIONS_MAX, App, ask

HEAD = b"POST /rollout HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a-token-of-the-tests\r\n"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    for name, seconds in (("IDLE_S", 3.0), ("REQUEST_S", 1.5), ("ANSWER_S", 3.0)):
        monkeypatch.setattr(door, name, seconds)
    page = StatusPage.create()
    with sidecar_app.serving_sidecar(page, RolloutService(page, tmp_path), tmp_path) as served:
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
def test_who_was_refused_and_lingers_gives_its_place_without_another_word(app: App, door_number: int) -> None:
    where = both(app)[door_number]
    crowd = [connect(where) for _ in range(CONNECTIONS_MAX)]
    for sock in crowd:
        sock.sendall(b"garbage\r\n\r\n")
        assert b" 400 " in sock.recv(65536)
    for _ in range(5):
        assert ask(where, "/livez").status in (200, 503)
    for sock in crowd:
        sock.close()


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


@pytest.mark.parametrize("door_number", [0, 1])
def test_a_body_behind_an_offer_to_upgrade_is_not_the_next_request(app: App, door_number: int) -> None:
    behind = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    offer = b"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(behind)
    answer = sent(both(app)[door_number], b"POST /livez HTTP/1.1\r\n" + offer + behind)
    assert answer.startswith(b"HTTP/1.1 405 ") and answer.count(b"HTTP/1.1 ") == 1, answer


def test_a_request_behind_an_offer_to_upgrade_is_answered_and_so_is_connection_close(app: App) -> None:
    offer = b"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    last = b"GET /livez HTTP/1.1\r\n" + offer + b"Connection: close\r\n\r\n"
    answer = sent(app.port, b"GET /livez HTTP/1.1\r\n" + offer + b"\r\n" + last)
    assert answer.count(b"HTTP/1.1 ") == 2 and answer.count(b"connection: close") == 1, answer


@pytest.mark.parametrize("door_number", [0, 1])
def test_a_client_that_ends_its_half_after_its_request_gets_its_answer(app: App, door_number: int) -> None:
    sock = connect(both(app)[door_number])
    sock.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
    sock.shutdown(socket.SHUT_WR)
    assert said(sock).startswith(b"HTTP/1.1 200 ")


def test_nobody_writes_a_line_of_the_log_by_a_bad_request(app: App, caplog: pytest.LogCaptureFixture) -> None:
    offer = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    for data in (b"x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", offer, b"GET / RTSP/1.0\r\n\r\n", b"GET /livez HTTP/1.1\r\n\r\n"):
        sent(app.port, data)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")] == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", b"TLS"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", b"PROXY protocol"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/2"),
    ],
)
def test_another_protocol_is_called_by_its_name(app: App, data: bytes, words: bytes) -> None:
    answer = sent(app.port, data)
    assert answer.startswith(b"HTTP/1.1 400 ") and words in answer
