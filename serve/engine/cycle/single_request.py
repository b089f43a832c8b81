"""The hot path of STORY 2: a request of one plain row that finds the engine free, with nobody before, beside or behind it.

What the cycle does for any batch in a dozen steps is written out here in one piece, as the front's row_batcher.py does for many
requests: a request is not queued, placed and gathered if it is the whole queue. Whatever is not plain, or is not alone, is
left to the cycle, and so is every failure.
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

from evenkeel.serve.batching.arrivals import RATE_TAU_S
from evenkeel.serve.batching.item import Item
from evenkeel.serve.engine.cells import QUEUE_ROWS, QUEUE_TIME
from evenkeel.serve.engine.cycle.row_runner import row_of
from evenkeel.serve.transport.descriptor import ANSWER, REPLY, REQUEST, SUBMIT
from evenkeel.serve.transport.layout import aligned

if TYPE_CHECKING:
    from evenkeel.serve.engine.cycle.engine_context import EngineContext
    from evenkeel.serve.engine.cycle.model_queue import ModelQueue
    from evenkeel.serve.engine.cycle.run_now import RunNow
    from evenkeel.serve.engine.peers import Peer


class SingleRequest:
    """Of one tensor replica whose rows are of one input, one output and fixed size. `now` tells a request that it failed."""

    def __init__(self, queue: ModelQueue, now: RunNow, engine: EngineContext) -> None:
        replica = queue.replica
        assert replica.inputs and replica.outputs, "tensor replicas have them"
        self._replica, self._tensors, self._cost = replica, replica.tensors, replica.cost
        self._stamp, self._count, self._clock = engine.stamp, engine.block.count, engine.clock
        self._key, self._arrivals, self._now = queue.only_key, queue.arrivals, now
        self._size, self._answer_at = replica.inputs.row_bytes, aligned(replica.inputs.row_bytes)
        self._room = self._answer_at + replica.outputs.row_bytes
        self._row = row_of(replica, engine.clock)

    def serve(self, peer: Peer, records: bytes, now_s: float) -> bool:
        """Run it and answer it. False, and nothing done: it is not plain."""
        kind, flags, rows, id, offset, capacity, used, ref, deadline_s = REQUEST.unpack(records)
        if kind != SUBMIT or flags or rows != 1 or used != self._size or capacity < self._room or deadline_s <= now_s:
            return False
        if peer.outbox:
            return False
        if self._replica.tensors is not self._tensors:  # faults on purpose
            self._tensors, self._row = self._replica.tensors, row_of(self._replica, self._clock)
        key, count = self._key, self._count
        curve = self._cost.curves.get(key) or self._cost.curve(key)
        self._stamp.single(id, deadline_s, curve.seconds[0] if curve.seen else 0.0, now_s)  # what it predicts for one row
        count[QUEUE_ROWS] = 1
        try:
            try:
                answer, flags, run_s = self._row(peer.memory, offset)
            except Exception as e:  # foreign code: whatever it raises is an error of this request, not of the engine
                self._now.fail_single(Item(id, 1, key, deadline_s, now_s, peer, offset, capacity, used, placed=1), e)
                return True
            at, size = offset + self._answer_at, len(answer)
            peer.memory[at : at + size] = answer
            peer.channel.send(REPLY.pack(ANSWER, flags, 0, 1, id, at, size, ref))
        finally:
            self._stamp.over()
            count[QUEUE_ROWS] = 0
        self._stamp.ran(self._replica, key, 1, run_s, self._clock() - now_s)
        count[QUEUE_TIME] += 1  # it waited for nobody
        arrivals = self._arrivals  # as its `note` does it for one row
        arrivals.rate = arrivals.rate * exp((arrivals.at_s - now_s) / RATE_TAU_S) + 1 / RATE_TAU_S
        arrivals.at_s = arrivals.peak_at_s = now_s
        arrivals.peak_rows = 1.0
        return True
