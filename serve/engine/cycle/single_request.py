"""The hot path of STORY 2: a request of one plain row that finds the engine free, with nobody before, beside or behind it.

What the cycle does for any batch in a dozen steps is written out here in one piece, as the front's row_batcher.py does for many
requests: a request is not queued, placed and gathered if it is the whole queue. Whatever is not plain, or is not alone, is
left to the cycle, and so is every failure.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from evenkeel.serve.batching.item import Item
from evenkeel.serve.contract.status_page import RUN_EPOCH, RUN_SPANS, Engine
from evenkeel.serve.engine.cycle.row_runner import row_of
from evenkeel.serve.transport.descriptor import ANSWER, RECORD_BYTES, REPLY, REQUEST, SUBMIT
from evenkeel.serve.transport.layout import aligned

if TYPE_CHECKING:
    from evenkeel.serve.contract.status_page import StatusBlock as Cells
    from evenkeel.serve.engine.models.replica import Replica
    from evenkeel.serve.engine.peers import Peer

_QUEUE_ROWS, _QUEUE_TIME = int(Engine.QUEUE_ROWS), int(Engine.QUEUE_TIME)
_BEAT, _STARTED, _PREDICTED = int(Engine.BEAT_S), int(Engine.RUN_STARTED_S), int(Engine.RUN_PREDICTED_S)
_DEADLINE, _RUN_ROWS, _AGAIN = int(Engine.RUN_DEADLINE_S), int(Engine.RUN_ROWS), int(Engine.RUN_AGAIN)


class SingleRequest:
    """Owns nothing. `fail`: the cycle's way of telling a request that it failed; `ran`: what it does when a batch is answered."""

    def __init__(
        self, replica: Replica, cells: Cells, epoch: int, clock: Callable[[], float], key: Hashable,
        fail: Callable[[Item, Exception], None], ran: Callable[[Hashable, int, float, float], None],
    ) -> None:  # fmt: skip
        assert replica.inputs and replica.outputs, "tensor replicas have them"
        self._replica, self._backend = replica, replica.backend
        self._count, self._value, self._epoch, self._clock = cells.count, cells.value, epoch, clock
        self._key, self._fail, self._ran, self._ref = key, fail, ran, replica.ref
        self._size, self._answer_at = replica.inputs.row_bytes, aligned(replica.inputs.row_bytes)
        self._room = self._answer_at + replica.outputs.row_bytes
        self._row = row_of(replica, clock)

    def serve(self, peer: Peer, records: bytes, now_s: float) -> bool:
        """Run it and answer it. False, and nothing done: it is not plain."""
        if len(records) != RECORD_BYTES or peer.outbox:
            return False
        kind, flags, rows, id, offset, capacity, used, ref, deadline_s = REQUEST.unpack(records)
        if kind != SUBMIT or flags or rows != 1 or used != self._size or ref != self._ref or capacity < self._room:
            return False
        if deadline_s <= now_s:
            return False
        if self._replica.backend is not self._backend:  # faults on purpose
            self._backend, self._row = self._replica.backend, row_of(self._replica, self._clock)
        self._stamp(id, deadline_s, now_s)
        try:
            try:
                answer, flags, run_s = self._row(peer.memory, offset)
            except Exception as e:  # foreign code: whatever it raises is an error of this request, not of the engine
                self._fail(Item(id, 1, self._key, deadline_s, now_s, peer, offset, capacity, used, placed=1), e)
                return True
            at, size = offset + self._answer_at, len(answer)
            peer.memory[at : at + size] = answer
            peer.outbox += REPLY.pack(ANSWER, flags, 0, 1, id, at, size, ref)
            self._ran(self._key, 1, run_s, self._clock() - now_s)
            self._count[_QUEUE_TIME] += 1  # it waited for nobody
        finally:
            self._value[_STARTED] = 0.0
            self._count[_QUEUE_ROWS] = 0
        return True

    def _stamp(self, id: int, deadline_s: float, now_s: float) -> None:
        """What the supervisor watches, and who has run if this ends the process."""
        count, value, curve = self._count, self._value, self._replica.cost.curve(self._key)
        value[_PREDICTED] = curve.predict(1) if curve.seen else 0.0
        value[_DEADLINE] = deadline_s
        count[_QUEUE_ROWS] = count[_RUN_ROWS] = 1
        count[_AGAIN] = 0
        value[_BEAT] = value[_STARTED] = now_s
        count[RUN_SPANS] = 0
        count[RUN_EPOCH] = self._epoch
        count[RUN_SPANS + 1] = count[RUN_SPANS + 2] = id
        count[RUN_SPANS] = 1
