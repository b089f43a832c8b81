"""Batches of tensors that run at once: gather, run, scatter, reply. On a CPU, or where the device has no way of its own."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from evenkeel.serve.batching.item import Item, Segment
from evenkeel.serve.contract.logline import log
from evenkeel.serve.engine.cycle.engine_context import EngineContext
from evenkeel.serve.engine.cycle.halving import halves, parts
from evenkeel.serve.engine.cycle.model_queue import ModelQueue
from evenkeel.serve.engine.cycle.row_table import broken_up
from evenkeel.serve.engine.cycle.tensor_steps import TensorSteps
from evenkeel.serve.engine.failures import translated
from evenkeel.serve.engine.foreign import let_go, trace_of
from evenkeel.serve.engine.peers import Peer
from evenkeel.serve.errors import EvenkeelError, OutOfMemory


class RunNow:
    """A Runner. Nothing is ever in flight between two of its calls."""

    idle = True

    def __init__(self, queue: ModelQueue, steps: TensorSteps, engine: EngineContext) -> None:
        self._queue, self._replica, self._steps = queue, queue.replica, steps
        self._stamp, self._peers, self._clock = engine.stamp, engine.peers, engine.clock

    def advance(self, now_s: float, closing: bool) -> float:
        segments = self._queue.next(now_s)
        if segments:
            self.run(segments, segments[0].item.key)
        return self._queue.wait_s

    def run(self, segments: list[Segment], key: Hashable) -> None:
        """Run a batch and answer all who are complete. A failing batch is halved until the bad request stands alone."""
        rows, curve = sum([s.rows for s in segments]), self._replica.cost.curve(key)
        started_s = self._stamp.batch(segments, rows, curve.predict(rows) if curve.seen else 0.0)
        try:
            failed = self._run(segments, key, rows, started_s)
        finally:
            self._stamp.over()
        if failed is not None:
            self.divide(segments, key, failed)

    def _run(self, segments: list[Segment], key: Any, rows: int, started_s: float) -> EvenkeelError | None:
        """Returns what went wrong with the batch as a whole."""
        steps, clock, tensors = self._steps, self._clock, self._replica.tensors
        assert tensors is not None, "only tensor replicas run so"
        singles = steps.singles(segments)
        if singles is None:
            segments = broken_up(segments)
        try:
            batch = steps.gathered(segments, key, singles)
            run_at_s = clock()
            outputs = tensors.run(batch)
        except Exception as e:  # foreign code: whatever it raises is an error of this batch, not of the engine
            return self.told(e, rows)
        run_s = clock() - run_at_s
        wrong = steps.answer(segments, singles, outputs, key, started_s, rows)
        if wrong is not None:
            return wrong
        self._peers.send()  # nobody needs to wait while we count and learn
        self._stamp.ran(self._replica, key, rows, run_s, clock() - started_s)
        self._queue.tell()
        return None

    def divide(self, segments: list[Segment], key: Hashable, failed: EvenkeelError) -> None:
        """Run the halves of a batch that failed; tell a request that failed alone."""
        two = halves(segments) or (parts(segments[0]) if isinstance(failed, OutOfMemory) else None)
        if two is not None:
            self.run(two[0], key)
            self.run(two[1], key)
            return
        self._queue.fail(segments[0], failed)
        self._queue.tell()

    def fail_single(self, item: Item, error: Exception) -> None:
        """A request that ran by itself has failed."""
        self.divide([Segment(item, 0, 1)], item.key, self.told(error, 1))
        self._peers.send()

    def told(self, error: Exception, rows: int) -> EvenkeelError:
        """What the callers are told. Raises DeviceLost when only another process can go on."""
        failure = translated(error)
        if isinstance(failure, OutOfMemory):
            self._queue.lower_ceiling(rows)
        elif failure is not error:
            log("model_error", failure.message, traceback=trace_of(error))
        let_go(error)
        return failure

    def forget(self, peer: Peer) -> None: ...
