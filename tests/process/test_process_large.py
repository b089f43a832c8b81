"""Bodies and answers of 25 MB: right, and at a bounded cost in memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orjson
import pytest

from tests.support import digits_model as model
from tests.support.tree import MemoryWatch, Tree, eventually, serving
from tests.support.wire import chunked, request

MB = 10**6
LARGE = 25 * MB
SLACK = 20 * MB  # code that is touched for the first time, and pages of the answers


@pytest.fixture(scope="module")
def fresh() -> Iterator[Tree]:
    """A tree whose memory nobody else has grown."""
    with serving("digits") as tree:
        with tree.wire() as wire:  # what a first request costs once is not the cost of a body
            rows = model.some_rows(np.random.default_rng(12), 100)
            for content_type, encode in model.ENCODE.items():
                assert wire.post(encode(rows), content_type).status == 200
        yield tree


def large_npy() -> tuple[bytes, model.Array]:
    rows = model.some_rows(np.random.default_rng(13), 1000)
    return model.to_npy(np.tile(rows, (LARGE // (1000 * 256), 1, 1))), rows


def large_json() -> tuple[bytes, model.Array]:
    """Floats with many digits, as clients send them: about ten bytes of text for each four of the array."""
    rows = (np.random.default_rng(14).random((500, 8, 8)) * 16).astype(np.float32)
    one = model.to_json(rows).removeprefix(b'{"instances": [').removesuffix(b"]}")
    return b'{"instances": [' + b", ".join([one] * (LARGE // len(one))) + b"]}", rows


def large_csv() -> tuple[bytes, model.Array]:
    rows = (np.random.default_rng(15).random((500, 8, 8)) * 16).astype(np.float32)
    one = model.to_csv(rows)
    return b"\n".join([one] * (LARGE // len(one))), rows


def large_npz() -> tuple[bytes, model.Array]:
    rows = model.some_rows(np.random.default_rng(16), 1000)
    return model.to_npz(np.tile(rows, (LARGE // (1000 * 256), 1, 1))), rows


def _records() -> tuple[list[bytes], model.Array]:
    rows = (np.random.default_rng(17).random((500, 8, 8)) * 16).astype(np.float32)
    return [b'{"features": %b}' % orjson.dumps(row.ravel(), option=orjson.OPT_SERIALIZE_NUMPY) for row in rows], rows


def large_json_of_records() -> tuple[bytes, model.Array]:
    one, rows = _records()
    return b'{"instances": [' + b", ".join(one * (LARGE // sum(map(len, one)))) + b"]}", rows


def large_lines_of_records() -> tuple[bytes, model.Array]:
    one, rows = _records()
    return b"\n".join(one * (LARGE // sum(map(len, one)))), rows


@pytest.mark.parametrize(
    ("make", "content_type"),
    [
        (large_npy, "application/x-npy"), (large_json, "application/json"), (large_csv, "text/csv"),
        (large_npz, "application/x-npz"), (large_json_of_records, "application/json"),
        (large_lines_of_records, "application/jsonlines"),
    ],
)  # fmt: skip
def test_a_body_of_25_mb_costs_at_most_about_twice_its_size(fresh: Tree, make: object, content_type: str) -> None:
    body, rows = make()  # type: ignore[operator]
    assert len(body) > 0.9 * LARGE
    want = model.answers(rows)
    with fresh.wire(60.0) as wire, MemoryWatch(fresh) as watch:
        reply = wire.post(body, content_type, "application/x-npy")
    got = model.from_npy(reply.body)
    assert len(got) % len(want) == 0
    assert all(model.close(got[i : i + len(want)], want) for i in range(0, len(got), len(want)))
    assert watch.growth_bytes < 2 * len(body) + SLACK, f"{watch.growth_bytes / MB:.0f} MB for a body of {len(body) / MB:.0f} MB"


def test_bodies_that_are_announced_and_never_come_cost_nothing(fresh: Tree) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\n\r\n"
    with MemoryWatch(fresh) as watch, contextlib.ExitStack() as stack:
        wires = [stack.enter_context(fresh.wire()) for _ in range(6)]
        for wire in wires:
            wire.send(head + b'{"instances": [' + b" " * 2000)
        time.sleep(1.0)
    assert watch.growth_bytes < 10 * MB, f"{watch.growth_bytes / MB:.0f} MB"


def test_after_the_first_large_bodies_the_memory_comes_back() -> None:
    """Of a tree of its own: one that was asked before would hide what they leave behind."""
    body, _ = large_npy()
    with serving("digits") as tree, tree.wire(60.0) as wire:
        assert wire.post(model.to_npy(model.some_rows(np.random.default_rng(12), 100)), "application/x-npy").status == 200
        watch = MemoryWatch(tree)
        for _ in range(2):
            assert wire.post(body, "application/x-npy", "application/x-npy").status == 200
        eventually(lambda: watch.now() - watch.before_bytes < LARGE, "most of the memory is given back")


def floats(seed: int, size_bytes: int) -> model.Array:
    return np.random.default_rng(seed).random((size_bytes // 40_000, 10_000), dtype=np.float32)


def test_answers_of_25_mb_come_back_to_the_bit(echo: Tree) -> None:
    rows = floats(15, LARGE)
    body = model.to_npy(rows)
    with echo.wire(60.0) as wire:
        assert wire.post(body, "application/x-npy").body == body
        pieces = [body[i : i + 100_000] for i in range(0, len(body), 100_000)]
        assert wire.ask(chunked(pieces, "application/x-npy")).body == body
        as_json = wire.post(body, "application/x-npy", "application/json")
    assert as_json.headers["content-type"] == "application/json"
    assert np.array_equal(model.from_json(as_json.body).astype(np.float32), rows)


def test_a_json_document_of_25_mb_comes_back_to_the_bit(echo: Tree) -> None:
    rows = floats(16, 5 * MB)
    body = model.to_json(rows)
    assert len(body) > LARGE
    with echo.wire(60.0) as wire:
        reply = wire.post(body)
        assert np.array_equal(model.from_json(reply.body).astype(np.float32), rows)
        assert wire.post(reply.body.replace(b"predictions", b"instances")).body == reply.body


def test_large_and_small_requests_at_once_are_all_answered_right(echo: Tree) -> None:
    """Six bodies of 17 MB are 102 MB, far below the limit on what may wait."""
    bodies = [model.to_npy(floats(20 + i, 17 * MB)) for i in range(6)]

    def large(i: int) -> bool:
        with echo.wire(60.0) as wire:
            reply = wire.post(bodies[i], "application/x-npy")
            assert reply.status == 200, reply.raw[:300]
            return reply.body == bodies[i]

    def small(i: int) -> bool:
        with echo.wire(60.0) as wire:
            return all(wire.ask(request(b"[[%d]]" % n)).body == b"[[%d.0]]" % n for n in range(i, i + 50))

    with ThreadPoolExecutor(10) as pool:
        jobs = [pool.submit(large, i) for i in range(6)] + [pool.submit(small, i) for i in range(4)]
        assert all(job.result() for job in jobs)


def test_a_client_that_reads_a_large_answer_slowly_gets_all_of_it_and_delays_nobody(echo: Tree) -> None:
    body = model.to_npy(floats(30, LARGE))
    with echo.wire(60.0) as slow, echo.wire() as quick:
        slow.send(request(body, "application/x-npy"))
        got = bytearray()
        while len(got) < 300_000:
            got += slow.sock.recv(50_000)
            assert quick.post(b"[[1]]").body == b"[[1.0]]"
        while not got.endswith(body[-1000:]):
            got += slow.sock.recv(1 << 20)
    assert bytes(got[-len(body) :]) == body
