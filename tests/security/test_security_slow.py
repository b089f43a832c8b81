"""Clients that are slow on purpose: they end, they hold no memory and no slot, and nobody else waits for them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from evenkeel.serve.front.http.connections import RESERVE
from evenkeel.serve.front.http.rate_floor import RateFloor
from tests.support.tree import Tree, eventually
from tests.support.wire import Wire, chunked, request

LIMIT = 20  # connections of the tree `hurried`


def others_are_served(tree: Tree) -> None:
    with tree.wire(10.0) as wire:
        assert wire.post(b"[[1]]").body == b"[[1.0]]"
    assert tree.ping() == 200


def drip(wire: Wire, data: bytes, pause_s: float, within_s: float) -> None:
    """A byte at a time, until the server has had enough."""
    end_s = time.monotonic() + within_s
    with contextlib.suppress(OSError):
        while time.monotonic() < end_s:
            for byte in data:
                wire.send(bytes([byte]))
                time.sleep(pause_s)
                if readable(wire):
                    return
    raise AssertionError(f"still open after {within_s:g} s")


def readable(wire: Wire) -> bool:
    wire.sock.setblocking(False)
    try:
        return len(wire.sock.recv(1, socket.MSG_PEEK)) >= 0
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        wire.sock.settimeout(15.0)


def connections(tree: Tree) -> int:
    return int(tree.status()["fronts"][0]["connections"])


def test_a_head_that_drips_is_refused_though_it_never_pauses(hurried: Tree) -> None:
    before = hurried.errors().get("header_timeout", 0)
    with hurried.wire(15.0) as wire:
        drip(wire, b"GET /ping HTTP/1.1\r\n" + b"X: 1\r\n" * 1000, 0.1, 20.0)
        reply = wire.read()
        assert (reply.status, reply.code, reply.headers["connection"]) == (408, "header_timeout", "close")
    assert hurried.errors()["header_timeout"] == before + 1
    others_are_served(hurried)


def test_empty_lines_do_not_keep_a_connection(hurried: Tree) -> None:
    with hurried.wire(15.0) as wire:
        drip(wire, b"\r\n" * 100, 0.1, 30.0)
    others_are_served(hurried)


def test_a_body_that_drips_is_refused_and_its_memory_is_free(hurried: Tree) -> None:
    """It is never silent for long, but slower than the rate: the grace of 10 s ends."""
    wires = [hurried.wire(30.0) for _ in range(3)]
    wires[0].send(request(b"", headers=("Content-Length: 4000000",), length=False) + b" " * 1_000_000)
    wires[1].send(chunked([]).removesuffix(b"0\r\n\r\n"))
    wires[2].send(request(b"", headers=("Content-Length: 4000000",), length=False, path="/no/such/path"))
    refused: list[str] = []

    def go_on(number: int, wire: Wire) -> None:
        drip(wire, b"1\r\n \r\n" * 1000 if number == 1 else b" " * 5000, 0.1, 60.0)
        refused.append(wire.read().code)

    threads = [threading.Thread(target=go_on, args=each) for each in enumerate(wires)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        others_are_served(hurried)
        time.sleep(0.5)
    assert sorted(refused) == ["body_timeout", "body_timeout", "not_found"]
    for wire in wires:
        wire.close()


def test_a_large_body_that_comes_steadily_is_not_taken_for_framing(hurried: Tree) -> None:
    body = b"[[1]]".ljust(2_000_000)
    with hurried.wire(30.0) as wire:
        for sent in (request(body), chunked([body]), chunked([body[i : i + 100] for i in range(0, 200_000, 100)])):
            for at in range(0, len(sent), 100_000):
                wire.send(sent[at : at + 100_000])
                time.sleep(0.01)
            assert wire.read().body == b"[[1.0]]"


def test_an_answer_that_nobody_reads_is_given_up(hurried: Tree) -> None:
    """Its memory is bounded at once by giving up the slowest readers, and in time by the rate."""
    body = b"[[" + b",".join([b"0.123456"] * 500_000) + b"]]"  # 4.5 MB
    wires = []
    for _ in range(6):  # 27 MB of answers where 16 may wait
        wire = hurried.wire(30.0)
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.send(request(body))
        wires.append(wire)
    eventually(lambda: connections(hurried) < 6, "the slowest readers have been given up for memory", 60.0)
    others_are_served(hurried)
    eventually(lambda: connections(hurried) == 0, "and the rest for time", 60.0)
    for wire in wires:
        wire.close()


def test_beyond_the_limit_of_connections_only_ping_is_answered(hurried: Tree) -> None:
    eventually(lambda: connections(hurried) == 0, "the others have left")
    held = [hurried.wire(15.0) for _ in range(LIMIT)]
    assert held[0].post(b"[[1]]").status == 200
    with hurried.wire(15.0) as wire:
        reply = wire.post(b"[[1]]")
        assert (reply.status, reply.code, reply.headers["connection"]) == (503, "too_many_connections", "close")
        assert "EVENKEEL_MAX_CONNECTIONS" in reply.message and reply.headers["retry-after"] == "1"
    for _ in range(3):
        with hurried.wire(15.0) as wire:
            assert wire.get("/ping").status == 200
            assert wire.closed_by_server(), "a place beyond the limit is good for one answer"
    with hurried.wire(15.0) as wire:
        assert wire.get("/metrics").code == "too_many_connections"
    for wire in held:
        wire.close()
    eventually(lambda: connections(hurried) == 0, "they have left")
    others_are_served(hurried)


def test_ping_is_answered_while_somebody_opens_connections_without_end(hurried: Tree) -> None:
    crowd = [hurried.wire(15.0) for _ in range(LIMIT + 3 * RESERVE)]
    for _ in range(5):
        assert hurried.ping() == 200
    assert crowd[LIMIT].read().code == "too_many_connections", "the oldest beyond the limit made room, and was told why"
    eventually(lambda: connections(hurried) <= LIMIT + RESERVE, "no more are held than the limit and the reserve")
    for wire in crowd:
        wire.close()
    eventually(lambda: connections(hurried) == 0, "they have left")
    others_are_served(hurried)


def test_nothing_is_held_in_the_end(hurried: Tree) -> None:
    def idle() -> bool:
        front = hurried.status()["fronts"][0]
        return bool(front["in_flight"] == front["queue_rows"] == front["slot_bytes"] == 0)

    eventually(idle, "no request in flight and no slot held")
    assert hurried.status()["restarts"] == {"front": 0, "engine": 0, "sidecar": 0}


def test_patience_lasts_for_those_who_are_fast_enough_and_ends_for_the_rest() -> None:
    fast, slow, late = RateFloor(10.0, 1000.0), RateFloor(10.0, 1000.0), RateFloor(10.0, 1000.0)
    for each in (fast, slow, late):
        each.renew(0.0)
    assert not late.ends(1.0, 10**9), "a fast beginning …"
    assert not any(fast.ends(float(s), 1000) for s in range(1, 1000))
    assert next(s for s in range(1, 1000) if slow.ends(float(s), 500)) == 21
    assert next(s for s in range(2, 1000) if late.ends(float(s), 0)) == 12, "… buys no slow end"


def test_with_no_rate_any_byte_renews_patience() -> None:
    patience = RateFloor(10.0, 0.0)
    patience.renew(0.0)
    assert not any(patience.ends(float(s), 1 if s % 9 == 0 else 0) for s in range(1, 100))
    assert any(patience.ends(float(s), 0) for s in range(100, 120))


def test_time_in_which_nobody_listened_is_not_the_peers() -> None:
    patience = RateFloor(10.0, 1000.0)
    patience.renew(100.0)
    patience.excuse(60.0)
    assert not patience.ends(161.0, 0)
    assert patience.ends(171.0, 0)
