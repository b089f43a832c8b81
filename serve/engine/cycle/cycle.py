"""STORY 2: what an engine does, again and again: take, gather, run, scatter, reply.

One thread. While a batch runs, records wait in the sockets; when it is done all of them are taken at once, and that is
the next batch. The engine owns each slot from its SUBMIT until the reply with the same id has been written, and it
replies to every SUBMIT exactly once: with an answer, or with a fault. It never speaks HTTP and never sees a client.
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from evenkeel.serve.batching.arrivals import Arrivals
from evenkeel.serve.batching.item import Item, Segment
from evenkeel.serve.batching.pending import Pending
from evenkeel.serve.batching.policy import Policy, QueueView, Wait, next_step
from evenkeel.serve.batching.split import place
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import RUN_EPOCH, RUN_SPANS, RUN_SPANS_MAX, Engine, row_bucket, time_bucket
from evenkeel.serve.contract.status_page import StatusBlock as Cells
from evenkeel.serve.engine.backends.base import RawReply, RawRequest, RawStream
from evenkeel.serve.engine.cycle.open_streams import OpenStreams
from evenkeel.serve.engine.cycle.replies import Replies
from evenkeel.serve.engine.cycle.row_table import ROWS_MIN, RowTable, block_of, broken_up, span
from evenkeel.serve.engine.cycle.single_request import SingleRequest
from evenkeel.serve.engine.cycle.tensors import Array, Lend, single_rows
from evenkeel.serve.engine.failures import translated
from evenkeel.serve.engine.foreign import let_go, root_of, trace_of
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.peers import Peer, Peers
from evenkeel.serve.errors import Cancelled, DeadlineExceeded, EvenkeelError, ModelFailed, NotReady, OutOfMemory
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.descriptor import FINITE, RECORD_BYTES, REQUEST, SUSPECT

PRICE_EVERY = 16  # batches between updates of the price of a row, which fronts use to predict waits
PRICE_ALWAYS_S = 0.01  # after a batch that took longer: it costs microseconds, and sixteen such batches are a long time
IDLE_S = 0.5  # how often an idle engine stamps that it lives
EXPIRE_EVERY_S = 0.05
NOT_LOADED = "the model of this request is not loaded here any more"
LONGEST_FADES = 1e-4  # of what the longest batch was above this one: one odd pause is forgotten after some 10,000

_QUEUE_ROWS, _BATCHES, _ROWS = int(Engine.QUEUE_ROWS), int(Engine.BATCHES), int(Engine.ROWS)
_BEAT, _STARTED, _PREDICTED = int(Engine.BEAT_S), int(Engine.RUN_STARTED_S), int(Engine.RUN_PREDICTED_S)
_DEADLINE, _ROW_COST = int(Engine.RUN_DEADLINE_S), int(Engine.ROW_COST_S)
_BATCH_ROWS, _RUN_TIME = int(Engine.BATCH_ROWS), int(Engine.RUN_TIME)
_RUN_ROWS, _AGAIN, _LONGEST = int(Engine.RUN_ROWS), int(Engine.RUN_AGAIN), int(Engine.RUN_LONGEST_S)
_ROWS_FIT = int(Engine.ROWS_FIT)
_LARGE, _BEYOND = int(Engine.QUEUE_LARGE), int(Engine.QUEUE_BEYOND)
_RUN_SUM, _BUSY_SUM = int(Engine.RUN_SUM_S), int(Engine.BUSY_SUM_S)


class Cycle:
    """The engine's state: who is connected, what is queued, what it learned. `serve` is the story."""

    def __init__(
        self, replica: Replica, listener: socket.socket, cells: Cells, epoch: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.replica, self.cells = replica, cells
        self.closing = False
        self.on_change: Callable[[], None] = lambda: None  # what the replica says of itself has changed
        self._clock, self._epoch = clock, epoch
        self._peers = Peers(listener, replica.card(), epoch)
        self._ref = replica.ref
        self._replies = Replies(cells, replica.ref)
        self._streams = OpenStreams(cells, self._replies, self._stamp_part, self._peers.send, _tell_of, clock)
        self._pending = Pending(replica.rows_max)
        self._arrivals = Arrivals()
        self._policy = Policy(replica.rows_max, replica.manifest.slo_s)
        inputs, outputs = replica.inputs, replica.outputs
        # With fixed shapes (and with whole bodies) every request queues under the same key.
        self._only_key: Hashable | None = () if inputs is None else inputs.dims if inputs.fixed else None
        # Bytes of a row where requests of one row can be handled by columns, else 0.
        by_columns = inputs is not None and outputs is not None and inputs.single and outputs.single and inputs.rows_axis
        self._block_row_bytes = inputs.row_bytes if inputs is not None and by_columns else 0
        self._single_request = (
            SingleRequest(replica, cells, epoch, clock, self._only_key, self._fail_alone, self._ran) if by_columns else None
        )
        self._expired_at_s = 0.0
        self._held_since_s = 0.0  # since when the next batch is being held back for more rows

    # ---- the story -----------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Until told to close, and then until everything taken has been answered."""
        wait_s = IDLE_S
        while not self.closing:
            wait_s = self.turn(wait_s)
        wait_s = 0.0
        while not self.idle:
            wait_s = self._last_turn(min(wait_s, EXPIRE_EVERY_S))

    @property
    def idle(self) -> bool:
        """Nothing is queued, and every reply is out."""
        return not len(self._pending) and not self._streams.open and not self._peers.unsent

    def close(self) -> None:
        """Leave all fronts in good order. What they gave us and we have not answered is theirs again, and has run nowhere."""
        if self.cells.count[RUN_EPOCH] == self._epoch:
            self.cells.count[RUN_SPANS] = 0
        self._peers.close()

    def leave_to_parent(self) -> None:
        """In a child that the script forked: the fronts are the parent's."""
        self._peers.leave_to_parent()

    def turn(self, wait_s: float) -> float:
        """Take what has come, run at most one batch, send the replies. Returns how long the next turn may sleep."""
        taken = self._peers.receive(wait_s)
        if self._single_request is not None and len(taken) == 1 and self._answered_alone(*taken[0]):
            return IDLE_S
        self._take(taken)
        now_s = self._clock()
        if now_s - self._expired_at_s >= EXPIRE_EVERY_S:
            self._expire(now_s)
        wait_s = self._advance(now_s)
        self._peers.send()
        if self._streams.open and self._streams.advance():
            return 0.0
        return wait_s

    def _last_turn(self, wait_s: float) -> float:
        """As `turn`, but nothing more is taken: what comes now is the fronts' again as soon as we are gone."""
        for peer, records in self._peers.receive(wait_s):
            if records is None:
                self._forget(peer)
            else:
                self._heed(records)
        wait_s = self._advance(self._clock())
        self._peers.send()
        if self._streams.open and self._streams.advance():
            return 0.0
        return wait_s

    def _heed(self, records: bytes) -> None:
        """What fronts say about what was taken before: they have read parts, or the caller has left, of a stream or in the
        queue. Who is not let go from there may become a stream that nobody reads, and this engine would never be done."""
        for kind, _, rows, id, *_ in REQUEST.iter_unpack(records):
            if kind == descriptor.MORE:
                self._streams.more(id, rows)
            elif kind == descriptor.CANCEL:
                self._cancel(id)

    def _advance(self, now_s: float) -> float:
        """Run one batch if it is time. Returns how long the next `take` may sleep."""
        chosen = self._pending.oldest()
        if chosen is None:
            self._held_since_s = 0.0
            self.cells.value[_BEAT] = now_s
            return IDLE_S
        key, queue = chosen
        pending, head = self._pending, queue[0]
        if head.deadline_s <= now_s:
            self._expire(now_s)
            return 0.0
        if head.alone:
            return self._run_alone(head, now_s)
        rows = pending.rows if self._only_key is not None else sum(i.rows - i.placed for i in queue if not i.gone)
        held_s = now_s - self._held_since_s if self._held_since_s else 0.0
        expected = self._arrivals.peak_rows - pending.rows
        view = QueueView(rows, head.arrived_s, head.deadline_s, self._arrivals.rate, expected, held_s)
        step = next_step(view, now_s, self.replica.cost.curve(key), self._policy)
        if isinstance(step, Wait):
            self._held_since_s = self._held_since_s or now_s
            return max(0.0, step.until_s - now_s)
        self._held_since_s = 0.0
        segments = place(queue, step.rows, now_s)
        if segments:
            pending.placed(segments, now_s)
            self._begin(segments, key)
        return 0.0 if pending.rows else IDLE_S

    def _run_alone(self, item: Item, now_s: float) -> float:
        """It was in a crash: nobody shares a batch with it."""
        segments = place(deque((item,)), self.replica.rows_max, now_s)
        self._pending.placed(segments, now_s)
        self._run(segments, item.key)
        return 0.0

    def _answered_alone(self, peer: Peer, records: bytes | None) -> bool:
        """What has come was a single request, and neither is there nor expected anything to share a batch with it."""
        if records is None or self._pending.rows or self._arrivals.peak_rows >= 2 or self._single_request is None:
            return False
        now_s = self._clock()
        if not self._single_request.serve(peer, records, now_s):
            return False
        self._arrivals.note(1, 1, now_s)
        return True

    def _fail_alone(self, item: Item, error: Exception) -> None:
        self._divide([Segment(item, 0, 1)], item.key, self._told(error, 1))
        self._peers.send()

    # ---- take ----------------------------------------------------------------------------------------------------

    def _take(self, taken: list[tuple[Peer, bytes | None]]) -> None:
        """Everything that has arrived: new fronts, requests, cancellations."""
        for peer, records in taken:
            if records is None:
                self._forget(peer)
            else:
                self._queue(peer, records)

    def _forget(self, peer: Peer) -> None:
        for item in self._pending.drop_peer(peer):
            self._replies.forget(item)
        self._streams.forget(peer)
        self._note_queue()

    def _queue(self, peer: Peer, records: bytes) -> None:
        pending, key = self._pending, self._only_key
        now_s, before = self._clock(), pending.rows
        block = None
        if self._block_row_bytes and len(records) >= ROWS_MIN * RECORD_BYTES:
            block = block_of(records, peer, key, now_s, self._block_row_bytes, self._ref)
        if block is not None:
            pending.add(block)
        else:
            self._queue_each(peer, records, now_s)
        self._arrivals.note(pending.rows - before, pending.rows, now_s)
        self._note_queue()

    def _note_queue(self) -> None:
        count, pending = self.cells.count, self._pending
        count[_QUEUE_ROWS] = pending.rows
        if pending.large or count[_LARGE]:
            count[_LARGE], count[_BEYOND] = pending.large, pending.beyond

    def _queue_each(self, peer: Peer, records: bytes, now_s: float) -> None:
        for kind, flags, rows, id, offset, capacity, used, ref, deadline_s in REQUEST.iter_unpack(records):
            if kind == descriptor.SUBMIT:
                if ref != self._ref:
                    self._refuse_late(Item(id, rows, None, deadline_s, now_s, peer, offset, capacity, used), ref)
                    continue
                key = self._key(peer, offset) if self._only_key is None else self._only_key
                alone = flags & SUSPECT != 0
                self._pending.add(Item(id, rows, key, deadline_s, now_s, peer, offset, capacity, used, alone=alone))
            elif kind == descriptor.CANCEL:
                self._cancel(id)
            elif kind == descriptor.MORE:
                self._streams.more(id, rows)
            elif kind == descriptor.HELLO:
                self._peers.greet(peer, flags, capacity)

    def _refuse_late(self, item: Item, ref: int) -> None:
        """For a model that is not loaded, or is not the one any more that had this number: it must touch nothing here."""
        Replies(self.cells, ref).fault(item, NotReady(NOT_LOADED))

    def _key(self, peer: Peer, offset: int) -> Hashable:
        gather, layout = self.replica.gather, self.replica.inputs
        assert gather is not None and layout is not None, "only tensor replicas have several shapes"
        return gather.key(layout.row_dims(peer.memory, offset))

    def _cancel(self, id: int) -> None:
        if self._streams.cancel(id):
            return
        for item in self._pending.items():
            if isinstance(item, RowTable) and item.holds(id):
                self._pending.replace(item, item.waiting())
                break
        dropped = self._pending.drop(id)
        if dropped is not None:
            self._replies.fault(dropped, Cancelled("the caller has left"))

    def _expire(self, now_s: float) -> None:
        """Fault what has waited until its deadline. The front has told the client already; this frees the slots."""
        self._expired_at_s = now_s
        for late in self._pending.expired(now_s):
            if isinstance(late, RowTable):
                self._pending.replace(late, late.waiting())
        for late in self._pending.expired(now_s):
            if self._pending.drop(late.id):
                self._replies.fault(late, DeadlineExceeded("the request waited in the queue until its deadline"))

    # ---- gather, run, scatter --------------------------------------------------------------------------------------

    def _run(self, segments: list[Segment], key: Hashable) -> None:
        """Run a batch and answer whoever is complete. A failing batch is halved until the bad request stands alone."""
        rows = sum([s.rows for s in segments])
        started_s = self._stamp_start(segments, key, rows)
        try:
            if self.replica.signature is None:
                too_large = self._run_raw(segments, started_s)
                failed: EvenkeelError | None = None
            else:
                too_large, failed = [], self._run_tensors(segments, key, rows, started_s)
        finally:
            self.cells.value[_STARTED] = 0.0
        if too_large:  # some of a batch of several: each is told only what it does alone
            for fewer in _halves(too_large) or (too_large,):
                self._run(fewer, key)
        if failed is not None:
            self._divide(segments, key, failed)

    _begin = _run  # where batches fly they begin otherwise, see pipelined.py

    def _divide(self, segments: list[Segment], key: Hashable, failed: EvenkeelError) -> None:
        """Run the halves of a batch that failed; tell a request that failed alone."""
        halves = _halves(segments) or (_parts(segments[0]) if isinstance(failed, OutOfMemory) else None)
        if halves is not None:
            self._run(halves[0], key)
            self._run(halves[1], key)
            return
        item, start, _ = segments[0]
        if isinstance(item, RowTable):
            self._replies.fault(item.single(start), failed)
        elif not item.gone:
            self._pending.fail(item)
            self._replies.fault(item, failed)
        self._note_queue()

    def _stamp_start(self, segments: Sequence[Segment], key: Hashable, rows: int) -> float:
        value = self.cells.value
        now_s = self._clock()
        curve = self.replica.cost.curve(key)
        value[_PREDICTED] = curve.predict(rows) if curve.seen and self.replica.signature is not None else 0.0
        self.cells.count[_RUN_ROWS] = rows
        self.cells.count[_AGAIN] = segments[0].item.alone
        value[_DEADLINE] = segments[0].item.deadline_s if len(segments) == 1 else max([s.item.deadline_s for s in segments])
        value[_BEAT] = now_s
        value[_STARTED] = now_s
        self._note_who_runs(segments)
        return now_s

    def _stamp_part(self, item: Item) -> float:
        """The generator of a stream runs now, for one part."""
        return self._stamp_start([Segment(item, 0, 1)], (), 1)

    def _note_who_runs(self, segments: Sequence[Segment]) -> None:
        """If this batch ends the process, the fronts can tell who was in it."""
        count = self.cells.count
        if len(segments) == 1:  # the usual batch, written without detours
            first = segments[0].item.id
            count[RUN_SPANS] = 0
            count[RUN_EPOCH] = self._epoch
            count[RUN_SPANS + 1], count[RUN_SPANS + 2] = (first, first) if first > 0 else span(segments[0])
            count[RUN_SPANS] = 1
            return
        spans = [(s.item.id, s.item.id) if s.item.id > 0 else span(s) for s in segments]
        if len(spans) > RUN_SPANS_MAX:  # too many to tell: everything between the first and the last of them
            spans = [(min(first for first, _ in spans), max(last for _, last in spans))]
        at = RUN_SPANS
        count[at], count[RUN_EPOCH] = 0, self._epoch
        for first, last in spans:
            count[at + 1], count[at + 2] = first, last
            at += 2
        count[RUN_SPANS] = len(spans)

    def _run_tensors(self, segments: list[Segment], key: Any, rows: int, started_s: float) -> EvenkeelError | None:
        """Gather, run, check, scatter. Returns what went wrong with the batch as a whole."""
        singles = self._singles(segments)
        if singles is None:
            segments = broken_up(segments)
        try:
            batch = self._gathered(segments, key, singles)
            run_at_s = self._clock()
            outputs = self.replica.backend.run(batch)
        except Exception as e:  # foreign code: whatever it raises is an error of this batch, not of the engine
            return self._told(e, rows)
        run_s = self._clock() - run_at_s
        failed = self._answer(segments, singles, outputs, key, started_s, rows)
        if failed is not None:
            return failed
        self._ran(key, rows, run_s, self._clock() - started_s)
        return None

    def _ran(self, key: Hashable, rows: int, run_s: float, took_s: float) -> None:
        """A batch is answered. `took_s`: with gathering and scattering."""
        self._peers.send()  # nobody needs to wait while we count and learn
        self._count_batch(rows, run_s, took_s)
        self._learn(key, rows, took_s)

    def _singles(self, segments: list[Segment]) -> Array | None:
        """Where the rows of the batch lie, if it can be handled by columns."""
        layout = self.replica.outputs
        assert layout, "tensor replicas have one"
        return single_rows(segments, layout.row_bytes) if self._block_row_bytes else None

    def _gathered(
        self, segments: list[Segment], key: Any, singles: Array | None, lend: Lend | None = None
    ) -> Sequence[Array]:  # fmt: skip
        """The batch, fit to be run. Raises NotFinite."""
        gather = self.replica.gather
        assert gather, "tensor replicas have one"
        batch = gather.batch(segments, key, singles, lend)
        gather.refuse_not_finite(batch)
        return batch

    def _answer(
        self, segments: list[Segment], singles: Array | None, outputs: Sequence[Array], key: Any, started_s: float, rows: int
    ) -> EvenkeelError | None:
        """Check and scatter. Returns what is wrong with the outputs."""
        scatter, layout = self.replica.scatter, self.replica.outputs
        assert scatter and layout, "tensor replicas have them all"
        checked = scatter.checked(outputs, rows)
        if isinstance(checked, str):
            return ModelFailed(checked)
        flags = FINITE if scatter.finite(checked) else 0
        if singles is not None:
            scatter.singles(segments[0].item, checked[0], singles)
            self._replies.singles(segments, layout.row_bytes, flags, started_s)
        else:
            self._scatter(segments, checked, key, flags, started_s)
        return None

    def _told(self, error: Exception, rows: int) -> EvenkeelError:
        """What the callers are told. Raises DeviceLost when only another process can go on."""
        known = translated(error)
        if isinstance(known, OutOfMemory):
            self._lower_ceiling(rows)
        elif known is not error:
            log("model_error", known.message, traceback=trace_of(error))
        let_go(error)
        return known

    def _lower_ceiling(self, rows: int) -> None:
        """So many rows did not fit into memory: from now on half of them at most."""
        fits = max(1, rows // 2)
        if rows > 1 and fits < self.replica.rows_max:
            log("out_of_memory", f"a batch of {rows} rows does not fit into memory; from now on {fits} at most", rows_max=fits)
            self.replica.rows_max = self.replica.rows_fit = fits
            self._policy = Policy(fits, self.replica.manifest.slo_s)
            self.cells.count[_ROWS_FIT] = fits
            self.on_change()

    def _scatter(self, segments: list[Segment], outputs: list[Array], key: Any, flags: int, started_s: float) -> None:
        """Each request's share of the outputs, without padding, answered when its last part is done."""
        replica = self.replica
        inputs, layout, scatter = replica.inputs, replica.outputs, replica.scatter
        assert inputs and layout and scatter, "tensor replicas have them all"
        at, flags_of_batch = 0, flags
        for s in segments:
            flags = flags_of_batch
            mine = [a[at : at + s.rows] for a in outputs] if layout.rows_axis else outputs
            at += s.rows
            whole = self._replies.join(s, mine)
            if whole is not None:
                if s.rows != s.item.rows:  # other parts of it ran in other batches
                    flags = FINITE if scatter.finite(whole) else 0
                if not inputs.fixed:
                    whole = scatter.crop(whole, inputs.row_dims(s.item.peer.memory, s.item.offset), key)
                self._replies.tensors(s.item, layout, whole, flags, started_s)

    def _run_raw(self, segments: list[Segment], started_s: float) -> list[Segment]:
        """Whole bodies through the user's handler. Each request has a result of its own. Returns those that did not fit into
        memory together, which may fit apart."""
        requests = [_raw_request(s.item) for s in segments]
        results = self.replica.backend.handle(requests)
        run_s = self._clock() - started_s
        too_large: list[Segment] = []
        for s, result in zip(segments, results, strict=True):
            if isinstance(result, RawReply):
                self._replies.raw(s.item, result, started_s)
                continue
            if isinstance(result, RawStream):
                self._streams.begin(s.item, result)
                continue
            known = translated(result)
            if isinstance(known, OutOfMemory) and len(segments) > 1:
                too_large.append(s)
            else:
                _tell_of(s.item, result, known)
                self._replies.fault(s.item, known)
            let_go(result)
        if len(too_large) > 1:
            self._lower_ceiling(len(too_large))
        ran = len(segments) - len(too_large)
        if ran:
            self._count_batch(ran, run_s, run_s)
            self._learn((), ran, run_s)
        return too_large

    def _count_batch(self, rows: int, run_s: float, took_s: float) -> None:
        count, value = self.cells.count, self.cells.value
        count[_BATCHES] += 1
        count[_ROWS] += rows
        count[_BATCH_ROWS + row_bucket(rows)] += 1
        count[_RUN_TIME + time_bucket(run_s)] += 1
        value[_RUN_SUM] += run_s
        above_s = value[_LONGEST] - took_s
        value[_LONGEST] = took_s + above_s * (1 - LONGEST_FADES) if above_s > 0 else took_s
        value[_BUSY_SUM] += took_s
        self._note_queue()

    def _learn(self, key: Hashable, rows: int, took_s: float) -> None:
        """`took_s` is what the batch kept the engine from others: gather and scatter are part of its cost."""
        cost = self.replica.cost
        cost.observe(key, rows, took_s)
        if self.cells.count[_BATCHES] % PRICE_EVERY == 0 or took_s > PRICE_ALWAYS_S:
            self.cells.value[_ROW_COST] = cost.curve(key).cheapest_row(self.replica.rows_max)


def _halves(segments: list[Segment]) -> tuple[list[Segment], list[Segment]] | None:
    """Two smaller batches, or None when this is a single request. Parts of one plain request stay together."""
    if len(segments) > 1:
        middle = len(segments) // 2
        return segments[:middle], segments[middle:]
    item, start, rows = segments[0]
    if isinstance(item, RowTable) and rows > 1:
        return [Segment(item, start, rows // 2)], [Segment(item, start + rows // 2, rows - rows // 2)]
    return None


def _parts(segment: Segment) -> tuple[list[Segment], list[Segment]] | None:
    """The rows of one request as two batches: it can only be too large, and its rows need not run together."""
    item, start, rows = segment
    half = rows // 2
    return ([Segment(item, start, half)], [Segment(item, start + half, rows - half)]) if half else None


def _tell_of(item: Item, error: BaseException, known: EvenkeelError) -> None:
    """What a handler raised, in the log under the request's id."""
    if isinstance(known, ModelFailed | OutOfMemory):
        trace = trace_of(root_of(known, error))
        log("handler_error", known.message, request_id=_raw_request(item).request_id, traceback=trace)


def _raw_request(item: Item) -> RawRequest:
    data = item.peer.memory[item.offset : item.offset + item.used]
    size = int.from_bytes(data[:4], "little")
    meta = json.loads(bytes(data[4 : 4 + size]))
    return RawRequest(bytes(data[4 + size :]), meta["content_type"], meta["accept"], meta["request_id"], meta["headers"])
