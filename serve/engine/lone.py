"""The hot path of STORY 2: a request of one plain row that finds the engine free, with nobody before, beside or behind it.

What the cycle does for any batch in a dozen steps is written out here in one piece, as the front's crowd.py does for many
requests: a request is not queued, placed and gathered if it is the whole queue. Whatever is not plain, or is not alone, is
left to the cycle, and so is every failure.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from serve.batching.pending import Item
from serve.contract.status import RUN_EPOCH, RUN_SPANS, Engine
from serve.errors import ModelFailed
from serve.transport.descriptor import ANSWER, FINITE, RECORD_BYTES, REPLY, REQUEST, SUBMIT
from serve.transport.layout import aligned

if TYPE_CHECKING:
    from serve.contract.status import Block as Cells
    from serve.engine.peers import Peer
    from serve.engine.replica import Replica
    from serve.engine.tensors import Array

_QUEUE_ROWS, _QUEUE_TIME = int(Engine.QUEUE_ROWS), int(Engine.QUEUE_TIME)
_BEAT, _STARTED, _PREDICTED = int(Engine.BEAT_S), int(Engine.RUN_STARTED_S), int(Engine.RUN_PREDICTED_S)
_DEADLINE, _RUN_ROWS, _AGAIN = int(Engine.RUN_DEADLINE_S), int(Engine.RUN_ROWS), int(Engine.RUN_AGAIN)


class Lone:
    """Owns nothing. `fail`: the cycle's way of telling a request that it failed; `ran`: what it does when a batch is answered."""

    def __init__(
        self, replica: Replica, cells: Cells, epoch: int, clock: Callable[[], float], key: Hashable,
        fail: Callable[[Item, Exception], None], ran: Callable[[Hashable, int, float, float], None],
    ) -> None:  # fmt: skip
        assert replica.gather and replica.scatter and replica.inputs and replica.outputs, "tensor replicas have them all"
        self._replica, self._gather, self._scatter = replica, replica.gather, replica.scatter
        self._inputs, self._outputs = replica.inputs, replica.outputs
        self._count, self._value, self._epoch, self._clock = cells.count, cells.value, epoch, clock
        self._key, self._fail, self._ran = key, fail, ran
        self._size, self._answer_at = self._inputs.row_bytes, aligned(self._inputs.row_bytes)
        self._room = self._answer_at + self._outputs.row_bytes

    def serve(self, peer: Peer, records: bytes, now_s: float) -> bool:
        """Run it and answer it. False, and nothing done: it is not plain."""
        if len(records) != RECORD_BYTES or peer.outbox:
            return False
        kind, flags, _, rows, id, offset, capacity, used, _, deadline_s, _ = REQUEST.unpack(records)
        if kind != SUBMIT or flags or rows != 1 or used != self._size or capacity < self._room or deadline_s <= now_s:
            return False
        self._stamp(id, deadline_s, now_s)
        try:
            try:
                outputs, flags, run_s = self._run(peer, offset)
            except Exception as e:  # foreign code: whatever it raises is an error of this request, not of the engine
                self._fail(Item(id, 1, self._key, deadline_s, now_s, peer, offset, capacity, used, placed=1), e)
                return True
            at = offset + self._answer_at
            size = self._outputs.pack(outputs, peer.memory, at)
            peer.outbox += REPLY.pack(ANSWER, flags, 0, 1, id, at, size, self._epoch, 0.0, run_s, 1)
            self._count[_QUEUE_TIME] += 1  # it waited for nobody
            self._ran(self._key, 1, run_s, self._clock() - now_s)
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

    def _run(self, peer: Peer, offset: int) -> tuple[list[Array], int, float]:
        """The outputs, what is to be said of them, and the model's seconds. Raises what the model raises, and our own errors."""
        batch = self._inputs.unpack(peer.memory.toreadonly(), offset, 1)  # read-only, as Gather says
        self._gather.refuse_not_finite(batch)
        began_s = self._clock()
        outputs = self._replica.backend.run(batch)
        run_s = self._clock() - began_s
        checked = self._scatter.checked(outputs, 1)
        if isinstance(checked, str):
            raise ModelFailed(checked)
        return checked, FINITE if self._scatter.finite(checked) else 0, run_s
