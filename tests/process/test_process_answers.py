"""Right answers from the three models in every wire format, with exactly the content types that clients compare."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest

from tests.support import digits_model as model
from tests.support.tree import ARTIFACTS, Tree, eventually, serving
from tests.support.wire import request

FORMATS = list(model.ENCODE)
ROWS = model.some_rows(np.random.default_rng(1), 5)


@pytest.fixture(scope="module")
def wine() -> Iterator[Tree]:
    with serving("wine") as tree:
        with tree.wire() as wire:  # that /ping told the truth is a test of its own, in test_process_start.py
            body = (ARTIFACTS / "wine/samples/one_of_each.json").read_bytes()
            eventually(lambda: wire.post(body).status == 200, "the first answer")
        yield tree


@pytest.mark.parametrize("sent", FORMATS)
def test_digits_answers_right_in_the_format_of_the_request(digits: Tree, sent: str) -> None:
    with digits.wire() as wire:
        reply = wire.post(model.ENCODE[sent](ROWS), sent)
    assert (reply.status, reply.headers["content-type"]) == (200, sent), reply.raw[:300]
    assert model.close(model.decode(sent, reply.body), model.answers(ROWS))


@pytest.mark.parametrize("wanted", FORMATS)
def test_digits_answers_right_in_any_format_that_is_asked_for(digits: Tree, wanted: str) -> None:
    with digits.wire() as wire:
        reply = wire.post(model.to_csv(ROWS), "text/csv", wanted)
    assert (reply.status, reply.headers["content-type"]) == (200, wanted), reply.raw[:300]
    assert model.close(model.decode(wanted, reply.body), model.answers(ROWS))


@pytest.mark.parametrize("sent", FORMATS)
def test_wine_answers_right_in_each_format(wine: Tree, sent: str) -> None:
    rows = np.loadtxt(ARTIFACTS / "wine/samples/five.csv", delimiter=",", dtype=np.float32)
    want = np.array(json.loads((ARTIFACTS / "wine/samples/five.expected.json").read_bytes())["predictions"])
    body = model.to_npz(rows, "features") if sent.endswith("npz") else model.ENCODE[sent](rows)
    with wine.wire() as wire:
        reply = wire.post(body, sent)
    assert (reply.status, reply.headers["content-type"]) == (200, sent), reply.raw[:300]
    assert model.close(model.decode(sent, reply.body, columns=3), want)


@pytest.mark.parametrize("sent", [f for f in FORMATS if f != "application/octet-stream"])  # its width is free: no raw bytes
def test_echo_returns_every_value_to_the_bit_in_each_format(echo: Tree, sent: str) -> None:
    rows = np.random.default_rng(2).standard_normal((7, 11)).astype(np.float32)
    body = model.to_npz(rows, "x") if sent.endswith("npz") else model.ENCODE[sent](rows)
    with echo.wire() as wire:
        reply = wire.post(body, sent)
    assert (reply.status, reply.headers["content-type"]) == (200, sent), reply.raw[:300]
    assert np.array_equal(model.decode(sent, reply.body).astype(np.float32), rows)


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        (None, "text/csv"),
        ("*/*", "text/csv"),
        ("", "text/csv"),
        ("application/json", "application/json"),
        ("application/JSON", "application/json"),
        ("application/json; charset=utf-8", "application/json"),
        ("application/json;verbose=true", "application/json"),
        ("text/csv, application/json", "text/csv"),
        ("application/x-npy, application/json", "application/x-npy"),
        ("image/png, application/jsonlines", "application/jsonlines"),
        ("application/json;q=0.2, application/x-npy;q=0.9", "application/x-npy"),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "text/csv"),  # Java's URLConnection
        ("text/csv;q=0, */*", "application/json"),
        ("application/*", "application/json"),
        ("text/*", "text/csv"),
        ("tensor/pt", "tensor/pt"),
    ],
)
def test_accept_chooses_the_format_of_the_answer(digits: Tree, accept: str | None, answered: str) -> None:
    with digits.wire() as wire:
        reply = wire.post(model.to_csv(ROWS), "text/csv", accept)
    assert (reply.status, reply.headers["content-type"]) == (200, answered), reply.raw[:300]
    assert model.close(model.decode(answered, reply.body), model.answers(ROWS))


@pytest.mark.parametrize(
    ("accept", "platform_accept", "answered"),
    [
        (None, "application/x-npy", "application/x-npy"),
        ("*/*", "application/x-npy", "application/x-npy"),
        ("application/json", "application/x-npy", "application/json"),
    ],
)
def test_the_accept_header_of_the_platform_is_used_when_the_client_said_nothing_definite(
    digits: Tree, accept: str | None, platform_accept: str, answered: str
) -> None:
    with digits.wire() as wire:
        reply = wire.post(model.to_csv(ROWS), "text/csv", accept, f"X-Amzn-SageMaker-Accept: {platform_accept}")
    assert (reply.status, reply.headers["content-type"]) == (200, answered)


@pytest.mark.parametrize(
    "content_type",
    ["text/csv; charset=utf-8", "TEXT/CSV", "text/csv; label_size=0", 'text/csv; charset="utf-8"', " text/csv ;header=absent"],
)
def test_parameters_and_case_of_the_content_type_change_nothing(digits: Tree, content_type: str) -> None:
    with digits.wire() as wire:
        assert wire.post(model.to_csv(ROWS), content_type).raw == wire.post(model.to_csv(ROWS), "text/csv").raw


def test_a_csv_body_may_end_with_a_newline_or_without(digits: Tree) -> None:
    with digits.wire() as wire:
        plain = wire.post(model.to_csv(ROWS), "text/csv")
        assert wire.post(model.to_csv(ROWS) + b"\n", "text/csv").raw == plain.raw
        assert wire.post(model.to_csv(ROWS).replace(b"\n", b"\r\n") + b"\r\n", "text/csv").raw == plain.raw


def test_json_answers_mirror_the_shape_of_their_requests(digits: Tree) -> None:
    want = model.answers(ROWS)
    given, given_out = model.names()
    nested = ROWS.tolist()
    with digits.wire() as wire:
        wrapped = wire.post(json.dumps({"instances": nested}).encode()).json()
        assert list(wrapped) == ["predictions"] and model.close(np.array(wrapped["predictions"]), want)
        bare = wire.post(json.dumps(nested).encode()).json()
        assert model.close(np.array(bare), want)
        named = wire.post(json.dumps({"inputs": {given: nested}}).encode()).json()
        assert list(named) == ["outputs"] and model.close(np.array(named["outputs"][given_out]), want)
        featured = wire.post(json.dumps({"instances": [{"features": row} for row in nested]}).encode()).json()
        assert model.close(np.array(featured["predictions"]), want)


def test_the_feature_shapes_of_the_built_in_algorithms_are_understood(wine: Tree) -> None:
    rows = np.loadtxt(ARTIFACTS / "wine/samples/five.csv", delimiter=",", dtype=np.float32).tolist()
    with wine.wire() as wire:
        plain = wire.post(json.dumps({"instances": rows}).encode()).json()["predictions"]
        for instances in ([{"features": row} for row in rows], [{"data": {"features": {"values": row}}} for row in rows]):
            reply = wire.post(json.dumps({"instances": instances, "configuration": {}}).encode())
            # Not bit for bit: how a sum is rounded may depend on where in memory the rows lie.
            assert np.allclose(reply.json()["predictions"], plain, rtol=1e-5, atol=1e-7)


def test_json_without_a_content_type_is_recognised(digits: Tree) -> None:
    with digits.wire() as wire:
        reply = wire.post(model.to_json(ROWS), None)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")


def test_a_request_of_many_more_rows_than_any_batch_is_answered_in_order(digits: Tree) -> None:
    rows = model.some_rows(np.random.default_rng(3), 3000)
    with digits.wire() as wire:
        reply = wire.post(model.to_npy(rows), "application/x-npy")
    assert model.close(model.from_npy(reply.body), model.answers(rows))


def test_every_answer_carries_content_length_and_no_needless_headers(digits: Tree) -> None:
    with digits.wire() as wire:
        reply = wire.post(model.to_json(ROWS))
        assert re.fullmatch(r"digits/1@[0-9a-f]{12}", reply.headers.pop("x-evenkeel-model"))
        assert reply.headers == {"content-type": "application/json", "content-length": str(len(reply.body))}
        assert wire.get("/ping").headers == {"content-length": "0"}


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_ping_says_200_with_an_empty_body_to_every_method_of_the_contract(digits: Tree, method: str) -> None:
    with digits.wire() as wire:
        for query in ("", "?probe=1"):
            body = b"{}" if method == "POST" else None
            reply = wire.ask(request(body, method=method, path="/ping" + query), head=method == "HEAD")
            assert (reply.status, reply.body) == (200, b"")
