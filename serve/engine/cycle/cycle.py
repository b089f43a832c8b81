"""STORY 2: what an engine does, again and again: take, gather, run, scatter, reply.

One thread. While a batch runs, records wait in the sockets; when it is done all of them are taken at once, and that is the
next batch. The engine owns each slot from its SUBMIT until the reply with the same id has been written, and it replies to
every SUBMIT exactly once: with an answer, or with a fault. It never speaks HTTP and never sees a client.

This file is the loop: who gets what has come, and whose turn it is. What waits for a model is in model_queue.py; how its
batches run, in run_now.py, run_handler.py and launch_complete.py.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable

from evenkeel.serve.batching.item import Item
from evenkeel.serve.contract.status_page import StatusBlock
from evenkeel.serve.engine.cycle.engine_context import EngineContext
from evenkeel.serve.engine.cycle.model_cycle import BLOCK_BYTES_MIN, ModelCycle
from evenkeel.serve.engine.cycle.model_queue import IDLE_S
from evenkeel.serve.engine.cycle.replies import refuse_late
from evenkeel.serve.engine.cycle.run_stamp import RunStamp
from evenkeel.serve.engine.models.loaded_models import LoadedModels
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.peers import Peer, Peers
from evenkeel.serve.transport.descriptor import CANCEL, HELLO, MODELS, MORE, RECORD_BYTES, REF, REQUEST, SUBMIT

EXPIRE_EVERY_S = 0.05


class Cycle:
    """Who is connected, and which models are here. `serve` is the story."""

    def __init__(
        self, listener: socket.socket, block: StatusBlock, epoch: int, clock: Callable[[], float] = time.monotonic,
        many: bool = False,
    ) -> None:  # fmt: skip
        """`many`: no model is this engine's own."""
        self.closing = False
        self.models: LoadedModels[ModelCycle] = LoadedModels()
        self._block, self._clock = block, clock
        self._peers = Peers(listener, epoch, many)
        self._engine = EngineContext(block, RunStamp(block, epoch, clock), self._peers, clock)
        self._expired_at_s = 0.0
        self._calls: deque[Callable[[], None]] = deque()
        self._on_gone: dict[int, Callable[[ModelCycle], None]] = {}

    # ---- which models ----------------------------------------------------------------------------------------------

    def add(self, replica: Replica) -> ModelCycle:
        """From now on it takes requests, and fronts are told of it."""
        model = ModelCycle(replica, self._engine)
        self.models.add(model)
        self._peers.introduce(model.ref, replica.info())
        return model

    def withdraw(self, ref: int, on_gone: Callable[[ModelCycle], None] = lambda model: None) -> None:
        """It takes nothing more. What it has taken it answers, and then it is gone: then `on_gone` is called with it."""
        if self.models.withdraw(ref) is not None:
            self._on_gone[ref] = on_gone
            self._peers.withdraw(ref)

    def call(self, function: Callable[[], None]) -> None:
        """In the turn that comes, from any other thread. Never again once all of this is closing."""
        self._calls.append(function)
        self._peers.wake()

    def _make_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def _let_go(self) -> None:
        idle = self.models.drop_idle()
        while idle:
            model = idle.pop()
            self._on_gone.pop(model.ref)(model)

    # ---- the story -------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Until told to close, and then until everything taken has been answered."""
        wait_s = IDLE_S
        while not self.closing:
            wait_s = self.turn(wait_s)
        wait_s = 0.0
        while not self.idle:
            wait_s = self.last_turn(min(wait_s, EXPIRE_EVERY_S))

    @property
    def idle(self) -> bool:
        """Nothing is queued, and every reply is out."""
        return all(model.idle for model in self.models.all) and not self._peers.unsent

    def close(self) -> None:
        """Leave all fronts in good order. What they gave us and we have not answered is theirs again, and has run nowhere."""
        self._engine.stamp.leave()
        self._peers.close()

    def leave_to_parent(self) -> None:
        """In a child that the script forked: the fronts are the parent's."""
        self._peers.leave_to_parent()

    def turn(self, wait_s: float) -> float:
        """Take what has come, run at most one batch of each model, send the replies. Returns how long the next turn may sleep."""
        taken = self._peers.receive(wait_s)
        if self._calls:
            self._make_calls()
        if len(taken) == 1 and self._answered_single(*taken[0]):
            return IDLE_S
        for peer, records in taken:
            self._take(peer, records)
        now_s = self._clock()
        if now_s - self._expired_at_s >= EXPIRE_EVERY_S:
            self._expired_at_s = now_s
            for model in self.models.all:
                model.queue.expire(now_s)
        return self._advance(now_s)

    def last_turn(self, wait_s: float) -> float:
        """As `turn`, but nothing more is taken: what comes now is the fronts' again as soon as we are gone."""
        for peer, records in self._peers.receive(wait_s):
            if records is None:
                self._forget(peer)
            else:
                self._heed(records)
        return self._advance(self._clock())

    def _advance(self, now_s: float) -> float:
        """Each model has a turn, and then each of its streams."""
        wait_s = IDLE_S
        self._engine.stamp.beat(now_s)
        for model in self.models.all:
            wait_s = min(wait_s, model.runner.advance(now_s, self.closing))
        self._peers.send()
        for model in self.models.all:
            if model.streams is not None and model.streams.open and model.streams.advance():
                wait_s = 0.0
        if self.models.leaving:
            self._let_go()
        return wait_s

    # ---- take ------------------------------------------------------------------------------------------------------

    def _answered_single(self, peer: Peer, records: bytes | None) -> bool:
        """What has come was a single request, and neither is there nor expected anything to share a batch with it."""
        if records is None or len(records) != RECORD_BYTES:
            return False
        model = self.models.get(REF.unpack(records)[0])
        if model is None or model.single_request is None:
            return False
        if model.queue.pending.rows or model.queue.arrivals.peak_rows >= 2:
            return False
        if len(self.models.all) > 1 and any(m.queue.pending.rows for m in self.models.all):
            return False
        return model.single_request.serve(peer, records, self._clock())

    def _take(self, peer: Peer, records: bytes | None) -> None:
        """Everything that has arrived from one front: requests, cancellations, its HELLO, or its end."""
        if records is None:
            self._forget(peer)
            return
        now_s = self._clock()
        if len(records) >= BLOCK_BYTES_MIN:
            model = self.models.get(REF.unpack_from(records)[0])
            if model is not None and model.took_block(peer, records, now_s):
                return
        for kind, flags, rows, id, offset, capacity, used, ref, deadline_s in REQUEST.iter_unpack(records):
            if kind == SUBMIT:
                model = self.models.get(ref)
                if model is None:
                    refuse_late(self._block, ref, Item(id, rows, None, deadline_s, now_s, peer, offset, capacity, used))
                else:
                    model.take(peer, flags, rows, id, offset, capacity, used, deadline_s, now_s)
            elif kind == HELLO:
                self._peers.greet(peer, flags, capacity)
            elif kind == MODELS:
                self._peers.tell_all(peer)
            else:
                self._heed_one(kind, rows, id, ref)
        for model in self.models.all:
            model.queue.note(now_s)

    def _heed(self, records: bytes) -> None:
        """What fronts say about what was taken before. Who is not let go from there may become a stream that nobody reads, and
        this engine would never be done."""
        for kind, _, rows, id, _, _, _, ref, _ in REQUEST.iter_unpack(records):
            self._heed_one(kind, rows, id, ref)

    def _heed_one(self, kind: int, rows: int, id: int, ref: int) -> None:
        """They have read parts, or the caller has left, of a stream or in the queue."""
        model = self.models.owner(ref)
        if model is None:
            return
        if kind == MORE:
            model.more(id, rows)
        elif kind == CANCEL:
            model.cancel(id)

    def _forget(self, peer: Peer) -> None:
        for model in self.models.all:
            model.forget(peer)
