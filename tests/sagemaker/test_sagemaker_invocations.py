"""Invocations as the platform sends them: sizes, headers, formats, refusals, slow clients, too many at once."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Start
from tests.sagemaker.box import Box, wire
from tests.sagemaker.platform import HEADERS, Pinging, ask
from tests.support import digits_model as model
from tests.support.handler_model import asking, handler_folder
from tests.support.tree import eventually
from tests.support.wire import chunked, request

MIB = 1 << 20
NPY = "application/x-npy"
ROWS = model.some_rows(np.random.default_rng(5), 3)
FORMATS = list(model.ENCODE)


@pytest.mark.contract("12.6", "12.22")
@pytest.mark.parametrize("mib", [6, 25])
@pytest.mark.parametrize("how", ["with its length", "in chunks"])
def test_a_large_body_comes_back_to_the_bit(echo_box: Box, mib: int, how: str) -> None:
    rows = np.random.default_rng(mib).standard_normal((1, mib * MIB // 4)).astype(np.float32)
    body = model.to_npy(rows)
    if how == "in chunks":
        with wire(echo_box, 60.0) as w:
            pieces = [body[i : i + 65536] for i in range(0, len(body), 65536)]
            reply = w.ask(chunked(pieces, NPY, headers=HEADERS[:1]))
    else:
        with ask(echo_box, body, NPY) as w:
            reply = w.read()
    assert reply.status == 200, reply.raw[:300]
    assert reply.headers["content-length"] == str(len(reply.body))
    assert reply.body[-rows.nbytes :] == rows.tobytes()


@pytest.mark.contract("12.6", "12.22")
def test_headers_in_any_case_and_unknown_ones_change_nothing_and_the_reply_s_are_small(digits_box: Box) -> None:
    with ask(digits_box, model.to_json(ROWS), "application/json", "EXPECT: 100-Continue", "aCCept: application/json") as w:
        reply = w.read()
    assert reply.status == 200 and reply.interim <= 1, "a body that came with its head need not be asked for"
    assert model.close(model.decode("application/json", reply.body), model.answers(ROWS))
    head = reply.raw[: reply.raw.index(b"\r\n\r\n")]
    assert len(head) < 4096
    assert reply.headers["content-length"] == str(len(reply.body))
    body = model.to_json(ROWS)
    with ask(digits_box, b"", "application/json", f"Content-Length: {len(body)}", "Expect: 100-continue", length=False) as w:
        assert w.begin()[0] == 100
        w.send(body)
        assert w.read().status == 200


@pytest.mark.contract("12.16", "12.17", "12.18")
@pytest.mark.parametrize("sent", FORMATS)
def test_each_format_is_answered_in_kind_with_its_exact_type(digits_box: Box, sent: str) -> None:
    with ask(digits_box, model.ENCODE[sent](ROWS), f"{sent}; charset=utf-8") as w:
        reply = w.read()
    assert (reply.status, reply.headers["content-type"]) == (200, sent), reply.raw[:300]
    assert model.close(model.decode(sent, reply.body), model.answers(ROWS))


@pytest.mark.contract("12.17")
def test_instances_become_predictions_in_strict_json(digits_box: Box) -> None:
    body = json.dumps({"instances": ROWS.tolist()}).encode()
    with ask(digits_box, body) as good, ask(digits_box, body.replace(b"[[[", b"[[[NaN,", 1)) as bad:
        reply, refused = good.read(), bad.read()
    assert list(reply.json()) == ["predictions"]
    assert len(reply.json()["predictions"]) == len(ROWS)
    assert refused.status == 400


@pytest.mark.contract("12.18")
@pytest.mark.parametrize(
    ("accept", "expected"),
    [("text/csv;q=0.5, application/jsonlines", "application/jsonlines"), ("*/*", "application/json"), (None, "application/json")],
)
def test_accept_is_a_list_a_wildcard_or_missing(digits_box: Box, accept: str | None, expected: str) -> None:
    with wire(digits_box) as w:
        reply = w.post(model.to_json(ROWS), "application/json", accept)
    assert (reply.status, reply.headers["content-type"]) == (200, expected)


@pytest.mark.contract("12.15")
@pytest.mark.parametrize(
    ("body", "content_type", "accept", "status"),
    [
        (b'{"instances": [', "application/json", None, 400),
        (b'{"instances": [[1, 2]]}', "application/json", None, 400),
        (b"<x/>", "application/xml", None, 415),
        (b"1,2", "text/csv", "image/png", 406),
    ],
)
def test_a_refusal_is_small_json_with_a_length(
    digits_box: Box, body: bytes, content_type: str, accept: str | None, status: int
) -> None:
    with wire(digits_box) as w:
        reply = w.post(body, content_type, accept)
    assert (reply.status, bool(reply.code)) == (status, True)
    assert len(reply.body) < 1024


@pytest.mark.contract("12.15", "12.6")
def test_a_body_beyond_the_limit_is_413_and_the_next_request_is_served(start: Start) -> None:
    box = start("digits", EVENKEEL_MAX_BODY_MB="1")
    with wire(box) as w:
        w.send(request(b"x" * 10, headers=(f"Content-Length: {2 * MIB}",), length=False))
        assert w.read().code == "body_too_large"
    with wire(box) as w:
        assert w.post(model.to_json(ROWS)).status == 200


@pytest.mark.contract("12.7")
def test_a_request_that_takes_too_long_is_told_so_at_its_deadline(start: Start, tmp_path: Path) -> None:
    box = start(handler_folder(tmp_path / "model"), EVENKEEL_REQUEST_TIMEOUT_S="1")
    begun_s = time.monotonic()
    with ask(box, asking(1, "wait", s=30)) as w:
        reply = w.read()
    assert (reply.status, reply.code) == (504, "deadline_exceeded")
    assert 0.9 < time.monotonic() - begun_s < 20, "not sooner, and not when the model is done"


@pytest.mark.contract("12.13")
def test_more_than_the_queue_holds_is_refused_at_once_and_what_it_holds_is_answered(start: Start, tmp_path: Path) -> None:
    box = start(handler_folder(tmp_path / "model"), EVENKEEL_QUEUE_ROWS="2")
    held = [ask(box, asking(n, "wait", s=4)) for n in range(2)]
    refused = []

    def full() -> bool:
        with ask(box, asking(9)) as w:
            refused.append(w.read())
        return refused[-1].status == 429

    eventually(full, "429")
    assert refused[-1].headers.get("retry-after")
    assert len(refused[-1].body) < 1024 and refused[-1].code
    assert [w.read().status for w in held] == [200, 200]


@pytest.mark.contract("12.3", "12.13")
def test_slow_clients_hold_nobody_up_and_are_dropped_in_the_end(start: Start) -> None:
    """Some stop in the middle of their headers, some in the middle of their bodies, one sends a byte at a time."""
    box = start("digits", EVENKEEL_BODY_TIMEOUT_S="2")
    whole = request(model.to_json(ROWS), headers=HEADERS[:1])
    middle = whole.index(b"\r\n\r\n") + 10
    slow = [wire(box) for _ in range(60)]
    for n, w in enumerate(slow):
        w.send(whole[: 30 if n % 2 else middle])
    with Pinging(box, every_s=0.2) as pings, wire(box) as w:
        for _ in range(20):
            assert w.post(model.to_json(ROWS)).status == 200
        time.sleep(1.0)
        with wire(box) as drip:
            for i in range(0, len(whole), 8):
                drip.send(whole[i : i + 8])
            assert drip.read().status == 200
    assert pings.failed == []
    body_waiters = [w for n, w in enumerate(slow) if n % 2 == 0]
    assert all(w.read().status == 408 and w.closed_by_server() for w in body_waiters)
    for w in slow:
        w.close()


@pytest.mark.contract("12.23")
def test_metrics_are_prometheus_text_on_the_same_port(digits_box: Box) -> None:
    with wire(digits_box) as w:
        assert w.post(model.to_json(ROWS)).status == 200
        reply = w.get("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain")
    assert b"# TYPE evenkeel_" in reply.body


@pytest.mark.contract("12.24")
def test_the_log_is_json_lines_without_pings_and_without_payloads(start: Start) -> None:
    box = start("digits")
    with wire(box) as w:
        for path in ("/ping", "/metrics"):
            w.get(path)
        w.post(b'{"instances": [["a secret of the client"]]}')
        w.post(b"a secret of the client", "text/secret")
    box.stop()
    lines = [json.dumps(r) for r in box.log()]  # `log` fails on a line that is none
    assert lines
    assert [x for x in lines if "/ping" in x or "/metrics" in x or "a secret of the client" in x] == []
