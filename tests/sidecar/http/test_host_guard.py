"""The sidecar's TCP port and browsers: foreign Hosts, foreign pages; and those who guess at the token."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.sidecar.http import host_guard, hosts
from evenkeel.sidecar.http.auth import TELL_EVERY_S, Guesses
from evenkeel.sidecar.http.hosts import CrossSite, Hosts, Misdirected
from evenkeel.sidecar.rollout_service import RolloutService
from tests.support import sidecar_app
from tests.support.log_read import logged
from tests.support.sidecar_app import TOKEN, App, ask

LOOPBACK = Hosts.of("127.0.0.1", ["127.0.0.1"])
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def page() -> StatusPage:
    return StatusPage.create()


@pytest.fixture
def app(page: StatusPage, tmp_path: Path) -> Iterator[App]:
    with sidecar_app.serving_sidecar(page, RolloutService(page, tmp_path), tmp_path) as served:
        yield served


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9090", "localhost.", "localhost.:1", "127.0.0.1", "127.0.0.1:80", "127.9.9.9:9090",
     "[::1]", "[::1]:9090",
     "[0:0:0:0:0:0:0:1]:9090", "[::ffff:127.0.0.1]:9090", " localhost:9090 "],
)  # fmt: skip
def test_a_listener_on_loopback_is_called_by_any_name_of_this_machine(host: str) -> None:
    assert LOOPBACK.allow(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example.", "10.0.0.1",
     "[::2]:9090", "localhost:9090:1", "[localhost", "user@localhost", "127.0.0.1, evil.example", "xlocalhost", "\xe9"],
)  # fmt: skip
def test_a_listener_on_loopback_refuses_names_that_somebody_else_leads_to_it(host: str) -> None:
    assert not LOOPBACK.allow(host)


def test_a_listener_is_called_as_it_was_configured() -> None:
    assert Hosts.of("127.0.1.1", ["node-7.internal"]).allow("Node-7.internal:9090")
    assert Hosts.of("::1", ["::1"]).allow("[::1]:9090")
    assert not Hosts.of("::1").allow("evil.example")


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "10.1.2.3"])
def test_a_listener_that_others_reach_is_called_by_any_name(bound: str) -> None:
    assert Hosts.of(bound).allow("10-0-0-7.pod.cluster.local:9090")


@pytest.mark.parametrize("path", ["/", "/status", "/models", "/rollout/decision", "/metrics", "/livez", "/nothing"])
def test_a_page_whose_name_was_led_here_reads_nothing(app: App, path: str) -> None:
    said = ask(app.port, path, Host="evil.example:9090")
    assert (said.status, said.code) == (421, "misdirected")
    assert "access-control-allow-origin" not in said.headers


def test_the_unix_socket_takes_any_host_and_http_1_0_none(app: App) -> None:
    assert ask(app.admin, "/models", Host="evil.example").status == 200
    sock = socket.create_connection(("127.0.0.1", app.port), 10)
    with sock:
        sock.sendall(b"GET /models HTTP/1.0\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "told",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:3000"}, {"Sec-Fetch-Site": "cross-site"},
     {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://[::1"}],
)  # fmt: skip
def test_a_foreign_page_changes_nothing_though_it_had_the_token(app: App, told: dict[str, str]) -> None:
    said = ask(app.port, "/drain", "POST", b"", **BEARER, **told)
    assert (said.status, said.code) == (403, "cross_site")
    assert app.supervisor.drains == 0
    assert ask(app.port, "/models", **told).status == 200, "reading is kept from it by its browser"


def test_a_page_of_our_own_may_change_things(app: App) -> None:
    own = {"Origin": f"http://127.0.0.1:{app.port}", "Sec-Fetch-Site": "same-origin"}
    assert ask(app.port, "/drain", "POST", b"", **BEARER, **own).status == 202
    assert app.supervisor.drains == 1


def test_who_is_no_browser_needs_no_origin() -> None:
    hosts.check("POST", [(b"host", b"localhost:9090")], LOOPBACK)
    hosts.check("DELETE", [], LOOPBACK)
    with pytest.raises(Misdirected):
        hosts.check("GET", [(b"host", b"evil.example")], LOOPBACK)
    with pytest.raises(CrossSite):
        hosts.check("DELETE", [(b"origin", b"http://evil.example")], LOOPBACK)


def test_wrong_tokens_are_told_at_once_and_then_once_a_minute_with_their_number() -> None:
    guesses = Guesses()
    assert guesses.add("10.0.0.1", 100.0) == 0 and guesses.told(100.0) == (1, "10.0.0.1")
    for _ in range(3000):
        assert guesses.add("10.0.0.2", 101.0) == TELL_EVERY_S - 1
    assert guesses.told(159.9) is None
    assert guesses.told(160.0) == (3000, "10.0.0.2")
    assert guesses.told(300.0) is None, "nothing new"
    assert guesses.add("10.0.0.3", 301.0) == 0


def test_a_wrong_token_waits_and_the_right_one_does_not(
    app: App, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(host_guard, "sleep", wait)
    for number in range(3):
        assert ask(app.port, "/drain", "POST", b"", Authorization=f"Bearer guess-{number}").status == 403
    assert waits == [host_guard.WRONG_TOKEN_S] * 3
    assert ask(app.port, "/drain", "POST", b"", **BEARER).status == 202
    assert len(waits) == 3
    lines = [json.loads(line) for line in logged(capfd).splitlines() if "wrong_admin_token" in line]
    assert [(line["count"], line["peer"]) for line in lines] == [(1, "127.0.0.1")] and "guess" not in str(lines)


def test_those_who_guess_do_not_fill_the_port(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_guard, "WAITING_MAX", 0)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(app.port, "/drain", "POST", b"", Authorization="Bearer wrong")
    assert ask(app.port, "/drain", "POST", b"", **BEARER).status == 202
