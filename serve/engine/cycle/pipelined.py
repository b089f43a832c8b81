"""STORY 2 where the device computes by itself: while one batch runs, the next is gathered and copied.

The same cycle, but for the batch: it is launched, and completed later (docs/decisions/0023-launch-and-complete.md). Of the
batches in flight only the oldest is waited for; it is stamped on the status page, and all of them are named there. A cycle is
made of one kind or the other once, by `cycle_for`, so a model on the CPU pays nothing for this.

How it works. With nothing in flight a batch is launched as on a CPU. With one in flight the engine sleeps in its sockets for
HOLD_SHARE of the time that the batch is expected to take, since what comes meanwhile costs nothing to wait for; then it
launches what is queued, and only then sleeps until the oldest is done. So the device finds its next batch ready, and the batch
is as large as the greedy policy would have made it. A wrong expectation mends itself: the sleep is shorter than the batch
as long as the expectation is less than twice the truth, and what is learned is the truth then.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evenkeel.serve.batching.item import Item, Segment
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Engine
from evenkeel.serve.contract.status_page import StatusBlock as Cells
from evenkeel.serve.engine.cycle.cycle import Cycle
from evenkeel.serve.engine.cycle.row_table import RowTable, broken_up
from evenkeel.serve.engine.cycle.tensors import Array
from evenkeel.serve.engine.failures import translated
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.peers import Peer
from evenkeel.serve.errors import EvenkeelError, OutOfMemory

FLYING_MAX = 2  # one runs, one waits on the device for its turn; more would only make answers later
HOLD_SHARE = 0.5  # of what the oldest is expected to take, until the next is launched. Less makes batches uneven

_BEAT, _STARTED, _PREDICTED = int(Engine.BEAT_S), int(Engine.RUN_STARTED_S), int(Engine.RUN_PREDICTED_S)
_DEADLINE, _RUN_ROWS, _AGAIN = int(Engine.RUN_DEADLINE_S), int(Engine.RUN_ROWS), int(Engine.RUN_AGAIN)


def cycle_for(
    replica: Replica, listener: socket.socket, cells: Cells, epoch: int, clock: Callable[[], float] = time.monotonic
) -> Cycle:
    """The kind of cycle that this replica's backend can make use of."""
    kind = PipelinedCycle if replica.signature is not None and hasattr(replica.backend, "launch") else Cycle
    return kind(replica, listener, cells, epoch, clock)


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


class PipelinedCycle(Cycle):
    """Owner of what is in flight, oldest first: after a turn at most FLYING_MAX - 1 batches."""

    def __init__(
        self, replica: Replica, listener: socket.socket, cells: Cells, epoch: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(replica, listener, cells, epoch, clock)
        self._flights: deque[InFlightBatch] = deque()
        self._single_request = None  # it would wait for its batch
        self._flying_max = FLYING_MAX

    @property
    def idle(self) -> bool:
        return not self._flights and super().idle

    def _advance(self, now_s: float) -> float:
        """Launch if it is time, then complete the oldest unless it can wait. Returns how long the next `take` may sleep."""
        flights = self._flights
        if not flights:
            wait_s = super()._advance(now_s)
            return self._until_look(flights[0]) if flights else wait_s
        oldest = flights[0]
        wait_s = self._until_look(oldest)
        if wait_s > 0 and not self.closing and self._flying_max > 1 and self._pending.rows < self.replica.rows_max:
            return wait_s
        if self._flying_max > 1:
            super()._advance(now_s)
        if flights and flights[0] is oldest:
            self._complete_oldest()
        return 0.0

    def _until_look(self, oldest: InFlightBatch) -> float:
        return max(0.0, oldest.look_again_s - self._clock())

    def _run_alone(self, item: Item, now_s: float) -> float:
        """It was in a crash: should it crash again, it must have been alone on the device too."""
        self._complete_all()
        return super()._run_alone(item, now_s)

    def _forget(self, peer: Peer) -> None:
        """Its batches run on, and nobody is answered."""
        for flight in self._flights:
            for s in (*flight.segments, *flight.parts):
                s.item.gone = s.item.gone or s.item.peer is peer
        super()._forget(peer)

    # ---- launch ----------------------------------------------------------------------------------------------------

    def _begin(self, segments: list[Segment], key: Hashable) -> None:
        """Launch a batch. One that holds parts of a request runs at once: whoever leaves between its parts gets the slot back,
        which no batch in flight may need."""
        if any(s.rows != s.item.rows and not isinstance(s.item, RowTable) for s in segments):
            self._complete_all()
            self._run(segments, key)
            return
        assert len(self._flights) < FLYING_MAX, "each turn completes what the one before has left in flight"
        flight = self._flight(segments, key)
        self._flights.append(flight)
        self._stamp()  # before anything of it reaches the device
        try:
            backend = self.replica.backend
            flight.ticket = backend.launch(self._gathered(flight.parts, key, flight.singles, backend.lend))
        except Exception as e:  # foreign code: whatever it raises is an error of this batch, not of the engine
            known = translated(e)
            self._flights.pop()
            self._stamp()
            self._failed(flight, e, known)

    def _flight(self, segments: list[Segment], key: Hashable) -> InFlightBatch:
        rows, curve = sum([s.rows for s in segments]), self.replica.cost.curve(key)
        singles = self._singles(segments)
        parts = broken_up(segments) if singles is None else segments
        predicted_s = curve.predict(rows) if curve.seen else 0.0
        return InFlightBatch(segments, parts, singles, key, rows, self._clock(), predicted_s, bool(self._flights))

    def _stamp(self) -> None:
        """The oldest is what progress is measured by; after a crash everybody in flight may have been the cause."""
        value, count = self.cells.value, self.cells.count
        value[_BEAT] = self._clock()
        if not self._flights:
            value[_STARTED] = 0.0
            return
        oldest = self._flights[0]
        value[_PREDICTED] = oldest.predicted_s
        value[_DEADLINE] = max([s.item.deadline_s for s in oldest.segments])
        count[_RUN_ROWS], count[_AGAIN] = oldest.rows, 0
        value[_STARTED] = oldest.began_s
        self._note_who_runs([s for flight in self._flights for s in flight.segments])

    # ---- complete --------------------------------------------------------------------------------------------------

    def _complete_all(self) -> None:
        while self._flights:
            self._complete_oldest()

    def _complete_oldest(self) -> None:
        """Sleep until it is done, and answer it."""
        flight = self._flights[0]
        try:
            outputs = self.replica.backend.complete(flight.ticket)
        except Exception as e:  # as at the launch
            known = translated(e)  # a lost device ends this process, with everybody in flight still named
            self._landed()
            self._failed(flight, e, known)
            return
        wrong = self._answered(flight, outputs)
        self._landed()
        if wrong is not None:
            self._failed(flight, wrong, wrong)

    def _answered(self, flight: InFlightBatch, outputs: Sequence[Array]) -> EvenkeelError | None:
        rows, run_s = flight.rows, self._clock() - flight.began_s
        wrong = self._answer(flight.parts, flight.singles, outputs, flight.key, flight.began_s, rows)
        if wrong is not None:
            return wrong
        self._ran(flight.key, rows, run_s, self._clock() - flight.began_s)
        return None

    def _landed(self) -> None:
        """The next one is the oldest from now on."""
        self._flights.popleft()
        if self._flights:
            self._flights[0].began_s = self._clock()
        self._stamp()

    def _failed(self, flight: InFlightBatch, error: Exception, known: EvenkeelError) -> None:
        """Run the batch again, whole or in halves, when nothing else is in flight."""
        beside = flight.beside or bool(self._flights)
        self._complete_all()
        segments = [s for s in flight.segments if not s.item.gone]
        if not segments:
            return
        if beside and isinstance(known, OutOfMemory):
            self._one_at_a_time()
            self._run(segments, flight.key)
        else:
            self._divide(segments, flight.key, self._told(error, flight.rows))

    def _one_at_a_time(self) -> None:
        """The memory of the one beside it may be all that was missing, and would be missing again."""
        if self._flying_max > 1:
            log("out_of_memory", "two batches do not fit into memory together; from now on one runs at a time")
            self._flying_max = 1
