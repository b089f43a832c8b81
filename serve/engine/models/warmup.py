"""Warm-up that proves itself: every expected shape at every batch size in use, until it is as fast as it gets.

The plan (warmup_plan.py) says on what; the convergence test (convergence.py) says how long, within bounds (warmup_time.py); the
proof of batches (batch_proof.py) and the golden checks (golden.py) say whether the answers are right. A handler is warmed by its
samples alone (handler_warmup.py). On the way the batch sizes of the first shape are measured, from which the cost model
starts. Everything is bounded: runs and seconds of one entry, seconds of all. What was left out is in the report.

What was made up never decides over life: where no made-up row runs, the model starts unwarmed, and where made-up rows reach
one another in a batch, they run one at a time; a warning says which sample to give. What a sample shows does decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from evenkeel.serve.batching.cost import best_rows
from evenkeel.serve.contract.shape_uses import ShapeUse
from evenkeel.serve.engine.models import made_up_rows, samples, warmup_plan
from evenkeel.serve.engine.models.batch_proof import CYCLE_S, BatchProof, RowsDepend
from evenkeel.serve.engine.models.golden import GoldenFailed
from evenkeel.serve.engine.models.handler_warmup import warm_handler
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup_plan import Shape, batch_sizes
from evenkeel.serve.engine.models.warmup_report import Report
from evenkeel.serve.engine.models.warmup_time import Clock, WarmupTime
from evenkeel.serve.errors import BadModel

# Measuring batch sizes. A doubled batch must serve 5 % more rows per second than the best so far; after three that do not,
# the climb ends. Two were too few: a model that gains 8 % at eight rows seems flat at two and four on a noisy machine.
GAIN_TO_GO_ON = 1.05
FLAT_MAX = 3
SWEEP_S_MAX = 2.0  # all measuring of batch sizes: start-up time is part of the product
# Then all sizes are measured again in turn, a little in every round, so that a slow moment (the fronts start at the same
# time, a neighbour wakes up) meets all of them; and of the rounds the lower quartile is believed, since noise only adds
# time. One size after the other, with medians, made a model of 0.11 ms look fifty times slower at two rows than at four.
ROUNDS_MIN, ROUNDS_MAX, ROUNDS_S, TURN_S = 3, 16, 0.15, 0.0005

Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, what: str) -> None: ...


class Warmup:
    """One warm-up of one replica. `report` is true at any moment, also after a failure."""

    def __init__(
        self, replica: Replica, used: Sequence[ShapeUse] = (), progress: Progress = silent, clock: Clock = time.perf_counter
    ) -> None:
        self.replica, self.report = replica, Report(len(replica.manifest.samples))
        self._used, self._progress, self._done = used, progress, 0
        self._time = WarmupTime(replica.manifest.warmup_s, clock)
        self.batches = BatchProof(replica, self.report, self._time)

    def run(self) -> Report:
        """Raises BadModel when the model fails or is wrong."""
        replica = self.replica
        try:
            self._step(0, "")
            for sample in replica.manifest.samples:
                samples.run_sample(replica, sample, self.report.golden)
                self._step(1, sample.input.name)
            if replica.signature is not None:
                for rows, _ in self.sweep():
                    self._step(1, f"batch of {rows}")
            self.warm_rest()
            replica.warmup_requests = samples.warmup_requests(replica, self.shapes[0] if self.shapes else None)
        finally:
            self.report.seconds = self._time.spent_s
        self._progress(self._done, self._done, "")
        return self.report

    def _step(self, count: int, what: str) -> None:
        """The total is what is known now: how many sizes are worth measuring shows on the way."""
        self._done += count
        total = len(self.replica.manifest.samples) + (len(batch_sizes(self.replica.rows_max)) if self.replica.signature else 0)
        self._progress(self._done, max(total, self._done), what)

    @cached_property
    def shapes(self) -> list[Shape]:
        """The shapes of the plan; the first is the one whose batch sizes are measured. Empty for a handler, and where no
        made-up row runs."""
        replica = self.replica
        if replica.signature is None or replica.gather is None:
            return []
        chosen, left_out = warmup_plan.shapes(replica.signature, replica.gather, replica.manifest.samples, self._used)
        if left_out:
            self.report.notes.append(left_out)
        while chosen and chosen[0].source == "shape log" and (why := self._refused(chosen[0])):
            self._leave_out(chosen.pop(0), why)
        if not chosen:
            chosen, warning = made_up_rows.chosen(replica, self._refused, lambda: self._time.is_left)
            self.report.warnings += [warning] if warning else []
        return chosen

    def _refused(self, shape: Shape) -> str:
        """Why its first row does not run, "" when it does."""
        try:
            self.batches.one(shape, shape.rows[0])
        except BadModel as e:
            return e.message
        return ""

    def _leave_out(self, shape: Shape, why: str) -> None:
        self.report.notes.append(f"shape {shape.label} of the shape log is left out: {why}")

    def warm_rest(self) -> None:
        """What the samples and the sweep have not warmed yet."""
        replica = self.replica
        if replica.signature is None:
            warm_handler(replica, self.report, self._time)
            return
        chosen = best_rows(replica.cost.default, replica.rows_max, replica.manifest.slo_s or float("inf"))
        for shape in self.shapes[1:]:
            try:
                self._warm_shape(shape, chosen)
            except RowsDepend as e:
                return self.batches.one_at_a_time(str(e))
            except GoldenFailed:
                raise
            except BadModel as e:
                if shape.source != "shape log":
                    raise
                self._leave_out(shape, e.message)

    def _warm_shape(self, shape: Shape, chosen: int) -> None:
        """One more shape, at every batch size that service will use."""
        wanted = sorted({*batch_sizes(chosen), *(n for n in shape.sizes if n <= self.replica.rows_max)})
        alone = self.batches.alone(shape) if self._time.is_left else []
        measured: list[tuple[int, float]] = []
        for rows in wanted:
            if not self._has_time(shape, rows, measured):
                self.report.leave_out(shape.label, rows)
                continue
            seconds = self.batches.entry(shape, rows, alone)
            measured.append((rows, seconds))
            self._step(1, f"{shape.label}, batch of {rows}")
        if measured:
            self.replica.cost.learn_shape(shape.key, measured)

    def _has_time(self, shape: Shape, rows: int, measured: Sequence[tuple[int, float]]) -> bool:
        """Whether a batch of `rows` may run: time is left, and it is not expected to take more than is left."""
        expected_s = measured[-1][1] * rows / measured[-1][0] if measured else 0.0
        return self._time.clock() + expected_s < self._time.end_s and shape.row_bytes * rows <= warmup_plan.WARM_BYTES_MAX

    def sweep(self) -> Iterator[tuple[int, float]]:
        """Measure batches of 1, 2, 4, … rows until larger ones bring nothing, and start the cost curve from it.

        Yields (rows, seconds) as it goes; the curve learned at the end may differ a little where sizes were close.
        """
        if not self.shapes:
            return
        replica, shape = self.replica, self.shapes[0]
        alone = self.batches.alone(shape)
        end_s = min(self._time.end_s, self._time.clock() + SWEEP_S_MAX) - self._time.prepared_s
        measured: list[tuple[int, float]] = []
        best, flat = 0.0, 0
        for rows in batch_sizes(replica.rows_max):
            if measured and not self._has_time(shape, rows, measured):
                break
            try:
                seconds = self.batches.entry(shape, rows, alone)
            except RowsDepend as e:
                self.batches.one_at_a_time(str(e))
                break
            except BadModel as e:
                if shape.source == "sample":
                    raise
                self.batches.one_at_a_time(e.message)
                break
            measured.append((rows, seconds))
            yield rows, seconds
            flat = flat + 1 if rows / seconds < GAIN_TO_GO_ON * best else 0
            best = max(best, rows / seconds)
            if flat == FLAT_MAX or self._time.clock() - self._time.prepared_s > end_s:
                break
        if measured:
            replica.cost.learn(shape.key, self._in_turn(shape, measured))

    def _in_turn(self, shape: Shape, measured: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
        """The same sizes measured again, together."""
        batches = [(rows, shape.batch(rows), max(1, min(20, round(TURN_S / seconds)))) for rows, seconds in measured]
        took: dict[int, list[float]] = {rows: [] for rows, _ in measured}
        end_s = self._time.clock() + ROUNDS_S
        for nth in range(ROUNDS_MAX):
            if nth >= ROUNDS_MIN and self._time.clock() > end_s:
                break
            for rows, batch, times in batches if nth % 2 else reversed(batches):
                start_s = self._time.clock()
                for _ in range(times):
                    self.replica.run(batch)
                took[rows].append((self._time.clock() - start_s) / times)
        return [(rows, CYCLE_S + sorted(all_)[len(all_) // 4]) for rows, all_ in took.items()]
