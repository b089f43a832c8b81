"""The judge's one GET, of peers that mean no good: each ends by the deadline, and in our own words."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from evenkeel.sidecar.rollout import fetch as fetching
from evenkeel.sidecar.rollout.fetch import HEAD_BYTES_MAX, Unreachable, fetch
from evenkeel.sidecar.rollout.judge_errors import CannotJudge
from evenkeel.sidecar.rollout.lookup import Lookups
from evenkeel.sidecar.rollout.rule import Arm
from evenkeel.sidecar.rollout.sources import METRICS_BYTES_MAX, Direct, Prometheus, targets

SECRET = "ASIAVERYSECRET"
GOOD = b'evenkeel_requests_total{code="200"} 100\nevenkeel_ready 1\n'
SOON_S = 20.0  # far beyond any deadline here, far below for ever
Peer = Callable[[socket.socket], None]


@contextmanager
def peer(behave: Peer) -> Iterator[str]:
    """HOST:PORT whose every connection goes to `behave`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=one, args=(server.accept()[0],), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                behave(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def says(*pieces: bytes) -> Peer:
    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)

    return behave


def repeats(first: bytes, again: bytes, pause_s: float = 0.0) -> Peer:
    def behave(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(again)
            time.sleep(pause_s)

    return behave


def answer(body: bytes, head: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def redirect(to: bytes) -> bytes:
    return answer(b"", b"Location: " + to + b"\r\n", b"302 " + SECRET.encode())


HEAD = b"HTTP/1.1 200 OK\r\n"
TELLING = SECRET.encode()
HOSTILE: dict[str, tuple[Peer, str]] = {
    "file": (says(redirect(b"file:///etc/hostname")), "a redirect (302), which is not followed"),
    "an unknown status": (says(answer(b"", status=b"299 " + TELLING)), "status 299"),
    "no content": (says(HEAD.replace(b"200", b"204") + b"\r\n"), "status 204"),
    "switching protocols": (says(HEAD.replace(b"200", b"101") + b"\r\n"), "status 101"),
    "an error": (says(answer(TELLING, status=b"503 " + TELLING)), "status 503"),
    "gzip": (says(answer(TELLING, b"Content-Encoding: gzip\r\n")), "a Content-Encoding"),
    "no HTTP": (says(b"220 " + TELLING + b"\r\n" * 10), "not HTTP"),
    "a bad version": (says(b"HTTP/9.9 200 " + TELLING + b"\r\n\r\n"), "not HTTP"),
    "no status": (says(b"HTTP/1.1 " + TELLING + b"\r\n\r\n"), "not HTTP"),
    "silence and the end": (says(), "closed without an answer"),
    "less than announced": (says(HEAD + b"Content-Length: 100\r\n\r\n" + TELLING), "ended early"),
    "a chunk that is none": (says(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + TELLING + b"\r\nabc"), "ended early"),
    "a chunk without an end": (says(HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc"), "ended early"),
    "a negative chunk": (says(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n0\r\n\r\n"), "the answer"),
    "a long status line": (says(b"HTTP/1.1 200 " + b"x" * 100_000), "too long"),
    "a long header": (says(HEAD + b"X: " + TELLING * 10_000), "too long"),
    "many headers": (says(HEAD + b"X: y\r\n" * 1000 + b"\r\n"), "not HTTP"),
    "100 for ever": (repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "is longer than"),
    "a trailer for ever": (repeats(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 100), "is longer than"),
    "a body for ever": (repeats(HEAD + b"\r\n", b"# x\n" * 1000), "is longer than"),
    "100 now and then": (repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05), "no whole answer in 0.5 s"),
    "a head that drips": (repeats(HEAD, b"x", 0.02), "no whole answer in 0.5 s"),
    "a body that drips": (repeats(HEAD + b"\r\n", b"#", 0.02), "no whole answer in 0.5 s"),
    "chunks that drip": (repeats(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n#\r\n", 0.02), "no whole answer in 0.5 s"),
    "a hang": (lambda connection: time.sleep(SOON_S), "no whole answer in 0.5 s"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_answer_outlasts_its_deadline_or_is_quoted(name: str) -> None:
    behave, words = HOSTILE[name]
    with peer(behave) as address, pytest.raises(Unreachable) as e:
        began_s = time.monotonic()
        fetch(f"http://{address}/metrics", 0.5, 100_000)
    assert words in e.value.message and e.value.message.startswith(f"http://{address}/metrics: ")
    assert SECRET not in e.value.message and "\n" not in e.value.message
    assert time.monotonic() - began_s < SOON_S


def test_a_redirect_makes_the_judge_ask_nobody() -> None:
    asked = threading.Event()

    def witness(connection: socket.socket) -> None:
        asked.set()
        says(answer(SECRET.encode()))(connection)

    with peer(witness) as elsewhere:
        for status in (b"301", b"302", b"303", b"307", b"308"):
            told = answer(b"", b"Location: http://" + elsewhere.encode() + b"/creds\r\n", status + b" Moved")
            with peer(says(told)) as address, pytest.raises(Unreachable, match=f"a redirect .{status.decode()}."):
                fetch(f"http://{address}/metrics", 5)
    assert not asked.is_set()


def test_a_look_is_back_in_time_whatever_the_instances_do_and_each_is_missing_with_a_reason() -> None:
    with ExitStack() as stack:
        addresses = {stack.enter_context(peer(behave)): words for behave, words in HOSTILE.values()}
        good = stack.enter_context(peer(says(answer(GOOD))))
        began_s = time.monotonic()
        found = Direct(targets({Arm.CANDIDATE: [*addresses, good]}), 0.5).look(0.0)
    assert time.monotonic() - began_s < SOON_S
    assert [s.key.name for s in found.scrapes] == [good] and len(found.missing) == len(addresses)
    assert SECRET not in str(found)


def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with peer(says(answer(GOOD))) as address:
        assert fetch(f"http://{address}/metrics", 5) == GOOD.decode()


@pytest.mark.parametrize(
    "url",
    ["http://user:hunter2@a/", "http://hunter2@a", "ftp://user:hunter2@a/", "http://user:hunter2@[::1", "https://:hunter2@a:1/"],
)
def test_credentials_in_an_address_are_refused_and_not_shown(url: str) -> None:
    for ask in (lambda: targets({Arm.CANDIDATE: [url]}), lambda: fetch(url, 1)):
        with pytest.raises(CannotJudge) as e:
            ask()
        assert "hunter2" not in e.value.message
    missing = Prometheus(url, {Arm.CANDIDATE: 'a="b"'}, 0.5).look(0.0).missing
    assert missing and "hunter2" not in str(missing)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b", "data:,x", "gopher://a", "http://", "http://a b/", "http://a\r\nX: y", "http://ä"]
)
def test_only_http_addresses_are_asked(url: str) -> None:
    with pytest.raises(CannotJudge):
        fetch(url, 1)


def test_what_stands_behind_a_question_mark_is_not_shown() -> None:
    with peer(says(answer(b"", status=b"403 No"))) as address, pytest.raises(Unreachable) as e:
        fetch(f"http://{address}/metrics?token=hunter2", 5)
    assert "hunter2" not in e.value.message


# ---- names ---------------------------------------------------------------------------------------------------------------


def row(address: str, port: int) -> tuple[Any, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))


def test_a_name_that_is_looked_up_for_ever_ends_by_the_deadline_and_holds_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, asked = threading.Event(), []

    def hang(host: str, port: int) -> list[Any]:
        asked.append(host)
        go_on.wait(SOON_S)
        return []

    monkeypatch.setattr(fetching, "LOOKUPS", Lookups(hang))
    began_s = time.monotonic()
    found = Direct(targets({Arm.CANDIDATE: ["hangs.test:1", "hangs.test:2"]}), 0.3).look(0.0)
    assert time.monotonic() - began_s < SOON_S
    assert all("no whole answer in 0.3 s" in why for why in found.missing.values()) and len(found.missing) == 2
    assert asked == ["hangs.test"] * 2, "one look-up for each, though each was tried twice"
    go_on.set()


def test_a_name_is_looked_up_anew_when_the_look_up_before_has_ended() -> None:
    answers = iter([OSError("no such name"), [row("127.0.0.1", 1)]])

    def resolve(host: str, port: int) -> list[Any]:
        found = next(answers)
        if isinstance(found, OSError):
            raise found
        return found

    lookups = Lookups(resolve)
    with pytest.raises(OSError, match="no such name"):
        lookups.addresses("a.test", 1, time.monotonic() + SOON_S)
    assert lookups.addresses("a.test", 1, time.monotonic() + SOON_S) == [row("127.0.0.1", 1)]


def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with peer(says(answer(GOOD))) as address:
        port = int(address.partition(":")[2])
        rows = [row("127.0.0.1", 1), row("127.0.0.1", port)]
        monkeypatch.setattr(fetching, "LOOKUPS", Lookups(lambda host, _: rows))
        assert fetch("http://many.test/metrics", SOON_S) == GOOD.decode()
        monkeypatch.setattr(fetching, "LOOKUPS", Lookups(lambda host, _: rows[:1]))
        with pytest.raises(Unreachable, match="Connection refused"):
            fetch("http://many.test/metrics", SOON_S)


@pytest.mark.parametrize("name", ["a..b", "x" * 70 + ".test"])
def test_what_cannot_be_a_name_is_unreachable(name: str) -> None:
    with pytest.raises(Unreachable):
        fetch(f"http://{name}/", 10)


def test_the_host_is_told_as_it_was_named_and_the_query_goes_along() -> None:
    heard: list[bytes] = []

    def listen(connection: socket.socket) -> None:
        heard.append(connection.recv(65536))
        connection.sendall(answer(b"x"))

    with peer(listen) as address:
        fetch(f"http://{address}?a=b#c", 5)
    lines = heard[0].split(b"\r\n")
    assert lines[0] == b"GET /?a=b HTTP/1.1" and b"Host: " + address.encode() in lines and b"Connection: close" in lines


def test_a_peer_that_speaks_no_tls_is_unreachable() -> None:
    with peer(says(answer(GOOD))) as address, pytest.raises(Unreachable, match="no TLS: "):
        fetch(f"https://{address}/metrics", 5)
    with peer(lambda connection: time.sleep(SOON_S)) as address, pytest.raises(Unreachable, match="no whole answer"):
        fetch(f"https://{address}/metrics", 0.3)


def test_what_a_judge_reads_of_an_instance_is_bounded_for_the_command_too() -> None:
    assert Direct({}, 1.0).bytes_max == METRICS_BYTES_MAX <= 1 << 20 and HEAD_BYTES_MAX <= METRICS_BYTES_MAX


# ---- a Prometheus server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"[" * 100_000, b'{"data": 1}', b'{"data": {"result": {"a": 1}}}', b'{"data": {"result": "abc"}}',
     b'{"data": {"result": [1]}}', b'{"data": {"result": [{"metric": [], "value": [1, "1"]}]}}',
     b'{"data": {"result": [{"metric": {"instance": ["x"]}, "value": [1, "1"]}]}}',
     b'{"data": {"result": [{"metric": {}, "value": []}]}}', b'{"data": {"result": [{"metric": {}, "value": 5}]}}',
     b'{"data": {"result": [{"metric": {"instance": "\\u001b[2J"}, "value": [1, "1"]}]}}',
     b'{"data": {"result": [{"metric": {"instance": "' + b"x" * 5000 + b'"}, "value": [1, "1"]}]}}',
     b'{"data": {"result": [{"metric": {"instance": "i"}, "value": [1, "nan"]}]}}',
     b'{"data": {"result": [{"metric": {"instance": "i"}, "value": [1, "inf"]}]}}',
     b'{"data": {"result": [{"metric": {"instance": "i"}, "value": [1, "' + SECRET.encode() + b'"]}]}}'],
)  # fmt: skip
def test_no_answer_of_a_prometheus_server_is_more_than_missing_data(body: bytes) -> None:
    with peer(says(answer(body))) as address:
        found = Prometheus(f"http://{address}", {Arm.CANDIDATE: 'a="b"', Arm.BASELINE: 'a="c"'}, 5.0).look(0.0)
    assert not found.scrapes and found.missing
    assert SECRET not in str(found) and "\x1b" not in str(found)
