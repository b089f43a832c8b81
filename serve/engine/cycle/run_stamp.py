"""Who runs now: what the status page says of the batch that runs, and what it keeps of one that ran.

The only writer of these cells. The supervisor tells from them whether an engine is stuck, fronts how long they will wait, and,
should the process end here, whose requests were in it. So a batch is stamped before anything of it reaches the model, and
those who were in the last one stay named until the next. Where batches are in flight on a device, the oldest is what progress is
measured by, and everybody in any of them is named: after a crash each may have been the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from evenkeel.serve.batching.item import Item, Segment
from evenkeel.serve.contract.status_page import RUN_EPOCH, RUN_SPANS, RUN_SPANS_MAX, StatusBlock, row_bucket, time_bucket
from evenkeel.serve.engine import cells
from evenkeel.serve.engine.cells import BATCHES, BEAT, RUN_DEADLINE, RUN_PREDICTED, RUN_STARTED
from evenkeel.serve.engine.cycle.row_table import span
from evenkeel.serve.engine.models.replica import Replica

PRICE_EVERY = 16  # batches between updates of the price of a row, which fronts use to predict waits
PRICE_ALWAYS_S = 0.01  # after a batch that took longer: it costs microseconds, and sixteen such batches are a long time
LONGEST_FADES = 1e-4  # of what the longest batch was above this one: one odd pause is forgotten after some 10,000

_RUN_ROWS, _RUN_AGAIN, _ROWS, _BATCH_ROWS, _RUN_TIME = (
    cells.RUN_ROWS,
    cells.RUN_AGAIN,
    cells.ROWS,
    cells.BATCH_ROWS,
    cells.RUN_TIME,
)
_RUN_SUM, _BUSY_SUM, _LONGEST, _ROW_COST = cells.RUN_SUM, cells.BUSY_SUM, cells.RUN_LONGEST, cells.ROW_COST


class InFlight(Protocol):
    """A batch that the device runs, or will."""

    segments: list[Segment]
    rows: int
    began_s: float
    predicted_s: float


class RunStamp:
    """One for an engine, whatever models it has: one thread runs them all."""

    def __init__(self, block: StatusBlock, epoch: int, clock: Callable[[], float]) -> None:
        self._count, self._value, self._epoch, self._clock = block.count, block.value, epoch, clock
        self._in_flight: Sequence[InFlight] = ()

    def batch(self, segments: Sequence[Segment], rows: int, predicted_s: float) -> float:
        """This batch runs from now on. Returns the time."""
        value, now_s = self._value, self._clock()
        value[RUN_PREDICTED] = predicted_s
        self._count[_RUN_ROWS] = rows
        self._count[_RUN_AGAIN] = segments[0].item.alone
        value[RUN_DEADLINE] = segments[0].item.deadline_s if len(segments) == 1 else _last_deadline_s(segments)
        value[BEAT] = value[RUN_STARTED] = now_s
        self._name(segments)
        return now_s

    def part(self, item: Item) -> float:
        """The generator of a stream runs from now on, for one part."""
        return self.batch([Segment(item, 0, 1)], 1, 0.0)

    def single(self, id: int, deadline_s: float, predicted_s: float, now_s: float) -> None:
        """A request of one row runs from now on, and nothing is in flight: what `batch` does, without detours."""
        count, value = self._count, self._value
        value[RUN_PREDICTED] = predicted_s
        value[RUN_DEADLINE] = deadline_s
        count[_RUN_ROWS], count[_RUN_AGAIN] = 1, 0
        value[BEAT] = value[RUN_STARTED] = now_s
        count[RUN_SPANS], count[RUN_EPOCH] = 0, self._epoch
        count[RUN_SPANS + 1] = count[RUN_SPANS + 2] = id
        count[RUN_SPANS] = 1

    def in_flight(self, batches: Sequence[InFlight]) -> None:
        """These are on the device from now on, the oldest first."""
        value, count = self._value, self._count
        self._in_flight = batches
        value[BEAT] = self._clock()
        if not batches:
            value[RUN_STARTED] = 0.0
            return
        oldest = batches[0]
        value[RUN_PREDICTED] = oldest.predicted_s
        value[RUN_DEADLINE] = _last_deadline_s(oldest.segments)
        count[_RUN_ROWS], count[_RUN_AGAIN] = oldest.rows, 0
        value[RUN_STARTED] = oldest.began_s
        self._name(())

    def over(self) -> None:
        """Nothing runs any more but what is in flight."""
        self._value[RUN_STARTED] = 0.0
        if self._in_flight:
            self.in_flight(self._in_flight)

    def part_over(self, began_s: float) -> None:
        self.over()
        self._value[_BUSY_SUM] += self._clock() - began_s

    def ran(self, replica: Replica, key: Hashable, rows: int, run_s: float, took_s: float) -> None:
        """Count a batch that is answered, and learn from it. `took_s` is what it kept the engine from others: gather and
        scatter are part of its cost."""
        count, value = self._count, self._value
        count[BATCHES] += 1
        count[_ROWS] += rows
        count[_BATCH_ROWS + row_bucket(rows)] += 1
        count[_RUN_TIME + time_bucket(run_s)] += 1
        value[_RUN_SUM] += run_s
        above_s = value[_LONGEST] - took_s
        value[_LONGEST] = took_s + above_s * (1 - LONGEST_FADES) if above_s > 0 else took_s
        value[_BUSY_SUM] += took_s
        replica.cost.observe(key, rows, took_s)
        if count[BATCHES] % PRICE_EVERY == 0 or took_s > PRICE_ALWAYS_S:
            value[_ROW_COST] = replica.cost.curve(key).cheapest_row(replica.rows_max)

    def beat(self, now_s: float) -> None:
        """This process lives."""
        self._value[BEAT] = now_s

    def leave(self) -> None:
        """In good order: nobody was in what ends this process."""
        if self._count[RUN_EPOCH] == self._epoch:
            self._count[RUN_SPANS] = 0

    def _name(self, segments: Sequence[Segment]) -> None:
        """If this ends the process, the fronts can tell who was in it."""
        count = self._count
        if self._in_flight:
            segments = [*(s for batch in self._in_flight for s in batch.segments), *segments]
        if len(segments) == 1:  # the usual batch, written without detours
            first = segments[0].item.id
            count[RUN_SPANS], count[RUN_EPOCH] = 0, self._epoch
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


def _last_deadline_s(segments: Sequence[Segment]) -> float:
    return max([s.item.deadline_s for s in segments])
