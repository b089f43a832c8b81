"""The line that a share of the requests gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.logline import setup
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.front.request.access_log import trace_of
from evenkeel.serve.settings import Limits
from tests.support.front_bench import FrontBench
from tests.support.log_read import logged
from tests.support.models import replica, signature, spec

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
HEAD = (b"POST /invocations HTTP/1.1\r\nTraceParent: 00-" + TRACE + b"-00f067aa0ba902b7-01\r\n"
        b"X-Amzn-SageMaker-Inference-Id: mine\r\nX-Amzn-Trace-Id: Root=1-67891233-abc;Sampled=1\r\n\r\n")  # fmt: skip


def plain() -> Replica:
    return replica(signature([spec("x", 2)], [spec("y", 2)]))


def body(rows: int) -> bytes:
    return json.dumps({"instances": [[1, 2]] * rows}).encode()


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [e for e in map(json.loads, logged(capfd).splitlines()) if e["event"] == "access"]


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    before = (logline._process, logline._text, logline._fd)
    setup("front-0", text=False)
    yield
    setup(before[0], text=before[1], fd=before[2])


def test_a_line_says_who_was_answered_what(capfd: pytest.CaptureFixture[str]) -> None:
    with FrontBench(plain, access_log=1.0) as bench:
        bench.arrive(body(1), head_bytes=HEAD)
        bench.arrive(body(3))
        bench.settle()
        one, three = sorted(lines(capfd), key=lambda line: line["rows"])
        assert (one["request_id"], one["status"], one["rows"], one["model"]) == ("mine", 200, 1, "scripted")
        assert (one["trace_id"], one["parent_id"]) == (TRACE.decode(), "00f067aa0ba902b7")
        assert one["amzn_trace_id"] == "Root=1-67891233-abc;Sampled=1" and one["ms"] >= 0
        assert three["rows"] == 3 and "trace_id" not in three
        bench.assert_clean()


def test_a_refusal_has_its_status_and_code(capfd: pytest.CaptureFixture[str]) -> None:
    with FrontBench(plain, limits=Limits(queue_rows_max=1), access_log=1.0) as bench:
        bench.arrive(b"{")
        bench.settle()
        (line,) = lines(capfd)
        assert (line["status"], line["code"]) == (400, "bad_request")


def test_only_the_share_that_was_asked_for_gets_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with FrontBench(plain, access_log=0.25) as bench:
        for _ in range(16):
            bench.arrive(body(1))
            bench.settle()
        assert len(lines(capfd)) == 4


def test_without_it_nothing_of_it_is_there(capfd: pytest.CaptureFixture[str]) -> None:
    with FrontBench(plain) as bench:
        caller, invocation = bench.arrive(body(1))
        assert invocation.caller is caller
        bench.settle()
        assert lines(capfd) == []


@pytest.mark.parametrize("head", [
    b"", b"POST / HTTP/1.1\r\ntraceparent: 00-xyz-1-01\r\n\r\n",
    b"GET / HTTP/1.1\r\nx-traceparent: 00-" + TRACE + b"-00f067aa0ba902b7-01\r\n",
    b"POST / HTTP/1.1\r\nx-amzn-trace-id: \x1b[31m\r\n",
])  # fmt: skip
def test_what_is_no_trace_id_is_none(head: bytes) -> None:
    assert trace_of(head) == {}
