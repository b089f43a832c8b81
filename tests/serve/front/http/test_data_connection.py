"""One connection of the data port: turns, refusals, half-closed clients, places."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from evenkeel.serve.contract.lifecycle import Reason, Verdict
from evenkeel.serve.contract.status_page import Front
from evenkeel.serve.errors import NUMBER, MethodNotAllowed, NotFound
from evenkeel.serve.front.http.silence import HALF_CLOSED_S
from evenkeel.serve.front.routing.engine_channel import EngineChannel
from evenkeel.serve.http.connection_state import ConnectionState
from evenkeel.serve.settings import Limits
from tests.support.front_bench import FrontBench
from tests.support.line import Line
from tests.support.models import Array, replica, signature, spec
from tests.support.wire import request

ROW = request(b"[[1.0, 2.0]]")
PING = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"
GOOD = b"HTTP/1.1 200 OK"


def _same(inputs: list[Array]) -> list[Array]:
    return [inputs[0]]


@pytest.fixture
def bench() -> Iterator[FrontBench]:
    sig = signature([spec("x", 2, dtype="float64")], [spec("y", 2, dtype="float64")])
    with FrontBench(lambda: replica(sig, _same, rows_max=64), limits=Limits(connections_max=2)) as made:
        made.page.write_verdict(Verdict(True, Reason.READY), time.monotonic())
        yield made


@pytest.fixture
def line(bench: FrontBench) -> Iterator[Line]:
    made = Line(bench)
    yield made
    made.client.close()
    made.until(lambda: made.transport.is_closing())
    bench.settle()
    assert made.connections.receiving_bytes == 0 and not made.connections.open
    bench.assert_clean()


def counted(line: Line, error: type) -> int:
    return int(line.bench.page.front(0).count[Front.ERRORS + NUMBER[error]])


def said(line: Line, word: bytes, times: int = 1) -> None:
    line.until(lambda: line.heard.count(word) >= times)


def ended(line: Line) -> None:
    line.until(lambda: line.front.state is ConnectionState.CLOSED)


# ---- turns --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offer", [b"Upgrade: h2c\r\nConnection: Upgrade", b"Upgrade: websocket\r\nConnection: upgrade"])
def test_an_offer_to_upgrade_is_ignored_and_what_follows_it_is_answered(line: Line, offer: bytes) -> None:
    line.send(PING[:-2] + offer + b"\r\n\r\n" + ROW.replace(b"Host: test", b"Host: test\r\n" + offer) + ROW + PING)
    said(line, b"HTTP/1.1 ", 4)
    assert line.heard.count(b"content-type: application/json") >= 2 and b"connection: close" not in line.heard
    assert b" 400 " not in line.heard


@pytest.mark.parametrize("line_", [b"HTTP/1.0\r\n", b"HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"])
def test_an_offer_to_upgrade_does_not_keep_a_connection_that_should_end(line: Line, line_: bytes) -> None:
    line.send(b"GET /ping " + line_ + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + PING)
    said(line, b"connection: close")
    line.until(lambda: line.front.state in (ConnectionState.LINGERING, ConnectionState.CLOSING, ConnectionState.CLOSED))
    assert line.heard.count(b"HTTP/1.1 ") == 1


def test_a_body_behind_an_offer_to_upgrade_is_a_body(line: Line) -> None:
    line.send(request(PING, headers=("Connection: Upgrade", "Upgrade: h2c"))[: -len(PING)])
    line.until(lambda: line.front.state is ConnectionState.BODY)
    line.send(PING)
    said(line, b" 400 ")
    assert line.heard.count(b"HTTP/1.1 ") == 1, "it is not read as a request"


def test_nobody_in_http_1_0_is_asked_for_its_body(line: Line) -> None:
    line.send(request(None, headers=("Expect: 100-continue", "Content-Length: 12"), version="1.0"))
    line.until(lambda: line.front.state is ConnectionState.BODY)
    line.send(b"[[1.0, 2.0]]")
    said(line, GOOD)
    assert b"100 Continue" not in line.heard


def test_a_client_that_waits_for_our_word_gets_it_once(line: Line) -> None:
    line.send(request(None, headers=("Expect: 100-continue", "Content-Length: 12"), length=False))
    said(line, b"100 Continue")
    line.send(b"[[1.0,")
    line.until(lambda: line.front.is_receiving)
    line.send(b" 2.0]]")
    said(line, GOOD)
    assert line.heard.count(b"100 Continue") == 1


def test_a_long_pipeline_is_answered_in_order_and_others_have_their_turn_between(line: Line) -> None:
    line.send((ROW + PING) * 200)
    said(line, GOOD, 400)
    answers = [part.partition(b"\r\n\r\n")[2] for part in line.heard.split(GOOD)[1:]]
    assert [bool(a) for a in answers] == [True, False] * 200


# ---- refusals -----------------------------------------------------------------------------------------------------------


def test_a_wrong_path_or_method_is_refused_without_the_application_and_the_connection_goes_on(line: Line) -> None:
    line.front.app = None  # nobody to be asked
    line.send(
        b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"
        + request(b"[[1]]", path="/nothing")
        + request(b"", path="/ping", method="PUT")
    )
    line.send(b"HEAD /invocations HTTP/1.1\r\nHost: a\r\n\r\n" + ROW)
    said(line, GOOD)
    assert line.heard.count(b"HTTP/1.1 404 ") == 2 and line.heard.count(b"HTTP/1.1 405 ") == 2
    assert b"allow: GET, POST, HEAD\r\n" in line.heard and b"allow: POST\r\n" in line.heard
    assert line.heard.count(b'"method_not_allowed"') == 1, "the other was a HEAD"
    assert (counted(line, NotFound), counted(line, MethodNotAllowed)) == (2, 2)
    assert b"connection: close" not in line.heard


def test_a_large_body_of_a_request_that_is_refused_is_not_waited_for(line: Line) -> None:
    line.send(request(b"x" * 100_000, path="/nothing")[:-500])
    said(line, b" 404 ")
    assert b"connection: close" in line.heard
    line.until(lambda: line.front.state is ConnectionState.LINGERING)


def test_a_small_one_is_read_past_and_the_connection_goes_on(line: Line) -> None:
    refused = request(b"x" * 1000, path="/nothing")
    line.send(refused[:-500])
    line.until(lambda: line.front.state is ConnectionState.BODY)
    line.send(refused[-500:] + ROW)
    said(line, GOOD)
    assert line.heard.count(b" 404 ") == 1 and b"connection: close" not in line.heard


def test_who_asks_before_it_sends_a_body_is_refused_before_it_sends_one(line: Line) -> None:
    line.send(request(None, path="/nothing", headers=("Expect: 100-continue", "Content-Length: 12"), length=False))
    said(line, b" 404 ")
    assert b"100 Continue" not in line.heard


def test_a_body_over_the_limit_is_refused_each_time_it_comes(line: Line) -> None:
    """Also when its head has been read before and all of it comes at once."""
    line.connections.limits = replace(line.connections.limits, body_bytes_max=5)
    line.send(ROW * 2 + request(b"[[1]]"))
    said(line, b"HTTP/1.1 ", 3)
    assert line.heard.count(b" 413 ") == 2


def test_a_path_in_other_letters_is_the_same_path(line: Line) -> None:
    line.send(ROW.replace(b"/invocations", b"/%69nvocations") * 3)
    said(line, GOOD, 3)


def test_the_first_bytes_of_tls_are_called_so_at_once(line: Line) -> None:
    line.send(b"\x16\x03\x01\x02\x00\x01\x00")
    said(line, b"TLS")
    assert line.heard.startswith(b"HTTP/1.1 400 ")


# ---- clients that end their half ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [PING, ROW, ROW * 3, b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_a_client_that_ends_its_half_gets_its_answers_and_then_the_end(line: Line, data: bytes) -> None:
    line.client.send(data)
    line.client.shutdown(socket.SHUT_WR)
    ended(line)
    line.until(lambda: line.heard.count(b"HTTP/1.1 ") == data.count(b"HTTP/1.1"))


def test_a_client_that_ends_its_half_while_the_engine_works_gets_its_answer(line: Line) -> None:
    line.client.send(ROW)
    for _ in range(3):
        line.bench.step_front()
    line.client.shutdown(socket.SHUT_WR)
    for _ in range(3):
        line.bench.step_front()
    assert line.front.state is ConnectionState.OWED and line.bench.front.in_flight.pending
    said(line, GOOD)
    assert b"connection: close" in line.heard
    ended(line)


def test_a_client_that_hung_up_after_its_request_is_noticed_when_it_is_asked(line: Line) -> None:
    """Its end looks like that of a half-closed client, until something is written to it."""
    line.client.send(ROW)
    for _ in range(3):
        line.bench.step_front()
    line.client.close()
    for _ in range(3):
        line.bench.step_front()
    assert line.front.state is ConnectionState.OWED
    for number in range(3):
        line.front.check_silence(time.monotonic() + HALF_CLOSED_S + 1 + number)
        for _ in range(3):
            line.bench.step_front()
    assert line.front.state is ConnectionState.CLOSED
    line.bench.settle()
    assert line.bench.page.front(0).count[Front.ABANDONED] == 1


# ---- places -------------------------------------------------------------------------------------------------------------


def test_at_the_limit_the_longest_idle_connection_makes_room_and_a_busy_one_does_not(bench: FrontBench) -> None:
    first = Line(bench)
    second, third = Line(bench, first.connections), None
    try:
        for each in (first, second):
            each.send(PING)
            said(each, GOOD)
        for each, since_s in ((first, 5.0), (second, 9.0)):
            each.front.silence.quiet_since_s = time.monotonic() - since_s
        third = Line(bench, first.connections)
        ended(second)
        third.send(ROW)
        said(third, GOOD)
        assert first.front.state is ConnectionState.IDLE and not first.connections.reserve
    finally:
        for each in (first, second, third):
            if each is not None:
                each.client.close()
                ended(each)


def test_an_idle_connection_whose_client_reads_nothing_is_not_waited_for_when_its_place_is_needed(bench: FrontBench) -> None:
    first = Line(bench)
    others = [Line(bench, first.connections)]
    try:
        for each in (first, others[0]):
            each.send(PING)
            said(each, GOOD)
        first.transport.write(bytes(1 << 16) * 40)  # more than the sockets hold
        first.front.state = ConnectionState.IDLE  # as it is below the mark from which writing pauses
        first.front.silence.quiet_since_s = time.monotonic() - 9.0
        others.append(Line(bench, first.connections))
        others[0].until(lambda: first.front.state is ConnectionState.CLOSED)
        assert first.front not in first.connections.open
    finally:
        for each in (first, *others):
            each.client.close()
            ended(each)


def test_with_nobody_idle_for_long_a_newcomer_is_good_for_a_ping(bench: FrontBench) -> None:
    first = Line(bench)
    others = [Line(bench, first.connections) for _ in range(2)]
    try:
        others[1].send(ROW)
        said(others[1], b" 503 ")
        assert b"too_many_connections" in others[1].heard
    finally:
        for each in (first, *others):
            each.client.close()
            ended(each)


def test_a_client_that_resets_is_abandoned_at_once(bench: FrontBench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        line = Line(bench, ends=(client, listener.accept()[0]))
    line.client.send(ROW)
    for _ in range(3):
        bench.step_front()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    for _ in range(3):
        bench.step_front()
    assert line.front.state is ConnectionState.CLOSED
    bench.settle()
    assert bench.page.front(0).count[Front.ABANDONED] == 1
    bench.assert_clean()


# ---- heads ----------------------------------------------------------------------------------------------------------------


def traced(trace: str) -> bytes:
    return request(b'{"instances": [[1.0, 2.0]]}', headers=(f"X-Amzn-Trace-Id: {trace}",))


def test_a_head_that_was_never_seen_and_a_repeated_one_join_the_same_batch(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Line(line.bench, line.connections)
    sent: list[int] = []
    send = EngineChannel.send
    monkeypatch.setattr(EngineChannel, "send", lambda link, records: (sent.append(len(records)), send(link, records))[1])

    def bring(trace: str) -> None:
        line.front.data_received(traced("repeated"))
        other.front.data_received(traced(trace))

    for number, trace in enumerate("ab", 1):  # at first one comes alone, and does not wait for the end of its turn
        sent.clear()
        line.bench.loop.call_soon(bring, trace)
        said(line, GOOD, number)
        said(other, GOOD, number)
    assert sent == [2]
    assert {each.heard.rpartition(b"\r\n\r\n")[2] for each in (line, other)} == {b'{"predictions":[[1.0,2.0]]}'}
    other.client.close()
    line.until(lambda: other.transport.is_closing())
