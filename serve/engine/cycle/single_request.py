"""The hot path of STORY 2: a request of one plain row that finds the engine free, with nobody before, beside or behind it.

What the cycle does for any batch in a dozen steps is written out here in one piece, as the front's row_batcher.py does for many
requests: a request is not queued, placed and gathered if it is the whole queue. Whatever is not plain, or is not alone, is
left to the cycle, and so is every failure.

The row goes through the model from the bytes in its slot to the bytes of its answer. `RowRunner` goes the way of a batch.
`BoundRowRunner` is for backends that can run from the very same memory into the very same memory, time after time: nothing is
made anew for a request, which for a tiny model is half of its time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from evenkeel.serve.batching.arrivals import RATE_TAU_S
from evenkeel.serve.batching.item import Item
from evenkeel.serve.engine.cells import QUEUE_ROWS, QUEUE_TIME, TAKEN_SINGLE
from evenkeel.serve.engine.cycle.tensors import finite
from evenkeel.serve.errors import ModelFailed
from evenkeel.serve.transport.descriptor import ANSWER, FINITE, REPLY, REQUEST, SUBMIT
from evenkeel.serve.transport.layout import Layout, aligned

if TYPE_CHECKING:
    from evenkeel.serve.engine.backends.base import BoundRun
    from evenkeel.serve.engine.cycle.engine_context import EngineContext
    from evenkeel.serve.engine.cycle.model_queue import ModelQueue
    from evenkeel.serve.engine.cycle.run_now import RunNow
    from evenkeel.serve.engine.cycle.tensors import Array, Gather
    from evenkeel.serve.engine.models.replica import Replica
    from evenkeel.serve.engine.peers import Peer

BOUND_BYTES_MAX = 16 << 10  # of a row, either way: it is copied, which for a large one costs more than is saved
LOOKED_AT_BY_STRUCT_MAX = 64  # values of a row up to which that is quicker than NumPy, above all on cold caches
_CODES = {"float16": "e", "float32": "f", "float64": "d"}

Answer = tuple[bytes | memoryview, int, float]  # its bytes, what is to be said of them, and the model's seconds
Row = Callable[[memoryview, int], Answer]


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
        count[TAKEN_SINGLE] += 1
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
        arrivals.rate = arrivals.rate * math.exp((arrivals.at_s - now_s) / RATE_TAU_S) + 1 / RATE_TAU_S
        arrivals.at_s = arrivals.peak_at_s = now_s
        arrivals.peak_rows = 1.0
        return True


class RowRunner:
    def __init__(self, replica: Replica, clock: Callable[[], float]) -> None:
        assert replica.gather and replica.scatter and replica.inputs and replica.tensors, "tensor replicas have them all"
        self._tensors, self._clock = replica.tensors, clock
        self._gather, self._scatter, self._inputs = replica.gather, replica.scatter, replica.inputs

    def __call__(self, memory: memoryview, offset: int) -> Answer:
        """Raises what the model raises, and our own errors."""
        batch = self._inputs.unpack(memory.toreadonly(), offset, 1)  # read-only, as Gather says
        self._gather.refuse_not_finite(batch)
        began_s = self._clock()
        outputs = self._tensors.run(batch)
        run_s = self._clock() - began_s
        checked = self._scatter.checked(outputs, 1)
        if isinstance(checked, str):
            raise ModelFailed(checked)
        return _bytes_of(checked[0]), FINITE if self._scatter.finite(checked) else 0, run_s


class BoundRowRunner:
    """Owner of the memory of one row of the only input, and of one of the only output."""

    def __init__(self, gather: Gather, clock: Callable[[], float], batch: list[Array], outputs: list[Array],
                 bound: BoundRun) -> None:  # fmt: skip
        """`bound`: from `batch` into `outputs`, one array each."""
        self._gather, self._clock, self._batch, self._outputs = gather, clock, batch, outputs
        self._run, self._failed = bound.run, bound.failed
        self._size, self._in, self._out = batch[0].nbytes, _bytes_of(batch[0]), _bytes_of(outputs[0])
        self._is_good = _finite_in(batch[0], self._in) if gather.checks else _yes
        self._is_finite = _finite_in(outputs[0], self._out)

    def __call__(self, memory: memoryview, offset: int) -> Answer:
        """Raises what the model raises, and our own errors."""
        self._in[:] = memory[offset : offset + self._size]
        if not self._is_good():
            self._gather.refuse_not_finite(self._batch)
        began_s = self._clock()
        try:
            self._run()
        except Exception as e:  # the framework's own
            raise self._failed(e) from e
        run_s = self._clock() - began_s
        return bytes(self._out), FINITE if self._is_finite() else 0, run_s


def row_of(replica: Replica, clock: Callable[[], float]) -> Row:
    """The quickest way that the backend has. All inputs and outputs of the model are one of each, of fixed size."""
    assert replica.gather and replica.inputs and replica.outputs, "tensor replicas have them all"
    binding = replica.capabilities.binding
    if binding is None or max(replica.inputs.row_bytes, replica.outputs.row_bytes) > BOUND_BYTES_MAX:
        return RowRunner(replica, clock)
    batch, outputs = _rows(replica.inputs), _rows(replica.outputs)
    bound = binding.bind(batch, outputs)
    return RowRunner(replica, clock) if bound is None else BoundRowRunner(replica.gather, clock, batch, outputs, bound)


def _yes() -> bool:
    return True


def _rows(layout: Layout) -> list[Array]:
    return [np.zeros((1, *layout.dims[0]), layout.dtypes[0])]


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _finite_in(array: Array, data: memoryview) -> Callable[[], bool]:
    """Whether all that lies there now is finite. Of doubles it may say no where only their sum is not."""
    code = _CODES.get(array.dtype.name)
    if code is None:
        return _yes
    if array.size > LOOKED_AT_BY_STRUCT_MAX:
        return lambda: finite(array)
    unpack = struct.Struct(f"={array.size}{code}").unpack
    return lambda: math.isfinite(sum(unpack(data)))
