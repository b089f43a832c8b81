"""Batches of tensors where the device computes by itself: while one runs, the next is gathered and copied.

A batch is launched, and completed later (docs/decisions/0023-launch-and-complete.md). Of the batches in flight only the oldest is
waited for; all of them are named on the status page.

How it works. With nothing in flight a batch is launched as on a CPU. With one in flight the engine sleeps in its sockets for
HOLD_SHARE of the time that the batch is expected to take, since what comes meanwhile costs nothing to wait for; then it
launches what is queued, and only then sleeps until the oldest is done. So the device finds its next batch ready, and the batch
is as large as the greedy policy would have made it. A wrong expectation mends itself: the sleep is shorter than the batch
as long as the expectation is less than twice the truth, and what is learned is the truth then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evenkeel.serve.batching.item import Segment
from evenkeel.serve.contract.logline import log
from evenkeel.serve.engine.cycle.engine_context import EngineContext
from evenkeel.serve.engine.cycle.model_queue import ModelQueue
from evenkeel.serve.engine.cycle.row_table import RowTable, broken_up
from evenkeel.serve.engine.cycle.run_now import RunNow
from evenkeel.serve.engine.cycle.tensor_steps import TensorSteps
from evenkeel.serve.engine.cycle.tensors import Array
from evenkeel.serve.engine.failures import translated
from evenkeel.serve.engine.peers import Peer
from evenkeel.serve.errors import EvenkeelError, OutOfMemory

IN_FLIGHT_MAX = 2  # one runs, one waits on the device for its turn; more would only make answers later
HOLD_SHARE = 0.5  # of what the oldest is expected to take, until the next is launched. Less makes batches uneven


@dataclass(slots=True, eq=False)
class InFlightBatch:
    """A batch between its launch and its answer. `began_s`: when it was launched, or became the oldest if that was later:
    what is counted and learned of it begins there, so that no moment counts for two batches."""

    segments: list[Segment]  # as placed: their ids go on the status page
    parts: list[Segment]  # one for each request, or the same where the batch is handled by columns
    singles: Array | None
    key: Hashable
    rows: int
    began_s: float
    predicted_s: float
    beside: bool  # another was in flight when it was launched
    ticket: Any = field(default=None)

    @property
    def look_again_s(self) -> float:
        return self.began_s + HOLD_SHARE * self.predicted_s


class LaunchAndComplete:
    """A Runner. Owner of what is in flight, oldest first: after a turn at most IN_FLIGHT_MAX - 1 batches. `now`: runs what must
    not be in flight beside others."""

    def __init__(self, queue: ModelQueue, steps: TensorSteps, engine: EngineContext, now: RunNow) -> None:
        self._queue, self._replica, self._steps, self._now = queue, queue.replica, steps, now
        self._stamp, self._peers, self._clock = engine.stamp, engine.peers, engine.clock
        self._flights: deque[InFlightBatch] = deque()
        self._in_flight_max = IN_FLIGHT_MAX
        self._tensors, self._device = queue.replica.tensors, queue.replica.device

    @property
    def idle(self) -> bool:
        return not self._flights

    def advance(self, now_s: float, closing: bool) -> float:
        """Launch if it is time, then complete the oldest unless it can wait."""
        flights, queue = self._flights, self._queue
        if not flights:
            wait_s = self._begin_next(now_s)
            return self._until_look(flights[0]) if flights else wait_s
        oldest = flights[0]
        wait_s = self._until_look(oldest)
        if wait_s > 0 and not closing and self._in_flight_max > 1 and queue.pending.rows < self._replica.rows_max:
            return wait_s
        if self._in_flight_max > 1:
            self._begin_next(now_s)
        if flights and flights[0] is oldest:
            self._complete_oldest()
        return 0.0

    def _begin_next(self, now_s: float) -> float:
        segments = self._queue.next(now_s)
        if not segments:
            return self._queue.wait_s
        key = segments[0].item.key
        # What was in a crash must have been alone on the device too, should it crash again. A batch that holds parts of a request
        # runs at once: a caller that leaves between its parts gets the slot back, which no batch in flight may need.
        if segments[0].item.alone or any(s.rows != s.item.rows and not isinstance(s.item, RowTable) for s in segments):
            self._complete_all()
            self._now.run(segments, key)
        else:
            self._launch(segments, key)
        return self._queue.wait_s

    def forget(self, peer: Peer) -> None:
        for flight in self._flights:
            for s in (*flight.segments, *flight.parts):
                s.item.gone = s.item.gone or s.item.peer is peer

    # ---- launch ----------------------------------------------------------------------------------------------------

    def _launch(self, segments: list[Segment], key: Hashable) -> None:
        assert len(self._flights) < IN_FLIGHT_MAX, "each turn completes what the one before has left in flight"
        flight = self._flight(segments, key)
        self._flights.append(flight)
        self._stamp.in_flight(self._flights)  # before anything of it reaches the device
        if self._replica.tensors is not self._tensors:  # faults on purpose
            self._tensors, self._device = self._replica.tensors, self._replica.device
        device = self._device
        try:
            flight.ticket = device.launch(self._steps.gathered(flight.parts, key, flight.singles, device.lend))
        except Exception as e:  # foreign code: whatever it raises is an error of this batch, not of the engine
            failure = translated(e)
            self._flights.pop()
            self._stamp.in_flight(self._flights)
            self._failed(flight, e, failure)

    def _flight(self, segments: list[Segment], key: Hashable) -> InFlightBatch:
        rows, curve = sum([s.rows for s in segments]), self._replica.cost.curve(key)
        singles = self._steps.singles(segments)
        one_each = broken_up(segments) if singles is None else segments
        predicted_s = curve.predict(rows) if curve.seen else 0.0
        return InFlightBatch(segments, one_each, singles, key, rows, self._clock(), predicted_s, bool(self._flights))

    def _until_look(self, oldest: InFlightBatch) -> float:
        return max(0.0, oldest.look_again_s - self._clock())

    # ---- complete --------------------------------------------------------------------------------------------------

    def _complete_all(self) -> None:
        while self._flights:
            self._complete_oldest()

    def _complete_oldest(self) -> None:
        """Sleep until it is done, and answer it."""
        flight = self._flights[0]
        try:
            outputs = self._device.complete(flight.ticket)
        except Exception as e:  # as at the launch
            failure = translated(e)  # a lost device ends this process, with everybody in flight still named
            self._land()
            self._failed(flight, e, failure)
            return
        wrong = self._answered(flight, outputs)
        self._land()
        if wrong is not None:
            self._failed(flight, wrong, wrong)

    def _answered(self, flight: InFlightBatch, outputs: Sequence[Array]) -> EvenkeelError | None:
        rows, run_s = flight.rows, self._clock() - flight.began_s
        wrong = self._steps.answer(flight.parts, flight.singles, outputs, flight.key, flight.began_s, rows)
        if wrong is not None:
            return wrong
        self._peers.send()  # nobody needs to wait while we count and learn
        self._stamp.ran(self._replica, flight.key, rows, run_s, self._clock() - flight.began_s)
        self._queue.tell()
        return None

    def _land(self) -> None:
        """The next one is the oldest from now on."""
        self._flights.popleft()
        if self._flights:
            self._flights[0].began_s = self._clock()
        self._stamp.in_flight(self._flights)

    def _failed(self, flight: InFlightBatch, error: Exception, failure: EvenkeelError) -> None:
        """Run the batch again, whole or in halves, when nothing else is in flight."""
        beside = flight.beside or bool(self._flights)
        self._complete_all()
        segments = [s for s in flight.segments if not s.item.gone]
        if not segments:
            return
        if beside and isinstance(failure, OutOfMemory):
            self._one_at_a_time()
            self._now.run(segments, flight.key)
        else:
            self._now.divide(segments, flight.key, self._now.told(error, flight.rows))

    def _one_at_a_time(self) -> None:
        """The memory of the one beside it may be all that was missing, and would be missing again."""
        if self._in_flight_max > 1:
            log("out_of_memory", "two batches do not fit into memory together; from now on one runs at a time")
            self._in_flight_max = 1
