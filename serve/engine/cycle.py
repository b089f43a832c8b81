"""STORY 2: what an engine does, again and again: take, gather, run, scatter, reply.

One thread. While a batch runs, records wait in the sockets; when it is done all of them are taken at once, and that is
the next batch. The engine owns each slot from its SUBMIT until the reply with the same id has been written, and it
replies to every SUBMIT exactly once: with an answer, or with a fault. It never speaks HTTP and never sees a client.
"""

from __future__ import annotations

import json
import math
import os
import select
import socket
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.batching.pending import Item, Pending
from serve.batching.placement import Segment, place
from serve.batching.policy import Policy, QueueView, Wait, next_step
from serve.contract.logline import log
from serve.contract.status import Block, Engine, bucket
from serve.engine.backends.base import RawReply, RawRequest
from serve.engine.replica import Replica
from serve.engine.tensors import Array, SharedRows, all_finite, contiguous, single_rows
from serve.errors import NUMBER, Cancelled, DeadlineExceeded, EvenkeelError, ModelFailed, NotFinite
from serve.transport import descriptor
from serve.transport.arena import Arena, spill
from serve.transport.channel import Channel, ChannelClosed
from serve.transport.descriptor import FINITE, OVERFLOW, PROTOCOL, RECORD_BYTES, REPLY, REQUEST
from serve.transport.layout import aligned

PRICE_EVERY = 16  # batches between updates of the price of a row, which fronts use to predict waits
IDLE_S = 0.5  # how often an idle engine stamps that it lives
EXPIRE_EVERY_S = 0.05
RATE_TAU_S = 0.05  # arrivals are averaged over about this long
PEAK_WINDOW_S = 0.5
MESSAGE_BYTES_MAX = 1000  # of a fault's message: fits the smallest slot

_QUEUE_ROWS, _BATCHES, _ROWS = int(Engine.QUEUE_ROWS), int(Engine.BATCHES), int(Engine.ROWS)
_BEAT, _STARTED, _PREDICTED = int(Engine.BEAT_S), int(Engine.RUN_STARTED_S), int(Engine.RUN_PREDICTED_S)
_ANSWER = int(descriptor.ANSWER)
_DEADLINE, _ROW_COST = int(Engine.RUN_DEADLINE_S), int(Engine.ROW_COST_S)
_BATCH_ROWS, _RUN_TIME, _QUEUE_TIME = int(Engine.BATCH_ROWS), int(Engine.RUN_TIME), int(Engine.QUEUE_TIME)


class Peer:
    """One connected front: its channel, its arena once HELLO has come, and the replies waiting to go out."""

    __slots__ = ("channel", "memory", "outbox", "rows")

    def __init__(self, sock: socket.socket) -> None:
        self.channel = Channel(sock)
        self.memory: memoryview = memoryview(b"")
        self.rows = SharedRows(self.memory)
        self.outbox = bytearray()


@dataclass(slots=True)
class Arrivals:
    """What has been coming lately: rate for the wait decision, peak of the queue for how many may come back."""

    rate: float = 0.0
    peak_rows: float = 0.0
    _at_s: float = 0.0
    _peak_at_s: float = 0.0

    def note(self, rows: int, queued: int, now_s: float) -> None:
        gone = now_s - self._at_s
        self._at_s = now_s
        self.rate = self.rate * math.exp(-gone / RATE_TAU_S) + rows / RATE_TAU_S
        if queued >= self.peak_rows or now_s - self._peak_at_s > PEAK_WINDOW_S:
            self.peak_rows, self._peak_at_s = queued, now_s


class Cycle:
    """The engine's state: who is connected, what is queued, what it learned. `serve` is the story."""

    def __init__(
        self, replica: Replica, listener: socket.socket, block: Block, epoch: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.replica, self.block, self.epoch = replica, block, epoch
        self._clock = clock
        self.closing = False
        self._listener = listener
        listener.setblocking(False)
        self._listener_fd = listener.fileno()
        self._peers: dict[int, Peer] = {}  # by file descriptor
        self._pending = Pending()
        self._arrivals = Arrivals()
        # With fixed shapes (and with whole bodies) every request queues under the same key.
        self._only_key: Hashable | None = () if replica.inputs is None else replica.inputs.dims if replica.inputs.fixed else None
        self._policy = Policy(replica.rows_max, replica.manifest.slo_s)
        self._parts: dict[Item, list[tuple[int, list[Array]]]] = {}
        self._expired_at_s = 0.0
        self._held_since_s = 0.0  # since when the next batch is being held back for more rows

    # ---- the story -----------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Until told to close, and then until everything accepted has been answered."""
        wait_s = IDLE_S
        while not self.closing or len(self._pending):
            wait_s = self.turn(wait_s)

    def turn(self, wait_s: float) -> float:
        """Take what has come, run at most one batch, send the replies. Returns how long the next turn may sleep."""
        self.take(wait_s)
        now_s = self._clock()
        self._expire(now_s)
        wait_s = self._advance(now_s)
        self._send()
        return wait_s

    def _advance(self, now_s: float) -> float:
        """Run one batch if it is time. Returns how long the next `take` may sleep."""
        chosen = min(self._pending.queues(), key=lambda kq: kq[1][0].arrived_s, default=None)
        if chosen is None:
            self._held_since_s = 0.0
            self.block.value[_BEAT] = now_s
            return IDLE_S
        key, queue = chosen
        rows = self._pending.rows if len(queue) == len(self._pending) else sum(i.rows - i.placed for i in queue if not i.gone)
        curve = self.replica.cost.curve(key)
        view = QueueView(
            rows, queue[0].arrived_s, queue[0].deadline_s, self._arrivals.rate,
            self._arrivals.peak_rows - self._pending.rows, now_s - self._held_since_s if self._held_since_s else 0.0)  # fmt: skip
        step = next_step(view, now_s, curve, self._policy)
        if isinstance(step, Wait):
            self._held_since_s = self._held_since_s or now_s
            return max(0.0, step.until_s - now_s)
        self._held_since_s = 0.0
        segments = place(queue, step.rows, now_s)
        if segments:
            self._pending.rows -= sum(s.rows for s in segments)
            self.run(segments, key)
        return 0.0

    def take(self, wait_s: float) -> None:
        """Everything that has arrived: new fronts, requests, cancellations. Sleeps up to `wait_s` for the first."""
        writers = [fd for fd, p in self._peers.items() if p.channel.unsent]
        ready, writable, _ = select.select([self._listener_fd, *self._peers], writers, [], wait_s)
        for fd in writable:
            self._peers[fd].channel.flush()
        for fd in ready:
            if fd == self._listener_fd:
                self._accept()
                continue
            peer = self._peers[fd]
            try:
                records = peer.channel.receive()
            except ChannelClosed:
                self._forget(fd)
                continue
            if records:
                self._handle(peer, records)

    def _handle(self, peer: Peer, records: bytes) -> None:
        now_s, before = self._clock(), self._pending.rows
        only_key, pending = self._only_key, self._pending
        for kind, flags, _, rows, id, offset, capacity, used, _, deadline_s, _ in REQUEST.iter_unpack(records):
            if kind == descriptor.SUBMIT:
                key = self._key(peer, offset) if only_key is None else only_key
                pending.add(Item(id, rows, key, deadline_s, now_s, peer, offset, capacity, used))
            elif kind == descriptor.CANCEL:
                item = pending.drop(id)
                if item is not None:
                    self._fault(item, Cancelled("the caller has left"))
            elif kind == descriptor.HELLO:
                self._greet(peer, flags, capacity)
        self._arrivals.note(self._pending.rows - before, self._pending.rows, now_s)
        self.block.count[_QUEUE_ROWS] = self._pending.rows

    def _key(self, peer: Peer, offset: int) -> Hashable:
        gather, layout = self.replica.gather, self.replica.inputs
        assert gather is not None and layout is not None, "only tensor replicas have several shapes"
        return gather.key(layout.row_dims(peer.memory, offset))

    # ---- one batch -----------------------------------------------------------------------------------------------

    def run(self, segments: list[Segment], key: Hashable) -> None:
        """Run a batch and answer whoever is complete. A failing batch is halved until the bad request stands alone."""
        rows = sum(s.rows for s in segments)
        started_s = self._stamp_start(segments, key, rows)
        try:
            if self.replica.signature is None:
                self._run_raw(segments, started_s)
                failed: EvenkeelError | None = None
            else:
                failed = self._run_tensors(segments, key, rows, started_s)
        finally:
            self.block.value[_STARTED] = 0.0
        if failed is None:
            return
        if len(segments) > 1:
            middle = len(segments) // 2
            self.run(segments[:middle], key)
            self.run(segments[middle:], key)
        else:
            item = segments[0].item
            self._pending.fail(item)
            self._fault(item, failed)

    def _stamp_start(self, segments: Sequence[Segment], key: Hashable, rows: int) -> float:
        value = self.block.value
        now_s = self._clock()
        value[_PREDICTED] = self.replica.cost.curve(key).predict(rows)
        value[_DEADLINE] = max(s.item.deadline_s for s in segments) if len(segments) < 4 else segments[-1].item.deadline_s
        value[_BEAT] = now_s
        value[_STARTED] = now_s
        return now_s

    def _run_tensors(self, segments: list[Segment], key: Any, rows: int, started_s: float) -> EvenkeelError | None:
        """Gather, run, check, scatter. Returns what went wrong with the batch as a whole."""
        replica = self.replica
        assert replica.gather is not None and replica.signature is not None, "tensor replicas have both"
        singles = single_rows(segments)
        batch = replica.gather.batch(segments, key, singles)
        bad = replica.gather.not_finite(batch)
        if bad is not None:
            name = replica.signature.inputs[bad].name
            return NotFinite(f"input {name!r} holds NaN or infinity; set allow_nan in model.toml if the model takes it")
        run_at_s = self._clock()
        try:
            outputs = replica.backend.run(batch)
        except EvenkeelError as e:
            return e
        except Exception as e:  # foreign code: whatever it raises is an error of this batch, not of the engine
            log("model_error", f"{type(e).__name__}: {e}", traceback=traceback.format_exc(limit=-8))
            return ModelFailed(f"the model raised {type(e).__name__}: {str(e)[:300]}")
        run_s = self._clock() - run_at_s
        wrong = self._wrong_outputs(outputs, rows)
        if wrong:
            return ModelFailed(wrong)
        checked = [contiguous(a, s) for a, s in zip(outputs, replica.signature.outputs, strict=True)]
        if not self._scatter_singles(segments, checked, singles, started_s, run_s):
            self._scatter(segments, checked, key, started_s, run_s, rows)
        self._learn(key, rows, run_s, self._clock() - started_s)
        return None

    def _wrong_outputs(self, outputs: Sequence[Array], rows: int) -> str | None:
        signature = self.replica.signature
        assert signature is not None, "tensor replicas have one"
        if len(outputs) != len(signature.outputs):
            return f"the model gave {len(outputs)} outputs, its signature has {len(signature.outputs)}"
        skip = 1 if signature.rows_axis else 0
        for spec, array in zip(signature.outputs, outputs, strict=True):
            dims = array.shape[skip:]
            good = len(dims) == len(spec.dims) and all(isinstance(d, str) or d == n for d, n in zip(spec.dims, dims, strict=True))
            if not good or (skip and (array.ndim == 0 or array.shape[0] != rows)):
                return f"output {spec.name!r} has shape {array.shape} for {rows} rows, expected {spec.describe(bool(skip))}"
        return None

    def _scatter_singles(
        self, segments: list[Segment], outputs: list[Array], singles: list[int] | None, started_s: float, run_s: float
    ) -> bool:
        """The common batch: one copy for all outputs, and as little as possible for each request."""
        replica, layout = self.replica, self.replica.outputs
        assert replica.scatter is not None and layout is not None and replica.signature is not None, "as above"
        if not replica.scatter.vectorised(segments, outputs, singles):
            return False
        flags = FINITE if all_finite(replica.signature, outputs) else 0
        first, rows, size, epoch = segments[0].item, len(segments), layout.row_bytes, self.epoch
        shift, finished, pack = aligned(first.used), self._pending.placed_all, REPLY.pack
        replies = []
        for item, _, _ in segments:
            finished(item)
            queue_s = started_s - item.arrived_s
            replies.append(pack(_ANSWER, flags, 0, 1, item.id, item.offset + shift, size, epoch, queue_s, run_s, rows))
        first.peer.outbox += b"".join(replies)
        self.block.count[_QUEUE_TIME + bucket((started_s - first.arrived_s) * 1e6)] += rows
        return True

    def _scatter(
        self, segments: list[Segment], outputs: list[Array], key: Any, started_s: float, run_s: float, rows: int
    ) -> None:
        """Any batch: each request's share of the outputs, cropped, and answered when its last part is done."""
        signature = self.replica.signature
        assert signature is not None, "tensor replicas have one"
        flags = FINITE if all_finite(signature, outputs) else 0
        at = 0
        for s in segments:
            mine = [a[at : at + s.rows] for a in outputs] if signature.rows_axis else outputs
            at += s.rows
            whole = self._join(s, mine)
            if whole is not None:
                self._answer(s.item, self._cropped(s.item, whole, key), flags, started_s, run_s, rows)

    def _join(self, segment: Segment, outputs: list[Array]) -> list[Array] | None:
        """The outputs of the whole request once its last part is here, else None."""
        item = segment.item
        if item.gone:
            self._parts.pop(item, None)
            return None
        if segment.rows == item.rows:
            return outputs
        parts = self._parts.setdefault(item, [])
        parts.append((segment.start, [a.copy() for a in outputs]))
        if sum(len(p[1][0]) for p in parts) < item.rows:
            return None
        del self._parts[item]
        parts.sort(key=lambda p: p[0])
        return [np.concatenate([p[1][i] for p in parts]) for i in range(len(outputs))]

    def _cropped(self, item: Item, outputs: list[Array], key: Any) -> list[Array]:
        layout, scatter = self.replica.inputs, self.replica.scatter
        assert layout is not None and scatter is not None, "tensor replicas have both"
        if layout.fixed:
            return outputs
        return scatter.crop(outputs, layout.row_dims(item.peer.memory, item.offset), key)

    def _answer(self, item: Item, outputs: list[Array], flags: int, started_s: float, run_s: float, rows: int) -> None:
        layout = self.replica.outputs
        assert layout is not None, "tensor replicas have one"
        size = layout.bytes_of(outputs, item.rows)
        at = item.offset + aligned(item.used)
        if at + size <= item.offset + item.capacity:
            used = layout.pack(outputs, item.peer.memory, at)
            self._reply(item, flags, at, used, started_s, run_s, rows)
        else:
            room = memoryview(bytearray(size))
            layout.pack(outputs, room, 0)
            self._reply_spilled(item, flags, room, started_s, run_s, rows)

    def _run_raw(self, segments: list[Segment], started_s: float) -> None:
        """Whole bodies through the user's handler. Each request has a result of its own."""
        requests = [_raw_request(s.item) for s in segments]
        results = self.replica.backend.handle(requests)
        run_s = self._clock() - started_s
        self._learn((), len(segments), run_s, run_s)
        for s, request, result in zip(segments, requests, results, strict=True):
            if isinstance(result, RawReply):
                self._answer_raw(s.item, result, started_s, run_s, len(segments))
                continue
            known = result if isinstance(result, EvenkeelError) else ModelFailed(f"{type(result).__name__}: {result}")
            if isinstance(known, ModelFailed):
                trace = "".join(traceback.format_exception(known.__cause__ or result, limit=-8))
                log("handler_error", known.message, request_id=request.request_id, traceback=trace)
            self._pending.fail(s.item)
            self._fault(s.item, known)

    def _answer_raw(self, item: Item, reply: RawReply, started_s: float, run_s: float, rows: int) -> None:
        meta = json.dumps({"content_type": reply.content_type, "custom_attributes": reply.custom_attributes}).encode()
        data = len(meta).to_bytes(4, "little") + meta + reply.body
        at = item.offset + aligned(item.used)
        if at + len(data) <= item.offset + item.capacity:
            item.peer.memory[at : at + len(data)] = data
            self._reply(item, 0, at, len(data), started_s, run_s, rows)
        else:
            self._reply_spilled(item, 0, memoryview(data), started_s, run_s, rows)

    # ---- replies -------------------------------------------------------------------------------------------------

    def _reply(self, item: Item, flags: int, at: int, size: int, started_s: float, run_s: float, rows: int) -> None:
        peer = item.peer
        self._pending.placed_all(item)
        queue_s = started_s - item.arrived_s
        self.block.count[_QUEUE_TIME + bucket(queue_s * 1e6)] += 1
        peer.outbox += REPLY.pack(descriptor.ANSWER, flags, 0, item.rows, item.id, at, size, self.epoch, queue_s, run_s, rows)

    def _reply_spilled(self, item: Item, flags: int, data: memoryview, started_s: float, run_s: float, rows: int) -> None:
        """An answer larger than its slot goes in a file of its own, passed along with the record."""
        peer = item.peer
        self._pending.placed_all(item)
        record = REPLY.pack(
            descriptor.ANSWER, flags | OVERFLOW, 0, item.rows, item.id, 0, len(data), self.epoch,
            started_s - item.arrived_s, run_s, rows)  # fmt: skip
        fd = spill(data)
        try:
            self._send_peer(peer)
            peer.channel.send(record, (fd,))
        except OSError:
            pass  # the front is gone; taking from its socket says so next
        finally:
            os.close(fd)

    def _fault(self, item: Item, error: EvenkeelError) -> None:
        """Give the slot back with an error in it."""
        self._parts.pop(item, None)
        message = error.message.encode("utf-8", "replace")[:MESSAGE_BYTES_MAX]
        at = item.offset
        item.peer.memory[at : at + len(message)] = message
        family = NUMBER.get(type(error), NUMBER[ModelFailed])
        self.block.count[Engine.ERRORS + family] += 1
        item.peer.outbox += REPLY.pack(descriptor.FAULT, 0, family, item.rows, item.id, at, len(message), self.epoch, 0.0, 0.0, 0)

    def _send(self) -> None:
        for peer in self._peers.values():
            if peer.outbox:
                self._send_peer(peer)

    def _send_peer(self, peer: Peer) -> None:
        if peer.outbox:
            peer.channel.send(bytes(peer.outbox))
            peer.outbox.clear()

    # ---- fronts come and go ----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return
        self._peers[sock.fileno()] = Peer(sock)

    def _greet(self, peer: Peer, protocol: int, arena_bytes: int) -> None:
        """Map the arena that came with HELLO and tell the front what model this is."""
        if protocol != PROTOCOL or not peer.channel.fds:
            log("bad_hello", "a front speaks another protocol; is an old process still running?")
            self._forget(peer.channel.sock.fileno())
            return
        fd = peer.channel.fds.popleft()
        peer.memory = Arena(fd, arena_bytes).memory
        os.close(fd)
        peer.rows = SharedRows(peer.memory)
        text = json.dumps(self.replica.card()).encode()
        text += b" " * (-len(text) % RECORD_BYTES)
        hello = REPLY.pack(descriptor.HELLO, PROTOCOL, 0, 0, 0, 0, len(text), self.epoch, 0.0, 0.0, 0)
        peer.channel.send(hello + text)

    def _forget(self, fd: int) -> None:
        """A front is gone: nobody waits for its requests any more, and its arena is unmapped with the last view."""
        peer = self._peers.pop(fd)
        for _, queue in self._pending.queues():
            for item in list(queue):
                if item.peer is peer:
                    self._pending.drop(item.id)
                    self._parts.pop(item, None)
        peer.channel.close()
        self.block.count[_QUEUE_ROWS] = self._pending.rows

    def _expire(self, now_s: float) -> None:
        if now_s - self._expired_at_s < EXPIRE_EVERY_S:
            return
        self._expired_at_s = now_s
        for item in self._pending.expired(now_s):
            if item.placed < item.rows and self._pending.drop(item.id):
                self._fault(item, DeadlineExceeded("the request waited in the queue until its deadline"))

    def _learn(self, key: Hashable, rows: int, run_s: float, took_s: float) -> None:
        """`took_s` is what the batch kept the engine from others: gather and scatter are part of its cost."""
        cost, count = self.replica.cost, self.block.count
        cost.observe(key, rows, took_s)
        count[_BATCHES] += 1
        count[_ROWS] += rows
        count[_BATCH_ROWS + bucket(rows)] += 1
        count[_RUN_TIME + bucket(run_s * 1e6)] += 1
        count[_QUEUE_ROWS] = self._pending.rows
        if count[_BATCHES] % PRICE_EVERY == 0:
            self.block.value[_ROW_COST] = cost.curve(key).cheapest_row()


def _raw_request(item: Item) -> RawRequest:
    data = item.peer.memory[item.offset : item.offset + item.used]
    size = int.from_bytes(data[:4], "little")
    meta = json.loads(bytes(data[4 : 4 + size]))
    return RawRequest(bytes(data[4 + size :]), meta["content_type"], meta["accept"], meta["request_id"], meta["headers"])
