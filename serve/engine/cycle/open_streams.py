"""Answers in parts: the streams that are open, advanced in turn, one part of each, between batches.

Owner of every open stream's generator, and of the ring of its parts in the slot's room behind the input. All of it runs in
the engine's one thread: a generator never runs beside a batch or beside another generator. The slot stays this engine's
until the last record; that its caller has left is heard here as CANCEL, and the generator is closed.

Bounds. At most STREAMS_MAX are open. Of each, at most PARTS_AHEAD_MAX parts and WINDOW_BYTES bytes are on their way to the
front and not yet read there; beyond that its generator is not asked for more, so a slow reader stops it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from evenkeel.serve.batching.item import Item
from evenkeel.serve.contract.logline import log
from evenkeel.serve.engine.backends.base import RawStream
from evenkeel.serve.engine.cycle.engine_context import EngineContext
from evenkeel.serve.engine.cycle.replies import Replies, said_of
from evenkeel.serve.engine.failures import translated
from evenkeel.serve.engine.foreign import let_go, said
from evenkeel.serve.engine.peers import Peer
from evenkeel.serve.errors import Cancelled, EvenkeelError, Overloaded, TooManyBytes
from evenkeel.serve.transport.descriptor import START
from evenkeel.serve.transport.layout import aligned
from evenkeel.serve.transport.ring import Ring

STREAMS_MAX = 64  # open in one engine: each takes a turn between batches, so more would only be slower
WINDOW_BYTES = 64 * 1024
PARTS_AHEAD_MAX = 256
ROOM_MIN = 8 * 1024  # behind the input; holds what a handler says of its answer. Only a front whose memory is full gives less


@dataclass(slots=True, eq=False)
class OpenStream:
    """`left`: what of the last part has not been sent yet. `part_wait_s`: how long the caller waits for a part."""

    item: Item
    source: RawStream
    ring: Ring
    part_wait_s: float
    begun: bool = False  # the front knows that the answer comes in parts
    left: memoryview = field(default_factory=lambda: memoryview(b""))
    blocked: bool = False  # the front has to read before more can be sent

    @property
    def base(self) -> int:
        return self.item.offset + aligned(self.item.used)


class OpenStreams:
    """`open` is by request id. `tell`: the log's word of what a generator raised."""

    def __init__(
        self, replies: Replies, engine: EngineContext, tell: Callable[[Item, BaseException, EvenkeelError], None]
    ) -> None:  # fmt: skip
        self._replies, self._tell = replies, tell
        self._stamp, self._peers, self._clock = engine.stamp, engine.peers, engine.clock
        self.open: dict[int, OpenStream] = {}

    def begin(self, item: Item, source: RawStream) -> None:
        """Its first part comes with the next turn. Refused when too many are open."""
        room = item.capacity - aligned(item.used)
        refusal: EvenkeelError | None = None
        if len(self.open) >= STREAMS_MAX:
            refusal = Overloaded(f"{STREAMS_MAX} streams are open in this replica already")
        elif room < ROOM_MIN:
            refusal = TooManyBytes("too many requests are held to stream an answer now (EVENKEEL_QUEUE_MB)")
        if refusal is not None:
            self._close(item, source, item.deadline_s - item.arrived_s)
            self._replies.fault(item, refusal)
            return
        ring = Ring(min(room, WINDOW_BYTES))
        self.open[item.id] = OpenStream(item, source, ring, item.deadline_s - item.arrived_s)

    def advance(self) -> bool:
        """One part of each stream whose reader has room for it. Returns whether any can go on at once."""
        for stream in list(self.open.values()):
            if not stream.blocked and self.open.get(stream.item.id) is stream:
                self._advance(stream)
                self._peers.send()
        return any(not stream.blocked for stream in self.open.values())

    def more(self, id: int, parts: int) -> None:
        """The front has read so many parts."""
        stream = self.open.get(id)
        if stream is None:  # its end and this crossed on their way
            return
        stream.ring.give_back(parts)
        stream.blocked = False

    def cancel(self, id: int) -> bool:
        """The caller has left: the generator sees GeneratorExit. False: no such stream is open."""
        stream = self.open.pop(id, None)
        if stream is None:
            return False
        self._close(stream.item, stream.source, stream.part_wait_s)
        self._replies.fault(stream.item, Cancelled("the caller has left"), spilled=True)
        return True

    def forget(self, peer: Peer) -> None:
        """Its front has gone, and every caller with it."""
        for stream in [s for s in self.open.values() if s.item.peer is peer]:
            del self.open[stream.item.id]
            self._close(stream.item, stream.source, stream.part_wait_s)

    def _advance(self, stream: OpenStream) -> None:
        item = stream.item
        if not stream.left:
            try:
                with self._running(item, stream.part_wait_s):
                    part = next(stream.source.parts, None)
            except BaseException as e:  # foreign code: whatever it raises is the end of this stream, not of the engine
                self._fail(stream, e)
                return
            if not stream.begun:
                stream.begun = True
                head = said_of(stream.source)
                at = stream.ring.claim(len(head))
                assert at is not None, "the ring was empty, and larger than anything that a handler may say"
                self._replies.part(item, stream.base + at, head, START)
            if part is None:
                del self.open[item.id]
                self._replies.end_parts(item)
                return
            stream.left = memoryview(part)
        self._send(stream)

    def _send(self, stream: OpenStream) -> None:
        """As much of the part as there is room for. One of more than half the ring goes in pieces, so that the front can
        read one while the next is written."""
        ring, half = stream.ring, stream.ring.size // 2
        while stream.left:
            piece = stream.left[:half]
            at = ring.claim(len(piece)) if len(ring) < PARTS_AHEAD_MAX else None
            if at is None:
                stream.blocked = True
                return
            self._replies.part(stream.item, stream.base + at, piece)
            stream.left = stream.left[len(piece) :]

    def _fail(self, stream: OpenStream, error: BaseException) -> None:
        """The parts that went before may still lie unread in the slot, so the message comes in a file of its own."""
        del self.open[stream.item.id]
        failure = translated(error)
        self._tell(stream.item, error, failure)
        let_go(error)
        self._replies.fault(stream.item, failure, spilled=stream.begun)

    @contextlib.contextmanager
    def _running(self, item: Item, part_wait_s: float) -> Iterator[None]:
        """The script's generator runs for so long at most, and the status page says so: else it would look as if nothing did."""
        item.deadline_s = self._clock() + part_wait_s
        began_s = self._stamp.part(item)
        try:
            yield
        finally:
            self._stamp.part_over(began_s)

    def _close(self, item: Item, source: RawStream, part_wait_s: float) -> None:
        """What the generator does at its end (`finally`) has as long as a part."""
        try:
            with self._running(item, part_wait_s):
                source.parts.close()
        except BaseException as e:
            log("stream_close_failed", f"a stream whose caller has left did not end well: {said(e)}")
