"""The fast path is exact: however the bytes of a request arrive, the same bytes come back, in the same order.

The model is echo, so that an answer depends on nothing but its request.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from tests.support import digits_model as formats
from tests.support.tree import Tree
from tests.support.wire import Response, Wire, chunked, request

BODY = b'{"instances":[[1.5,-2.25,3e-9],[4,5,6]]}'
ONE = request(BODY)
PING = request(None, method="GET", path="/ping")
GAP_S = 0.0015  # long enough that the server sees what was sent so far as a piece of its own


@dataclass(frozen=True)
class Case:
    """A request whose connection goes on after its answer."""

    sent: bytes
    status: int
    head: bool = False


@cache
def cases() -> dict[str, Case]:
    rows = np.random.default_rng(4).standard_normal((40, 25)).astype(np.float32)
    small = formats.to_npy(rows[:1])
    return {
        "json": Case(ONE, 200),
        "json bare": Case(request(b"[[1,2],[3,4]]"), 200),
        "json by name": Case(request(b'{"inputs": {"x": [[0.1, 0.2]]}}'), 200),
        "npy": Case(request(small, "application/x-npy"), 200),
        "npy to json": Case(request(small, "application/x-npy", "application/json"), 200),
        "csv": Case(request(formats.to_csv(rows), "text/csv"), 200),
        "lines": Case(request(formats.to_lines(rows), "application/jsonlines"), 200),
        "large json": Case(request(formats.to_json(np.tile(rows, (30, 1)))), 200),
        "large npy": Case(request(formats.to_npy(np.tile(rows, (80, 1))), "application/x-npy"), 200),
        "ping": Case(PING, 200),
        "ping post": Case(request(b"", method="POST", path="/ping"), 200),
        "ping head": Case(request(None, method="HEAD", path="/ping"), 200, head=True),
        "broken json": Case(request(b'{"instances":[[1,2'), 400),
        "not finite": Case(request(b"1.0,nan", "text/csv"), 400),
        "unknown type": Case(request(b"x", "image/png"), 415),
        "unknown accept": Case(request(BODY, accept="image/png"), 406),
        "no such path": Case(request(None, method="GET", path="/nope"), 404),
        "post to no such path": Case(request(BODY, path="/nope"), 404),
        "wrong method": Case(request(None, method="GET"), 405),
        "empty body": Case(request(b""), 400),
    }


def read(wire: Wire, case: Case) -> Response:
    reply = wire.read(head=case.head)
    assert reply.status == case.status, reply.raw[:400]
    return reply


@pytest.fixture(scope="module")
def wanted(echo: Tree) -> dict[str, bytes]:
    """Each case's answer, on a connection of its own, sent in one piece."""
    found = {}
    for name, case in cases().items():
        with echo.wire() as wire:
            wire.send(case.sent)
            found[name] = read(wire, case).raw
    return found


@pytest.mark.parametrize("name", list(cases()))
def test_again_on_the_same_connection_where_its_head_is_known_by_now(echo: Tree, wanted: dict[str, bytes], name: str) -> None:
    with echo.wire() as wire:
        for _ in range(3):
            wire.send(cases()[name].sent)
            assert read(wire, cases()[name]).raw == wanted[name]


@pytest.mark.parametrize("name", [n for n, c in cases().items() if len(c.sent) < 1500])
def test_byte_by_byte(echo: Tree, wanted: dict[str, bytes], name: str) -> None:
    with echo.wire() as wire:
        for byte in cases()[name].sent:
            wire.send(bytes([byte]))
            time.sleep(0.0002)
        assert read(wire, cases()[name]).raw == wanted[name]


def test_cut_in_two_at_every_place(echo: Tree, wanted: dict[str, bytes]) -> None:
    with echo.wire() as wire:
        for cut in range(1, len(ONE)):
            wire.send(ONE[:cut])
            time.sleep(GAP_S)
            wire.send(ONE[cut:])
            assert wire.read().raw == wanted["json"], f"cut at {cut}"


@pytest.mark.parametrize("name", list(cases()))
def test_in_random_pieces(echo: Tree, wanted: dict[str, bytes], name: str) -> None:
    for seed in range(3):
        with echo.wire() as wire:
            send_in_pieces(wire, cases()[name].sent, seed, pieces=8)
            assert read(wire, cases()[name]).raw == wanted[name], f"seed {seed}"


def send_in_pieces(wire: Wire, data: bytes, seed: int, pieces: int) -> None:
    dice = random.Random(seed)
    cuts = sorted({0, len(data), *(dice.randrange(len(data) + 1) for _ in range(pieces - 1))})
    for start, end in itertools.pairwise(cuts):
        wire.send(data[start:end])
        time.sleep(dice.choice([0, GAP_S]))


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("in_one_write", [True, False])
def test_chunked(echo: Tree, wanted: dict[str, bytes], size: int, in_one_write: bool) -> None:
    data = chunked([BODY[i : i + size] for i in range(0, len(BODY), size)])
    with echo.wire() as wire:
        for _ in range(2):
            if in_one_write:
                wire.send(data)
            else:
                send_in_pieces(wire, data, seed=size, pieces=12)
            assert wire.read().raw == wanted["json"]


def test_chunked_byte_by_byte_with_extensions_and_a_trailer(echo: Tree, wanted: dict[str, bytes]) -> None:
    head = chunked([]).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    data = head + b'5;a=b;c="d e"\r\n' + BODY[:5] + b"\r\n%X\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n000\r\n"
    data += b"X-Checksum: 1\r\nContent-Type: text/csv\r\nAccept: image/png\r\n\r\n"
    with echo.wire() as wire:
        for byte in data:
            wire.send(bytes([byte]))
        assert wire.read().raw == wanted["json"]
        assert wire.ask(ONE).raw == wanted["json"], "the trailer must not reach the next request"


def test_a_large_chunked_body(echo: Tree, wanted: dict[str, bytes]) -> None:
    body = cases()["large npy"].sent.partition(b"\r\n\r\n")[2]
    pieces = [body[i : i + 60_000] for i in range(0, len(body), 60_000)]
    with echo.wire() as wire:
        assert wire.ask(chunked(pieces, "application/x-npy")).raw == wanted["large npy"]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("in_pieces", [False, True])
def test_pipelined_requests_of_all_kinds_are_answered_in_order(
    echo: Tree, wanted: dict[str, bytes], seed: int, in_pieces: bool
) -> None:
    dice = random.Random(seed)
    names = dice.choices(list(cases()), k=dice.randint(2, 20))
    data = b"".join(cases()[n].sent for n in names)
    with echo.wire() as wire:
        if in_pieces:
            send_in_pieces(wire, data, seed, pieces=10)
        else:
            wire.send(data)
        for place, name in enumerate(names):
            assert read(wire, cases()[name]).raw == wanted[name], f"seed {seed}: {name} at {place} of {names}"


def test_twenty_pipelined_requests_with_different_answers_keep_their_order(echo: Tree) -> None:
    with echo.wire() as wire:
        wire.send(b"".join(request(b"[[%d]]" % i) + (PING if i % 3 == 0 else b"") for i in range(20)))
        for i in range(20):
            assert wire.read().body == b"[[%d.0]]" % i
            if i % 3 == 0:
                assert wire.read().body == b""


@pytest.mark.parametrize("follower", ["ping", "json", "broken json", "no such path"])
def test_a_thousand_pipelined_requests_are_answered_too(echo: Tree, wanted: dict[str, bytes], follower: str) -> None:
    """Many at once must not pile up on anybody's stack."""
    with echo.wire(10.0) as wire:
        wire.send(ONE + cases()[follower].sent * 1000)
        assert wire.read().raw == wanted["json"]
        for i in range(1000):
            assert read(wire, cases()[follower]).raw == wanted[follower], f"answer {i}"


def test_many_pipelined_requests_of_one_client_harm_no_other(echo: Tree, wanted: dict[str, bytes]) -> None:
    others = [echo.wire(10.0) for _ in range(12)]
    for _ in range(8):
        for other in others[:4]:
            other.send(ONE)  # keeps the engine busy, so that what follows shares a batch
        greedy = echo.wire(10.0)
        greedy.send(ONE + PING * 2000)
        for other in others[4:]:
            other.send(ONE)
        for other in others:
            assert other.read().raw == wanted["json"]
        assert greedy.read().raw == wanted["json"]
        greedy.close()
    for other in others:
        other.close()
    assert echo.status()["restarts"]["front"] == 0


def test_chunked_and_whole_requests_in_one_pipeline(echo: Tree, wanted: dict[str, bytes]) -> None:
    with echo.wire() as wire:
        wire.send(chunked([BODY]) + ONE + chunked([BODY[:9], BODY[9:]]) + PING + ONE)
        assert [wire.read().raw for _ in range(5)] == [wanted[n] for n in ("json", "json", "json", "ping", "json")]


@pytest.mark.parametrize(
    "sent",
    [
        ONE.replace(b"Content-Type", b"cOnTeNt-tYpE").replace(b"Content-Length", b"CONTENT-LENGTH"),
        ONE.replace(b": ", b":"),
        ONE.replace(b"Content-Type: application/json", b"Content-Type: \t application/json  "),
        ONE.replace(b"Host: test", b"Host: model.aws.local:8080\r\nUser-Agent: AHC/2.0\r\nX-Unknown: \xe9\xff\r\nX-Empty:"),
        ONE.replace(b"Host: test", b"\r\n".join(b"X-Header-%d: %d" % (i, i) for i in range(90)) + b"\r\nHost: test"),
        ONE.replace(b"Host: test", b"Host: test\r\nX-Long: " + b"v" * 7000),
        ONE.replace(b"Host: test", b"Host: test\r\nConnection: keep-alive\r\nKeep-Alive: timeout=60"),
        ONE.replace(b"POST /invocations", b"POST /invocations?a=b&c=%20"),
        ONE.replace(b"Host: test", b"Host: test\r\nX-Amzn-SageMaker-Custom-Attributes: a=1\r\nX-Amzn-SageMaker-Session-Id: s"),
        b"\r\n" + ONE,
    ],
    ids=["mixed case", "no blanks", "many blanks", "unknown", "ninety", "long", "keep-alive", "query", "sagemaker", "blank line"],
)  # fmt: skip
def test_headers_that_say_nothing_new_change_nothing(echo: Tree, wanted: dict[str, bytes], sent: bytes) -> None:
    with echo.wire() as wire:
        assert wire.ask(sent).raw == wanted["json"]
        assert wire.ask(sent).raw == wanted["json"]
        assert wire.ask(ONE).raw == wanted["json"]


def test_an_offer_to_speak_http_2_is_ignored(echo: Tree, wanted: dict[str, bytes]) -> None:
    """Java's HttpClient and `curl --http2` make it with every request."""
    offer = b"Host: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"
    with echo.wire() as wire:
        reply = wire.ask(ONE.replace(b"Host: test", offer))
        assert (reply.status, reply.body) == (200, wanted["json"].partition(b"\r\n\r\n")[2])


def without_close(raw: bytes) -> bytes:
    return re.sub(rb"connection: close\r\n", b"", raw, count=1)


@pytest.mark.parametrize(
    ("sent", "like"),
    [
        (ONE.replace(b"Host: test", b"Host: test\r\nConnection: close"), "json"),
        (ONE.replace(b"Host: test", b"Host: test\r\ncoNNection: CLOSE"), "json"),
        (ONE.replace(b"HTTP/1.1", b"HTTP/1.0"), "json"),
        (ONE.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: test\r\n", b""), "json"),
        (PING.replace(b"HTTP/1.1", b"HTTP/1.0"), "ping"),
        (PING.replace(b"Host: test", b"Host: test\r\nConnection: close"), "ping"),
        (cases()["no such path"].sent.replace(b"HTTP/1.1", b"HTTP/1.0"), "no such path"),
        (cases()["broken json"].sent.replace(b"Host: test", b"Host: test\r\nConnection: close"), "broken json"),
    ],
)
def test_the_last_request_of_a_connection_gets_the_same_answer_and_a_close(
    echo: Tree, wanted: dict[str, bytes], sent: bytes, like: str
) -> None:
    for _ in range(2):
        with echo.wire() as wire:
            wire.send(ONE + sent)
            assert wire.read().raw == wanted["json"]
            reply = wire.read()
            assert reply.headers.get("connection") == "close"
            assert without_close(reply.raw) == wanted[like]
            assert wire.closed_by_server()


@pytest.mark.parametrize("encoding", ["length", "chunked"])
def test_a_client_that_expects_100_continue_hears_it_before_it_sends_the_body(
    echo: Tree, wanted: dict[str, bytes], encoding: str
) -> None:
    sent = request(BODY, headers=("Expect: 100-continue",)) if encoding == "length" else \
        chunked([BODY], headers=("Expect: 100-continue",))  # fmt: skip
    head, _, body = sent.partition(b"\r\n\r\n")
    with echo.wire() as wire:
        for _ in range(2):
            wire.send(head + b"\r\n\r\n")
            interim = b""
            while not interim.endswith(b"\r\n\r\n"):
                interim += wire.sock.recv(1)
            assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
            wire.send(body)
            reply = wire.read()
            assert (reply.raw, reply.interim) == (wanted["json"], 0)


def test_expect_in_a_pipeline_gets_its_100_after_the_earlier_answers(echo: Tree, wanted: dict[str, bytes]) -> None:
    head = request(BODY, headers=("Expect: 100-continue",)).removesuffix(BODY)
    with echo.wire() as wire:
        wire.send(ONE + PING + head)
        assert (wire.read().raw, wire.read().raw) == (wanted["json"], wanted["ping"])
        time.sleep(0.05)
        wire.send(BODY + ONE)
        reply = wire.read()
        assert (reply.raw, reply.interim) == (wanted["json"], 1)
        assert wire.read().raw == wanted["json"]


def test_a_bad_request_behind_a_good_one_does_not_overtake_it(echo: Tree, wanted: dict[str, bytes]) -> None:
    """What comes is no HTTP, so there may be an error for it or just an end, but the good one's answer comes first."""
    bodies = [
        b"garbage\r\n\r\n",
        chunked([]).removesuffix(b"0\r\n\r\n") + b"zz\r\n",
        request(b"x", headers=("Content-Length: 7",)),
    ]
    large = cases()["large json"]
    for bad in bodies:
        for good, name in ((Case(ONE, 200), "json"), (large, "large json")):
            with echo.wire() as wire:
                wire.send(good.sent + bad)
                assert without_close(read(wire, good).raw) == wanted[name], bad[:60]


def test_digits_gives_the_same_bytes_however_its_request_arrives(digits: Tree) -> None:
    rows = formats.some_rows(np.random.default_rng(5), 1)
    for content_type in ("application/json", "application/x-npy", "text/csv"):
        whole = request(formats.ENCODE[content_type](rows), content_type)
        body = formats.ENCODE[content_type](rows)
        with digits.wire() as wire:
            first = wire.ask(whole)
            assert first.status == 200
            assert wire.ask(whole).raw == first.raw
            assert wire.ask(chunked([body[:10], body[10:]], content_type)).raw == first.raw
            send_in_pieces(wire, whole, seed=1, pieces=9)
            assert wire.read().raw == first.raw
            wire.send(whole * 5)
            assert [wire.read().raw for _ in range(5)] == [first.raw] * 5
