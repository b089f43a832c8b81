"""No two readers of the same bytes may disagree: what is not plainly one request is refused, and the connection ends.

Every case is sent to a running tree in one piece, a byte at a time and, by hypothesis, split anywhere: the verdict must
always be the same, and nothing behind a refused request may ever be answered.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.security.cases import ACCEPTED, GOOD_ANSWER, REFUSED, TOO_LARGE, WITH_LENGTH
from tests.support.tree import Tree
from tests.support.wire import Closed, Wire

SMUGGLED = b"GET /ping HTTP/1.1\r\nHost: smuggled\r\n\r\n"
SHORT = {name: data for name, data in REFUSED.items() if len(data) < 1000}


def send(wire: Wire, pieces: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # refused before all was sent: its answer is there
        for piece in pieces:
            wire.send(piece)
            if len(pieces) > 1:
                time.sleep(0.0003)  # so that most arrive on their own


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted({p % len(data) for p in places} - {0}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(ends)]


def assert_refused(tree: Tree, pieces: list[bytes], status: int = 400) -> None:
    with tree.wire(15.0) as wire:
        send(wire, pieces)
        with contextlib.suppress(OSError):
            wire.sock.shutdown(socket.SHUT_WR)
        reply = wire.read()
        assert reply.status == status, reply.raw[:300]
        assert reply.headers["connection"] == "close"
        assert wire.closed_by_server(), "nothing more is said"


@pytest.mark.parametrize("name", list(REFUSED))
def test_an_ambiguous_request_is_refused_and_nothing_behind_it_is_read(echo: Tree, name: str) -> None:
    assert_refused(echo, [REFUSED[name] + SMUGGLED])


@pytest.mark.parametrize("name", list(TOO_LARGE))
def test_too_many_headers_or_trailers_are_refused(echo: Tree, name: str) -> None:
    assert_refused(echo, [TOO_LARGE[name] + SMUGGLED], 431)


@pytest.mark.parametrize("name", list(ACCEPTED))
def test_what_only_looks_odd_is_answered(echo: Tree, name: str) -> None:
    for pieces in ([ACCEPTED[name]], [bytes([b]) for b in ACCEPTED[name]]):
        with echo.wire(15.0) as wire:
            send(wire, pieces)
            reply = wire.read()
            assert (reply.status, reply.body) == (200, GOOD_ANSWER), reply.raw[:300]


def test_a_refused_head_is_never_remembered_behind_a_good_one(echo: Tree) -> None:
    """The good head is known by its bytes; the same connection then sends each bad one."""
    for data in SHORT.values():
        with echo.wire(15.0) as wire:
            for _ in range(2):
                assert wire.ask(WITH_LENGTH).body == GOOD_ANSWER
            send(wire, [data + SMUGGLED])
            assert wire.read().status == 400
            assert wire.closed_by_server()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(SHORT)), places=st.lists(st.integers(1, 400), max_size=8))
def test_the_verdict_does_not_depend_on_how_the_bytes_arrive(echo: Tree, name: str, places: list[int]) -> None:
    assert_refused(echo, cut(SHORT[name] + SMUGGLED, places))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(sorted(set(ACCEPTED) - {"HTTP/1.0 without Host"})), min_size=1, max_size=4),
       places=st.lists(st.integers(1, 900), max_size=8))  # fmt: skip
def test_pipelined_requests_split_anywhere_give_one_answer_each(echo: Tree, names: list[str], places: list[int]) -> None:
    with echo.wire(15.0) as wire:
        send(wire, cut(b"".join(ACCEPTED[n] for n in names), places))
        for name in names:
            reply = wire.read()
            assert (reply.status, reply.body) == (200, GOOD_ANSWER), (name, reply.raw[:300])
        assert wire.get("/ping").status == 200, "and nothing is left over"


def test_random_bytes_in_a_head_never_hold_or_end_the_worker(echo: Tree) -> None:
    """Mutations of good requests: an answer or a closed connection, and the next client is served."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(300):
        data = bytearray(dice.choice(list(ACCEPTED.values())))
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] = (
                dice.choice(b"\0\r\n \t:;,0x\x7f\xff") if dice.random() < 0.7 else dice.randrange(256)
            )
        with echo.wire(15.0) as wire, contextlib.suppress(Closed, OSError):
            wire.send(bytes(data))
            wire.sock.shutdown(socket.SHUT_WR)
            wire.sock.settimeout(0.05)
            wire.read()
    assert echo.ping() == 200
    assert echo.status()["restarts"]["front"] == 0
