"""A large body is read straight to its place, and whatever happens meanwhile, the connection goes on as if it had been parsed."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from evenkeel.serve.contract.status_page import Front
from evenkeel.serve.errors import NUMBER, BadRequest, TooManyArriving
from evenkeel.serve.front.http.body_reader import DIRECT_FROM
from evenkeel.serve.http.connection_state import RECEIVING
from tests.support import digits_model as formats
from tests.support.front_bench import FrontBench
from tests.support.line import Line
from tests.support.models import Array, replica, signature, spec
from tests.support.wire import request

ROWS = np.arange(4 * DIRECT_FROM // 8, dtype=np.float64).reshape(-1, 2)
LARGE = request(formats.to_npy(ROWS), "application/x-npy")
SMALL = request(formats.to_npy(ROWS[:1]), "application/x-npy")


def _same(inputs: list[Array]) -> list[Array]:
    return [inputs[0] + 1]


@pytest.fixture
def line() -> Iterator[Line]:
    sig = signature([spec("x", 2, dtype="float64")], [spec("y", 2, dtype="float64")])
    with FrontBench(lambda: replica(sig, _same, rows_max=64)) as bench:
        made = Line(bench)
        yield made
        made.client.close()
        made.until(lambda: made.transport.is_closing())
        bench.settle()
        assert made.connections.receiving_bytes == 0 and not made.connections.open
        bench.assert_clean()


def answers(heard: bytes) -> list[Array]:
    """The arrays of the NPY answers so far."""
    found = []
    while b"\r\n\r\n" in heard:
        head, _, rest = heard.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            break
        found.append(np.load(io.BytesIO(rest[:length]), allow_pickle=False))
        heard = rest[length:]
    return found


def test_a_large_body_is_read_past_the_parser_and_its_followers_are_not(line: Line) -> None:
    line.send(LARGE[:1000])
    line.until(lambda: line.reads_directly)
    line.send(LARGE[1000:] + SMALL + LARGE + SMALL)
    line.until(lambda: len(answers(line.heard)) == 4)
    assert not line.reads_directly
    assert [np.array_equal(got, sent + 1) for got, sent in zip(answers(line.heard), (ROWS, ROWS[:1]) * 2, strict=True)] == [
        True
    ] * 4


def test_a_body_that_is_nearly_here_is_left_to_the_parser(line: Line) -> None:
    line.send(LARGE[: -DIRECT_FROM + 1])
    line.until(lambda: line.front.is_receiving and not line._waiting)
    line.send(LARGE[-DIRECT_FROM + 1 :])
    line.until(lambda: len(answers(line.heard)) == 1)


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(line: Line) -> None:
    line.send(LARGE[:100_000])
    line.until(lambda: line.reads_directly and not line._waiting)
    assert line.connections.receiving_bytes > 0
    line.client.close()
    line.until(lambda: not line.connections.open)
    assert line.connections.receiving_bytes == 0


@pytest.mark.parametrize("size", [70, 1000, 100_000, len(LARGE) - 1])
def test_a_client_that_ends_its_half_in_the_middle_hears_how_much_came(line: Line, size: int) -> None:
    line.send(LARGE[:size])
    line.until(lambda: line.front.state in RECEIVING and not line._waiting)
    if size == 100_000:
        line.until(lambda: line.reads_directly)
    line.client.shutdown(socket.SHUT_WR)
    line.until(lambda: b'"}}' in line.heard)
    assert line.heard.startswith(b"HTTP/1.1 400") and b"connection: close" in line.heard
    head_bytes = LARGE.index(b"\r\n\r\n") + 4
    came = max(0, size - head_bytes)
    words = f"the body ended after {came} of the {len(LARGE) - head_bytes} bytes"
    assert (words if size > head_bytes else "in the middle of the request's head").encode() in line.heard
    line.until(lambda: line.transport.is_closing())
    assert line.bench.page.front(0).count[Front.ERRORS + NUMBER[BadRequest]] == 1


def test_a_client_that_ends_its_half_after_its_request_gets_its_answer_and_then_the_end(line: Line) -> None:
    line.send(SMALL)
    line.until(lambda: line.bench.front.in_flight.pending or line.heard)
    line.client.shutdown(socket.SHUT_WR)
    line.until(lambda: answers(line.heard))
    line.until(lambda: line.transport.is_closing())


def test_a_refusal_in_the_middle_is_heard_and_what_still_comes_is_thrown_away(line: Line) -> None:
    line.send(LARGE[:100_000])
    line.until(lambda: line.reads_directly and not line._waiting)
    line.front.refuse(TooManyArriving("too much at once", retry_after_s=1))
    assert not line.reads_directly and line.connections.receiving_bytes == 0
    line.send(LARGE[100_000:])
    line.until(lambda: b"too much at once" in line.heard and not line._waiting)
    assert line.heard.startswith(b"HTTP/1.1 429") and b"connection: close" in line.heard


def test_a_body_that_stops_half_way_is_given_up_in_time(line: Line) -> None:
    line.send(LARGE[:100_000])
    line.until(lambda: line.reads_directly and not line._waiting)
    line.front.check_silence(time.monotonic() + line.connections.limits.body_timeout_s + 1)
    line.until(lambda: line.heard)
    assert line.heard.startswith(b"HTTP/1.1 408")


def test_a_stopping_worker_answers_the_body_it_is_reading_and_closes(line: Line) -> None:
    line.send(LARGE[:100_000])
    line.until(lambda: line.reads_directly and not line._waiting)
    line.bench.loop.call_soon(line.front.shutdown)
    line.bench.step_front()
    line.send(LARGE[100_000:])
    line.until(lambda: answers(line.heard))
    assert b"connection: close" in line.heard
