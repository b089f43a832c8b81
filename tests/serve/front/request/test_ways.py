"""A request may go several ways: alone, among others of its turn, over several engines, one by one, decoded in a thread.
Whichever it goes, the answer is the same to the byte, and so is what is counted."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from evenkeel.serve.contract.request_ways import request_ways
from evenkeel.serve.contract.status_page import TIME_CELLS, Engine, Front, Main
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.errors import FAMILIES
from evenkeel.serve.front.http.request_head import Head
from evenkeel.serve.front.request import decoding
from evenkeel.serve.front.request.invocations import Invocations
from evenkeel.serve.front.routing.admission import ROWS_SURE_LEAST
from tests.support.front_bench import Caller, FrontBench, head
from tests.support.models import Array, replica, signature, spec

PAIR = signature([spec("x", 2)], [spec("y", 2)])
WITHIN_S = 10.0


def half(inputs: list[Array]) -> list[Array]:
    return [inputs[0] * np.float32(0.5) + np.float32(1 / 3)]


def made() -> Replica:
    return replica(PAIR, half, rows_max=256)


def npy(row: Sequence[float]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray([row], np.float32))
    return file.getvalue()


@dataclass(frozen=True)
class Asked:
    body: bytes
    head: Head


JSON, NPY, CSV, AS_NPY = head(), head("application/x-npy"), head("text/csv"), head(accept="application/x-npy")
AS_JSON = head("text/csv", accept="application/json")
ASKED = [
    *(Asked(json.dumps({"instances": [[i / 7, -i]]}).encode(), JSON) for i in range(20)),
    *(Asked(npy([i / 7, -i]), NPY) for i in range(4)),
    Asked(json.dumps({"instances": [[1, 2], [3, 4]]}).encode(), JSON), Asked(json.dumps([[5, 6]]).encode(), JSON),
    Asked(json.dumps({"inputs": {"x": [[7, 8]]}}).encode(), JSON),
    *(Asked(b"%d.5,2.5\n" % i, CSV) for i in range(4)), Asked(b"1.5,2.5", AS_JSON), Asked(b"1,2\n3,4\n", CSV), Asked(b"1,a", CSV),
    Asked(json.dumps({"instances": [[9, 10]]}).encode(), AS_NPY),
    Asked(b'{"instances": [[1, 2, 3]]}', JSON), Asked(b"no", JSON), Asked(b'{"instances": [[1, true]]}', JSON),
    Asked(b'{"instances": [[1e39, 0]]}', JSON), Asked(b"\x93NUMPY", NPY), Asked(b"", head("image/png")),
]  # fmt: skip

Way = Callable[[FrontBench, list[Asked]], list[Caller]]


def one_by_one(bench: FrontBench, asked: list[Asked]) -> list[Caller]:
    """The general way, without the row batcher."""
    callers = []
    for each in asked:
        callers.append(bench.ask(each.body, each.head))
        settle(bench, callers)
    return callers


def in_turns_of(count: int) -> Way:
    def ask(bench: FrontBench, asked: list[Asked]) -> list[Caller]:
        callers: list[Caller] = []
        for at in range(0, len(asked), count):
            callers += [bench.arrive(each.body, each.head)[0] for each in asked[at : at + count]]
            settle(bench, callers)
        return callers

    return ask


def settle(bench: FrontBench, callers: list[Caller]) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not all(caller.answered for caller in callers):
        assert time.monotonic() < end_s
        bench.settle(1)
        bench.clock.advance(0.001)  # an engine may wait a moment for more rows


def seen(callers: list[Caller]) -> list[tuple[str, bytes, bytes | None, str]]:
    return [(c.code, c.start, c.body, c.error.message if c.error is not None else "") for c in callers]


def counted(bench: FrontBench) -> dict[str, int]:
    """Of all that is counted of answers. How long they took differs with the way, that they are counted does not."""
    count = bench.page.front(0).count
    errors = {family.code: int(count[Front.ERRORS + number]) for number, family in enumerate(FAMILIES)}
    latencies = sum(count[Front.LATENCY : Front.LATENCY + TIME_CELLS])
    return {**errors, "ok": int(count[Front.OK]), "latencies": latencies, "again": int(count[Front.RESUBMITTED])}


def outcome(way: Way, engines: int) -> tuple[Any, dict[str, int]]:
    with FrontBench(*[made] * engines) as bench:
        callers = way(bench, ASKED)
        bench.assert_clean()
        return seen(callers), counted(bench)


@pytest.mark.parametrize("engines", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 5, len(ASKED)])
def test_answers_and_counters_are_the_same_whatever_came_in_the_same_turn(count: int, engines: int) -> None:
    answers, counters = outcome(in_turns_of(count), engines)
    assert (answers, counters) == outcome(one_by_one, 1)
    assert counters["ok"] == counters["latencies"] == sum(code == "ok" for code, *_ in answers) > 20
    assert sum(counters.values()) - counters["latencies"] == len(ASKED)


def test_rows_of_one_turn_are_spread_over_the_engines_that_are_up() -> None:
    with FrontBench(made, made, made) as bench:
        callers = [bench.arrive(each.body, each.head)[0] for each in ASKED[:20]]
        bench.step_front()
        assert sorted(link.rows for link in bench.front.engines.links) == [6, 7, 7]
        settle(bench, callers)
        bench.assert_clean()


def test_rows_that_cost_little_join_the_batcher_behind_a_long_queue_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Invocations, "begin", lambda *_, **__: pytest.fail("one was taken on its own"))
    with FrontBench(made) as bench:
        bench.page.engine(0).value[Engine.ROW_COST_S] = 1e-6
        bench.front.sweep()
        callers = []
        for _ in range(4):
            callers += [bench.arrive(each.body, each.head)[0] for each in ASKED[:20] * 2]
            bench.step_front()
        assert bench.front.engines.links[0].rows == len(callers) > 2 * ROWS_SURE_LEAST
        settle(bench, callers)
        bench.assert_clean()


def test_a_body_that_is_decoded_in_a_thread_gives_the_same_as_one_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = outcome(one_by_one, 1)
    monkeypatch.setattr(decoding, "OFFLOADED_FROM", -1)
    threads: list[int] = []
    decode = decoding.BodyDecoder._decode
    monkeypatch.setattr(decoding.BodyDecoder, "_decode", lambda *given: threads.append(1) or decode(*given))
    assert outcome(one_by_one, 1) == at_once
    assert len(threads) == len(ASKED) - 1, "all but the one whose head is wrong"


def test_which_way_each_went_is_counted() -> None:
    with FrontBench(made) as bench:
        bench.page.main.count[Main.FRONTS] = bench.page.main.count[Main.ENGINES] = 1
        settle(bench, [bench.arrive(each.body, each.head)[0] for each in ASKED])
        ways = request_ways(bench.page)
    assert ways == {
        ("head", "known"): len(ASKED), ("head", "parsed"): 0,
        ("decode", "rows"): 30, ("decode", "one"): 4, ("decode", "thread"): 0, ("decode", "handler"): 0,
        ("queue", "skipped"): 0, ("queue", "table"): 0, ("queue", "one"): 34,
        ("answer", "parts"): 0,
    }  # fmt: skip
