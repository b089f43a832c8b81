"""How many calls a request costs on its fast way, and that it goes there. Calls are counted, never time, so a change that falls
off the way, or makes it longer, shows on any machine. A bound is what was counted when it was written, and a tenth."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import evenkeel.serve
from evenkeel.serve.contract.lifecycle import Reason, Verdict
from evenkeel.serve.contract.request_ways import request_ways
from evenkeel.serve.contract.status_page import Main
from evenkeel.serve.engine.backends.base import RawReply, RawRequest
from evenkeel.serve.engine.models.replica import Replica
from tests.support.digits_model import to_npy
from tests.support.front_bench import FrontBench
from tests.support.line import Line
from tests.support.models import Array, raw_replica, replica, signature, spec

OURS = str(Path(evenkeel.serve.__file__).parent)
WARM, ROUNDS = 20, 4
Ways = dict[tuple[str, str], int]
PAIR = signature([spec("x", 2)], [spec("y", 2)])
JSON, NPY, CSV = "application/json", "application/x-npy", "text/csv"


def half(inputs: list[Array]) -> list[Array]:
    return [inputs[0] * np.float32(0.5)]


def rows() -> Replica:
    return replica(PAIR, half, rows_max=256)


def handler() -> Replica:
    def handle(requests: Sequence[RawRequest]) -> list[Any]:
        return [RawReply(request.body, JSON) for request in requests]

    return raw_replica(handle)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Calls of functions of ours, and those that these make of what is written in C."""
    calls, ours = [0], dict[CodeType, bool]()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event not in ("call", "c_call"):
            return
        code = frame.f_code
        is_ours = ours.get(code)
        if is_ours is None:
            is_ours = ours[code] = code.co_filename.startswith(OURS)
        calls[0] += is_ours

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def request(body: bytes, content_type: str, number: int) -> bytes:
    """With a trace id and an inference id of its own, as platforms send them."""
    return (
        f"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\nx-amzn-trace-id: Root=1-{number:08x}\r\n"
        f"x-amzn-sagemaker-inference-id: {number:04x}-a\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


def calls_a_request(made: Callable[[], Replica], body: bytes, kind: str, together: int) -> tuple[float, Ways]:
    """Of requests that come `together`, each on a connection of its own: calls, and which ways they went."""
    with FrontBench(made) as bench:
        bench.page.write_verdict(Verdict(True, Reason.READY), 1.0)
        bench.page.main.count[Main.FRONTS] = bench.page.main.count[Main.ENGINES] = 1
        first = Line(bench)
        lines = [first, *(Line(bench, first.connections) for _ in range(together - 1))]
        total = 0
        for round_ in range(WARM + ROUNDS):
            if round_ == WARM:
                before = request_ways(bench.page)
            for i, line in enumerate(lines):
                line.client.send(request(body, kind, round_ * together + i))
            with counted() as calls:
                answered = until_answered(bench, lines)
            assert answered == together
            total += calls[0] * (round_ >= WARM)
        after = request_ways(bench.page)
        return total / ROUNDS / together, {way: after[way] - before[way] for way in after if after[way] > before[way]}


def until_answered(bench: FrontBench, lines: list[Line]) -> int:
    answered = 0
    for _ in range(20):
        bench.step_front()
        bench.step_front()
        bench.engines[0].turn()
        bench.clock.advance(0.0002)
        bench.step_front()
        for line in lines:
            try:
                answered += line.client.recv(1 << 16).startswith(b"HTTP/1.1 200")
            except BlockingIOError:
                continue
        if answered == len(lines):
            break
    return answered


ROW = json.dumps({"instances": [[1.5, 2.5]]}).encode()
KNOWN, ROWS = ("head", "known"), ("decode", "rows")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "kind", "body", "together", "ways", "calls_max"),
    [
        (rows, JSON, ROW, 32, {KNOWN, ROWS, ("queue", "table")}, 39),
        (rows, NPY, to_npy(np.array([[1.5, 2.5]], np.float32)), 32, {KNOWN, ROWS, ("queue", "table")}, 36),
        (rows, CSV, b"1.5,2.5\n", 32, {KNOWN, ROWS, ("queue", "table")}, 39),
        (rows, JSON, ROW, 1, {KNOWN, ROWS, ("queue", "skipped")}, 127),
        (handler, JSON, ROW, 16, {KNOWN, ("decode", "handler"), ("queue", "one")}, 132),
        (handler, JSON, ROW, 1, {KNOWN, ("decode", "handler"), ("queue", "one")}, 175),
    ],
    ids=["32 of JSON", "32 of NPY", "32 of CSV", "one alone", "16 for a handler", "one for a handler"],
)  # fmt: skip
def test_a_request_goes_the_fast_way_and_costs_no_more_calls(
    made: Callable[[], Replica], kind: str, body: bytes, together: int, ways: set[tuple[str, str]], calls_max: float
) -> None:
    calls, went = calls_a_request(made, body, kind, together)
    assert went == dict.fromkeys(ways, ROUNDS * together)
    assert calls <= calls_max
