"""The client of the table: every different answer is told, latency counts from when a request was due, failures are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.table.client import ClientPlan, ClientTally, TableClient
from benchmarks.table.dialects import Request
from benchmarks.table.records import written

BODIES = (b"first", b"second", b"third")


def echo(body: bytes) -> bytes:
    return answered(body)


def answered(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nInference-Header-Content-Length: 1\r\nContent-Length: {len(body)}{more}\r\n\r\n".encode() + body


class Answering:
    """A server that answers each body by a function, and keeps what it was asked."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self._answer = answer
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
                body = await reader.readexactly(size)
                self.heads.append(head)
                self.bodies.append(body)
                await self.may_answer.wait()
                writer.write(self._answer(body))
                if b"Connection: close" in head:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


def asked(tmp_path: Path, answering: Callable[[], Answering], **plan: float | bool) -> tuple[ClientTally, Answering]:
    """What the client tells, of a load on a server that is there for it alone."""
    file = tmp_path / "records"
    file.write_bytes(written([Request("POST", "/p", {"Content-Type": "text/plain"}, body) for body in BODIES]))

    async def run() -> tuple[ClientTally, Answering]:
        server = answering()
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        told = {"seconds": 5.0, "connections": 2, **plan}
        async with listener:
            port = listener.sockets[0].getsockname()[1]
            client = TableClient(ClientPlan(port=port, path="/p", records=str(file), **told))  # type: ignore[arg-type]
            return await client.run(), server

    return asyncio.run(run())


def test_a_closed_loop_sends_every_body_and_tells_each_different_answer_once(tmp_path: Path) -> None:
    tally, server = asked(tmp_path, lambda: Answering(echo), count=30)
    assert tally.requests == 30 and (tally.non2xx, tally.errors, tally.unsent) == (0, 0, 0)
    assert sorted((number, body.encode()) for number, _, body in tally.answers) == list(enumerate(BODIES))
    assert set(server.bodies) == set(BODIES)


def test_no_two_heads_are_the_same(tmp_path: Path) -> None:
    _, server = asked(tmp_path, lambda: Answering(echo), count=30)
    assert len(set(server.heads)) == 30 and all(b"X-Amzn-Trace-Id: Root=1-" in head for head in server.heads)


def test_another_answer_to_the_same_body_is_told_too(tmp_path: Path) -> None:
    answers = iter(range(10**6))
    tally, _ = asked(tmp_path, lambda: Answering(lambda body: answered(b"%d" % next(answers))), count=12)
    assert len(tally.answers) == 12


def test_pads_make_lengths_of_their_own(tmp_path: Path) -> None:
    _, server = asked(tmp_path, lambda: Answering(echo), count=40, pads=1000)
    assert {body.rstrip() for body in server.bodies} == set(BODIES)
    assert len({len(body) for body in server.bodies}) > 30


def test_each_request_may_have_a_connection_of_its_own(tmp_path: Path) -> None:
    tally, server = asked(tmp_path, lambda: Answering(echo), count=9, fresh=True)
    assert tally.requests == 9 and tally.errors == 0
    assert all(b"Connection: close\r\n" in head for head in server.heads)


@pytest.mark.parametrize(("status", "counted"), [("429 Too Many", 4), ("503 No", 4), ("201 Created", 0)])
def test_answers_that_are_no_2xx_are_counted_and_not_told(tmp_path: Path, status: str, counted: int) -> None:
    tally, _ = asked(tmp_path, lambda: Answering(lambda body: answered(body, status)), count=4)
    assert tally.non2xx == counted and len(tally.answers) == (0 if counted else 3)


def test_a_connection_that_ends_instead_of_an_answer_is_an_error(tmp_path: Path) -> None:
    tally, _ = asked(tmp_path, lambda: Answering(lambda body: b""), count=2, fresh=True)
    assert tally.errors == 2 and tally.requests == 0


def test_the_latency_of_an_open_load_counts_from_when_a_request_was_due(tmp_path: Path) -> None:
    """One connection and a server that answers nothing until all are due: the first requests have waited longest."""

    def stalled() -> Answering:
        server = Answering(echo)
        server.may_answer.clear()
        asyncio.get_running_loop().call_later(0.35, server.may_answer.set)
        return server

    tally, server = asked(tmp_path, stalled, seconds=0.3, connections=1, rate=200.0)
    assert len(server.bodies) == tally.requests > 20 and tally.unsent == 0
    assert tally.latency_s[0] > tally.latency_s[tally.requests // 2] > tally.latency_s[-1]
    assert len(tally.late_s) == 1, "what waits for a connection is not late by the client's fault"
