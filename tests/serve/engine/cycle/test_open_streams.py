"""Streams in the engine: what is sent while the front reads, and while it does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

from evenkeel.serve.batching.item import Item
from evenkeel.serve.contract.status_page import Engine, StatusBlock, StatusPage
from evenkeel.serve.engine.backends.base import RawStream
from evenkeel.serve.engine.cycle.engine_context import EngineContext
from evenkeel.serve.engine.cycle.open_streams import PARTS_AHEAD_MAX, WINDOW_BYTES, OpenStreams
from evenkeel.serve.engine.cycle.replies import Replies
from evenkeel.serve.engine.cycle.run_stamp import RunStamp
from evenkeel.serve.errors import ModelFailed
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.descriptor import OVERFLOW, REPLY, START, STREAMED
from evenkeel.serve.transport.layout import aligned


class FakePeer:
    """A front that reads what it is given, or does not."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(1 << 20))
        self.outbox = bytearray()
        self.records: list[tuple[int, int, bytes]] = []  # kind, flags, the bytes named
        self.channel = self

    def send_with(self, record: bytes, fd: int, gives: bool) -> None:
        self.send(record)

    def send(self, records: bytes = b"") -> None:
        for kind, flags, _, _, _, at, size, *_ in REPLY.iter_unpack(bytes(self.outbox) + records):
            self.records.append((kind, flags, bytes(self.memory[at : at + size])))
        self.outbox.clear()


class WatchedStamp(RunStamp):
    def __init__(self, block: StatusBlock, epoch: int, clock: Callable[[], float], deadlines: list[float]) -> None:
        super().__init__(block, epoch, clock)
        self._deadlines = deadlines

    def part(self, item: Item) -> float:
        self._deadlines.append(item.deadline_s)
        return super().part(item)


class Bench:
    def __init__(self, parts: Generator[bytes, None, None], capacity: int = 1 << 20) -> None:
        cells = StatusPage.create().engine(0)
        self.peer, self.told, self.cells = FakePeer(), list[str](), cells
        self.stamps: list[float] = []  # the deadline that each run of the generator was given
        stamp = WatchedStamp(cells, 1, time.monotonic, self.stamps)
        engine = EngineContext(cells, stamp, self.peer, time.monotonic)  # type: ignore[arg-type]
        self.streams = OpenStreams(Replies(cells, 1), engine, lambda item, error, known: self.told.append(known.message))
        self.item = Item(7, 1, (), 60.0, 0.0, self.peer, 0, capacity, 100)
        self.streams.begin(self.item, RawStream(parts, "text/plain"))

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.streams.advance()

    @property
    def parts(self) -> list[Any]:
        return [data for kind, flags, data in self.peer.records if kind == descriptor.PART and flags != START]


def endless(size: int, made: list[int]) -> Generator[bytes, None, None]:
    try:
        while True:
            made.append(1)
            yield b"x" * size
    finally:
        made.append(-1)


def test_a_front_that_reads_nothing_gets_a_window_and_its_generator_is_asked_no_more() -> None:
    for size, most in ((1, PARTS_AHEAD_MAX), (8000, WINDOW_BYTES // 8000)):
        made: list[int] = []
        bench = Bench(endless(size, made))
        bench.turn(2000)
        assert most // 2 < len(bench.parts) <= most and len(made) <= most + 1
        assert not bench.streams.advance(), "nothing can go on: the engine may sleep"
        before = len(bench.parts)
        bench.streams.more(7, 5)
        bench.turn(100)
        assert 0 < len(bench.parts) - before <= 6, "as much again as has been read"


def test_the_message_of_a_late_failure_is_not_written_over_parts_that_nobody_has_read() -> None:
    def parts() -> Generator[bytes, None, None]:
        yield b"first"
        raise ModelFailed("then this")

    bench = Bench(parts())
    bench.turn(5)
    kind, flags, _ = bench.peer.records[-1]
    assert (kind, flags) == (descriptor.FAULT, OVERFLOW) and bench.told == ["then this"]
    at = aligned(bench.item.used)
    assert b"first" in bytes(bench.peer.memory[at : at + 200]) and not bench.streams.open


def test_a_failure_before_anything_was_sent_is_an_ordinary_fault_behind_the_input() -> None:
    def parts() -> Generator[bytes, None, None]:
        raise ModelFailed("at once")
        yield b""

    bench = Bench(parts())
    bench.turn()
    assert bench.peer.records == [(descriptor.FAULT, 0, b"at once")]


def test_the_end_comes_after_the_last_part_and_gives_the_slot_back() -> None:
    bench = Bench(p for p in (b"a", b"b"))
    bench.turn(5)
    kinds = [(kind, flags) for kind, flags, _ in bench.peer.records]
    assert kinds == [(descriptor.PART, START), (descriptor.PART, 0), (descriptor.PART, 0), (descriptor.ANSWER, STREAMED)]
    assert bench.parts == [b"a", b"b"] and not bench.streams.open


def test_a_cancelled_stream_is_closed_and_answered_once() -> None:
    made: list[int] = []
    bench = Bench(endless(10, made))
    bench.turn(3)
    assert bench.streams.cancel(7) and made[-1] == -1
    bench.peer.send()
    assert bench.peer.records[-1][0] == descriptor.FAULT
    assert not bench.streams.cancel(7)


def test_a_front_that_has_gone_closes_its_streams_and_is_told_nothing() -> None:
    made: list[int] = []
    bench = Bench(endless(10, made))
    bench.turn(3)
    told = len(bench.peer.records)
    bench.streams.forget(bench.peer)  # type: ignore[arg-type]
    bench.turn()
    assert made[-1] == -1 and len(bench.peer.records) == told and not bench.streams.open


def test_a_slot_without_room_for_parts_refuses_the_stream() -> None:
    bench = Bench(endless(10, []), capacity=4096)
    bench.peer.send()
    kind, _, message = bench.peer.records[0]
    assert kind == descriptor.FAULT and b"EVENKEEL_QUEUE_MB" in message


def test_the_end_of_a_generator_is_seen_to_run_and_has_as_long_as_a_part() -> None:
    """Else an engine that runs `finally` would look as if it did nothing, and be ended as stuck."""
    seen: list[float] = []

    def parts() -> Generator[bytes, None, None]:
        try:
            yield b"first"
            yield b"second"
        finally:
            seen.append(bench.cells.value[Engine.RUN_STARTED_S])

    bench = Bench(parts())
    bench.turn()
    assert len(bench.stamps) == 1
    bench.streams.cancel(7)
    assert seen[0] > 0 and len(bench.stamps) == 2 and bench.cells.value[Engine.RUN_STARTED_S] == 0.0


def test_between_parts_of_nothing_others_have_their_turn() -> None:
    def parts() -> Generator[bytes, None, None]:
        while True:
            yield b""

    bench = Bench(parts())
    bench.turn(3)
    assert len(bench.stamps) == 3 and bench.parts == [] and bench.streams.cancel(7)
