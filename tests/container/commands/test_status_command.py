"""`evenkeel status` and `evenkeel drain`: what they print, whom they ask, and what they say when nobody answers."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from evenkeel.container import environment
from evenkeel.container.commands import sidecar_client, status_command
from evenkeel.container.commands.command_line import main
from evenkeel.container.commands.sidecar_client import NoAnswer
from evenkeel.container.commands.status_picture import Paint, bar, picture, span

NOW = {"requests_per_s": 12.0, "errors_per_s": 0.5, "p50_s": 0.001, "p99_s": None}
WARMING = {
    "state": "WARMING", "ready": False, "reason": "warming", "for_s": 3.0, "uptime_s": 65.0, "clears_when": "warm-up passes",
    "ready_in_s": 7.0, "now": 1000.0, "queue_rows": 4, "in_flight": 2, "saturation": 0.5, "measures": {"now": NOW},
    "conditions": [{"name": "running", "ok": True, "missing": ""}, {"name": "warm", "ok": False, "missing": "no warm engine"}],
    "models": [{"name": "digits", "version": "1", "backend": "onnx", "sha256": "ab12"}],
    "replicas": [{"place": 0, "state": "WARMING", "alive": True, "warm_done": 3, "warm_total": 12, "ready_in_s": 7.0,
                  "pid": 7, "queue_rows": 4, "saturation": 0.25, "restarts": 1}],
    "faults": [{"at_s": 990.0, "subject": "engine 0", "reason": "signal", "count": 1, "message": ""}],
    "transitions": [{"at_s": 880.0, "subject": "container", "old": "", "new": "loading", "why": ""}],
}  # fmt: skip


def test_the_picture_tells_why_it_is_not_ready_and_how_far_it_is() -> None:
    text = picture(WARMING, Paint(False))
    assert text.startswith("NOT READY: warming for 3.0 s")
    assert "clears when: warm-up passes, in about 7.0 s" in text
    assert "not warm: no warm engine" in text and "not running" not in text
    assert "[#####---------------] 3 of 12" in text
    assert "digits version 1 (onnx), sha256 ab12" in text
    assert "p50 1.0 ms, p99 –" in text
    assert "10 s ago  engine 0: signal (1 times)" in text
    assert "2 min 0 s ago  container: nothing -> loading" in text


ROLLOUT = {
    "rollout": "r1", "decision": "hold", "final": False, "phase": "judging", "for_s": 61.0, "elapsed_s": 61.0, "max_s": 1800.0,
    "stage": 1, "windows": 6, "reasons": [{"code": "not_yet_proven", "about": "errors", "words": "9 of 900 in the candidate"}],
    "arms": {"baseline": {"instances": ["b:1"], "missing": {}, "requests": 900},
             "candidate": {"instances": ["c:1", "c:2"], "missing": {"c:2": "timed out"}, "requests": 880}},
    "metrics": {"errors": {"candidate": {"requests": 880, "bad": 9}, "reference": {"requests": 900, "bad": 3},
                           "ratio": {"low": 0.8, "high": None}, "count_e": 300.0, "sign_e": 17.4, "rollback_at": 300.0,
                           "good_e": 0.01, "promote_at": 40.0}},
}  # fmt: skip


def test_the_picture_shows_the_rollout_that_is_being_judged_and_how_far_its_evidence_is() -> None:
    text = picture({**WARMING, "rollout": ROLLOUT}, Paint(False))
    assert "rollout r1: HOLD for 1 min 1 s  (judging, 1 min 1 s of 30 min 0 s, stage 1, 6 windows)" in text
    assert "not_yet_proven: errors: 9 of 900 in the candidate" in text
    assert "candidate c:1, c:2: 880 requests\n    missing c:2: timed out" in text
    assert "errors: 9 of 880 against 3 of 900, ratio 0.8..any" in text
    assert "worse [##########----------] 300 and 17.4 of 300" in text, "both witnesses are needed: the bar is the lesser"
    assert "good [--------------------] 0.01 of 40" in text
    assert "rollout" not in picture({**WARMING, "rollout": None}, Paint(False))


def test_colours_only_repeat_what_the_words_say() -> None:
    import re

    coloured = picture(WARMING, Paint(True))
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == picture(WARMING, Paint(False))


@pytest.mark.parametrize(
    ("environ", "is_terminal", "expected"), [({}, True, True), ({}, False, False), ({"NO_COLOR": "1"}, True, False)]
)
def test_colours_are_for_terminals_and_for_who_wants_them(environ: dict[str, str], is_terminal: bool, expected: bool) -> None:
    assert environment.colours(environ, is_terminal) is expected


@pytest.mark.parametrize(("done", "total", "filled"), [(0, 0, 0), (0, 5, 0), (5, 5, 20), (7, 5, 20), (1, 4, 5)])
def test_a_bar_has_always_the_same_length(done: int, total: int, filled: int) -> None:
    assert bar(done, total) == f"[{'#' * filled}{'-' * (20 - filled)}]"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (3.14, "3.1 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3725, "1 h 2 min")]
)
def test_a_time_is_told_in_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


# ---- asking ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(code: int, body: bytes, address: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[tuple[str, list[Any]]]:
    """A server that says one thing to everybody, and what it was asked."""
    asked: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.command, self.path, self.headers.get("Authorization")))
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *unused: Any) -> None: ...

    server = http.server.HTTPServer(address, Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("ready", "code"), [(True, 0), (False, 2)])
def test_the_exit_code_says_ready_or_not(ready: bool, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    told = {**WARMING, "ready": ready}
    with answering(200, json.dumps(told).encode()) as (url, _):
        assert main(["status", "--json", "--url", url], {}) == code
        assert json.loads(capsys.readouterr().out) == told
        assert main(["status", "--url", url], {}) == code
        assert "\x1b" not in capsys.readouterr().out


def test_the_settings_say_where_the_sidecar_is(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, json.dumps(WARMING).encode()) as (url, asked):
        address = "0.0.0.0:" + url.rpartition(":")[2]
        assert main(["status", "--json"], {"EVENKEEL_SIDECAR_ADDRESS": address}) == 2
    assert asked == [("GET", "/status", None)]


def closed_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_nobody_there_is_said_with_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    assert main(["status", "--url", url], {}) == 1
    assert f"nothing answers at {url}: Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"{}", b"\xff\xfe"])
def test_another_server_is_not_taken_for_a_sidecar(body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, body) as (url, _):
        assert main(["status", "--url", url], {}) == 1
    assert "no evenkeel sidecar" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:99999", "http://[::1"])
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(NoAnswer, match="no address"):
        sidecar_client.over_http("GET", url, "/status", {})


def test_port_zero_cannot_be_asked_and_the_message_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"], {"EVENKEEL_SIDECAR_ADDRESS": "127.0.0.1:0"}) == 1
    assert "--url" in capsys.readouterr().err


def test_a_drain_over_http_shows_the_token(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(202, b'{"draining": true, "already": false}') as (url, asked):
        assert main(["drain", "--url", url], {"EVENKEEL_ADMIN_TOKEN": "a-token-of-some-length"}) == 0
    assert asked == [("POST", "/drain", "Bearer a-token-of-some-length")]
    assert "a-token" not in "".join(capsys.readouterr())


def test_a_refused_drain_says_what_the_sidecar_said(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(403, b'{"error": {"code": "forbidden", "message": "not the token"}}') as (url, _):
        assert main(["drain", "--url", url], {}) == 1
    assert capsys.readouterr().err == "evenkeel: refused with 403: not the token\n"


def test_a_watch_goes_on_through_silence_until_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("evenkeel.container.commands.status_command.time.sleep", sleep)
    assert main(["status", "--watch", "--url", f"127.0.0.1:{closed_port()}"], {}) == 1
    assert capsys.readouterr().err.count("nothing answers") == 3 and slept == [status_command.WATCH_EVERY_S] * 3
