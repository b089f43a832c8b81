"""What matches a shape the strict reader accepts with the same outcome; which shapes are learned; and that they are used."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evenkeel.serve.contract.lifecycle import Reason, Verdict
from evenkeel.serve.errors import EvenkeelError
from evenkeel.serve.front.http import request_head
from evenkeel.serve.front.http.head_shapes import (
    LEARNED_AT,
    NO_SHAPE,
    READ,
    SEEN_MAX,
    SHAPED_BYTES_MAX,
    SHAPES_MAX,
    HeadShapes,
    pattern,
)
from evenkeel.serve.front.http.request_head import NO_HEAD, Route, build
from evenkeel.serve.http import connection, strict
from evenkeel.serve.http.strict import RequestHead, read_head
from evenkeel.serve.settings import Limits
from tests.support.front_bench import FrontBench
from tests.support.line import Line
from tests.support.models import Array, replica, signature, spec
from tests.support.wire import request

MANY = 100
LENGTH = b"content-length"


def outcome(read: RequestHead) -> tuple[object, ...]:
    """All that a head decides, but for the length."""
    formats = build(Route.INVOKE, read.method, read.values, read.keep_alive, None).formats
    return read.method, read.target, read.version, read.keep_alive, read.expects_continue, read.length is None, formats


# ---- exactness ----------------------------------------------------------------------------------------------------------

NAMES = [*(name.decode().title() for name in READ), "X-Amzn-Trace-Id", "x-amzn-sagemaker-inference-id", "Date", "Cookie", "A"]
VALUES = [
    "",
    "a",
    "5",
    "17",
    "0017",
    "close",
    "keep-alive",
    "chunked",
    "100-continue",
    "text/csv",
    "application/json",
    "*/*",
    "b c",
]
lines = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["", " ", "\t "]), st.sampled_from(VALUES)), max_size=6)
edits = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2), st.binary(min_size=1, max_size=3)), max_size=2)


def raw_of(pairs: list[tuple[str, str, str]]) -> bytes:
    head = ["POST /invocations HTTP/1.1", "Host: a", *(f"{name}:{blanks}{value}" for name, blanks, value in pairs)]
    return ("\r\n".join(head) + "\r\n\r\n").encode()


def accepted(raw: bytes) -> RequestHead | None:
    try:
        return read_head(raw, MANY)
    except EvenkeelError:
        return None


def edited(raw: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, cut, put in changes:
        at %= len(raw) + 1
        raw = raw[:at] + put + raw[at + cut :]
    return raw


@settings(max_examples=600)
@given(lines, lines, edits)
@example([("Content-Length", " ", "5")], [("Content-Length", "\t ", "0017")], [])
@example([("A", "", "a")], [("A", "", "")], [])
@example([("A", "", "a")], [("A", "", "a")], [(40, 0, b"\r\nContent-Length: 9")])
@example([("A", "", "a")], [("A", "", "a")], [(38, 0, b"\x00")])
@example([("Transfer-Encoding", "", "chunked")], [("Transfer-Encoding", "", "a")], [])
def test_what_matches_a_shape_is_accepted_by_the_strict_reader_with_the_same_outcome(
    pairs: list[tuple[str, str, str]], others: list[tuple[str, str, str]], changes: list[tuple[int, int, bytes]]
) -> None:
    raw = raw_of(pairs)
    read = accepted(raw)
    if read is None:
        return
    shape = pattern(raw)
    assert shape.fullmatch(raw), "a head is of its own shape"
    for other in (raw_of(others), edited(raw, changes), edited(raw_of(others), changes)):
        match = shape.fullmatch(other)
        if match is None:
            continue
        same = accepted(other)
        assert same is not None and outcome(same) == outcome(read)
        if same.length is not None:
            assert same.length == int(match[1] or 0)


def test_ids_lengths_and_dates_of_their_own_are_of_one_shape() -> None:
    def of(n: int) -> bytes:
        return request(b"x" * n, headers=(f"X-Amzn-Trace-Id: Root=1-{n:x}", f"Date: {n}", f"Any: é{n}"))[: -n or None]

    shape = pattern(of(3))
    assert all(shape.fullmatch(of(n)) for n in (0, 1, 10, 1000))


@pytest.mark.parametrize("name", sorted(READ - {LENGTH}))
def test_another_value_of_what_is_read_is_another_shape(name: bytes) -> None:
    raw = b"POST /invocations HTTP/1.1\r\n%b: a\r\n\r\n" % name
    assert pattern(raw).fullmatch(raw) and not pattern(raw).fullmatch(raw.replace(b" a", b" b"))


def names_in(module: Any) -> set[bytes]:
    """Every literal of a module that could be the name of a header."""
    return {name.encode() for name in re.findall(r'b"([a-z][a-z0-9-]+)"', inspect.getsource(module))}


@pytest.mark.parametrize("name", sorted((names_in(strict) | names_in(request_head) | {b"te", b"upgrade", b"trailer"}) - READ))
@pytest.mark.parametrize("value", [b"close", b"chunked", b"100-continue", b"5", b"text/csv", b"h2c", b"gzip", b""])
def test_a_header_that_is_not_in_the_list_decides_nothing(name: bytes, value: bytes) -> None:
    plain = b"POST /invocations HTTP/1.1\r\nHost: a\r\n"
    with_it = read_head(plain + name + b": " + value + b"\r\n\r\n", MANY)
    assert outcome(with_it) == outcome(read_head(plain + b"\r\n", MANY)) and with_it.length == 0


class Asked(dict[bytes, bytes]):
    """Notes which names it was asked for."""

    def __init__(self, pairs: Mapping[bytes, bytes]) -> None:
        super().__init__(pairs)
        self.names: set[bytes] = set()

    def get(self, name: bytes, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def test_formats_ask_for_no_header_that_is_not_in_the_list() -> None:
    values = Asked({})
    build(Route.INVOKE, b"POST", values, True, None)
    assert values.names and values.names <= READ


# ---- learning -----------------------------------------------------------------------------------------------------------


def noted(shapes: HeadShapes, raw: bytes, times: int = 1) -> Any:
    for _ in range(times):
        shape = shapes.note(raw, read_head(raw, MANY), NO_HEAD)
    return shape


def own(n: int, *more: str) -> bytes:
    return request(b"", headers=(f"X-Id: {n}", *more))


def test_a_shape_is_known_once_it_has_been_seen_often_enough() -> None:
    shapes = HeadShapes()
    for n in range(LEARNED_AT - 1):
        assert noted(shapes, own(n)) is NO_SHAPE and shapes.find(own(n)) is None
    shape = noted(shapes, own(LEARNED_AT))
    assert shape is shapes.find(own(99) + b"body") is shapes.latest and shape is not NO_SHAPE


@pytest.mark.parametrize(
    "raw",
    [
        request(b"", headers=("Connection: close",)), request(b"", version="1.0"),
        request(b"x", headers=("Expect: 100-continue",))[:-1],
        request(None, headers=("Transfer-Encoding: chunked",), length=False),
        request(b"", headers=("A: " + "x" * SHAPED_BYTES_MAX,)),
    ],
)  # fmt: skip
def test_a_head_after_which_the_connection_does_not_go_on_as_before_has_no_shape(raw: bytes) -> None:
    shapes = HeadShapes()
    assert noted(shapes, raw, 2 * LEARNED_AT) is NO_SHAPE is shapes.latest and not shapes._known and not shapes._seen


def test_a_head_that_is_longer_than_those_that_were_learned_may_be_is_not_found() -> None:
    shapes = HeadShapes()
    noted(shapes, own(1), LEARNED_AT)
    assert shapes.find(request(b"", headers=("X-Id: " + "x" * SHAPED_BYTES_MAX,))) is None


def test_the_memory_is_bounded_and_what_was_used_longest_ago_makes_room_one_by_one() -> None:
    shapes = HeadShapes()
    for n in range(SHAPES_MAX):
        noted(shapes, own(1, f"A{n}: "), LEARNED_AT)
    assert shapes.find(own(2, "A0: ")) is not None, "and it is the newest now"
    noted(shapes, own(1, "Another: "), LEARNED_AT)
    left = [n for n in range(SHAPES_MAX) if shapes.find(own(3, f"A{n}: ")) is not None]
    assert left == [0, *range(2, SHAPES_MAX)] and len(shapes._known) == SHAPES_MAX


def test_names_of_their_own_cost_no_pattern_and_push_out_nothing_that_is_known() -> None:
    shapes = HeadShapes()
    noted(shapes, own(1), LEARNED_AT)
    for n in range(3 * SEEN_MAX):
        noted(shapes, own(1, f"A{n}: "))
    assert len(shapes._known) == 1 and len(shapes._seen) == SEEN_MAX and shapes.find(own(2)) is not None


# ---- on a connection ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bench() -> Iterator[FrontBench]:
    sig = signature([spec("x", 2, dtype="float64")], [spec("y", 2, dtype="float64")])
    with FrontBench(lambda: replica(sig, _same, rows_max=64), limits=Limits(body_bytes_max=1000)) as made:
        made.page.write_verdict(Verdict(True, Reason.READY), time.monotonic())
        yield made


def _same(inputs: list[Array]) -> list[Array]:
    return [inputs[0]]


@pytest.fixture
def line(bench: FrontBench) -> Line:
    return Line(bench)


def row(n: int) -> bytes:
    return request(
        b'{"instances": [[%d, 2]]}' % n, headers=(f"X-Amzn-Trace-Id: Root=1-{n}", f"X-Amzn-SageMaker-Inference-Id: {n}")
    )


def told(line: Line, sent: list[bytes]) -> list[bytes]:
    """The bodies of the answers, one request after the other."""
    for data in sent:
        before = line.heard.count(b"HTTP/1.1 ")
        line.send(data)
        line.until(lambda before=before: line.heard.count(b"HTTP/1.1 ") > before)
    return [part.partition(b"\r\n\r\n")[2] for part in line.heard.split(b"HTTP/1.1 ")[1:]]


def no_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection.strict, "read_head", lambda *_: pytest.fail("it was parsed"))


def test_heads_of_their_own_are_not_parsed_any_more_and_answered_as_those_that_were(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(line, [row(n) for n in range(LEARNED_AT)])
    no_parsing(monkeypatch)
    numbers = [*range(LEARNED_AT, LEARNED_AT + 20), *range(99_990, 100_010)]
    assert told(line, [row(n) for n in numbers])[LEARNED_AT:] == [b'{"predictions":[[%d.0,2.0]]}' % n for n in numbers]


def test_the_next_connection_knows_what_the_first_one_has_learned(
    bench: FrontBench, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(line, [row(n) for n in range(LEARNED_AT)])
    ping = b"GET /ping HTTP/1.1\r\nHost: a\r\nUser-Agent: %d\r\n\r\n"
    told(line, [ping % n for n in range(LEARNED_AT)])
    no_parsing(monkeypatch)
    other = Line(bench, line.connections)
    assert told(other, [row(1000), ping % 2, row(2000), ping % 3]) == [
        b'{"predictions":[[1000.0,2.0]]}', b"", b'{"predictions":[[2000.0,2.0]]}', b"",
    ]  # fmt: skip


def test_a_known_shape_hides_neither_a_wrong_value_nor_a_body_that_is_too_large(bench: FrontBench, line: Line) -> None:
    told(line, [row(n) for n in range(LEARNED_AT)])
    large = request(b'{"instances": [[1, 2]]}' + b" " * 1000, headers=("X-Amzn-Trace-Id: 1", "X-Amzn-SageMaker-Inference-Id: 1"))
    assert b'"body_too_large"' in told(line, [large])[-1]
    other = Line(bench, line.connections)
    told(other, [row(1)])
    assert b'"bad_request"' in told(other, [row(1).replace(b"Root=1", b"Root\x00=1")])[-1]


def test_a_handler_and_a_log_see_the_ids_of_each_request(bench: FrontBench, line: Line) -> None:
    told(line, [row(n) for n in range(LEARNED_AT + 1)])
    seen: list[bytes] = []
    bench.front.row_batcher.arrive = lambda invocation, body: seen.append(invocation.head_bytes)  # type: ignore[method-assign]
    other = Line(bench, line.connections)
    other.send(row(77))
    other.until(lambda: seen)
    assert request_head.request_id(seen[0]) == "77"
