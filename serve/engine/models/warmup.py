"""Warm-up that proves itself: every expected shape at every batch size in use, until it is as fast as it gets.

The plan (warmup_plan.py) says on what; the convergence test (convergence.py) says how long; the golden checks (golden.py) say
whether the answers are right. On the way the batch sizes of the first shape are measured, from which the cost model
starts. Everything is bounded: runs and seconds of one entry, seconds of all. What was left out is in the report.

What was made up never decides over life: where no made-up row runs, the model starts unwarmed, and where made-up rows reach
one another in a batch, they run one at a time; a warning says which sample to give. What a sample shows does decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from evenkeel.serve.batching.cost import Curve, best_rows
from evenkeel.serve.contract.manifest import ModelSample
from evenkeel.serve.contract.shape_uses import ShapeUse
from evenkeel.serve.engine.backends.base import Array, RawReply
from evenkeel.serve.engine.models import golden, made_up_rows, samples, warmup_plan
from evenkeel.serve.engine.models.convergence import Convergence
from evenkeel.serve.engine.models.golden import GoldenFailed
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup_plan import Shape
from evenkeel.serve.engine.models.warmup_report import Report, WarmupEntry
from evenkeel.serve.errors import BadModel, EvenkeelError

RUNS_MIN, RUNS_MAX = 2, 2000  # of one entry; the first run allocates and compiles, so one is never enough
ENTRY_SHARE = 0.1  # of the seconds of all warm-up that one entry may take beyond its first runs

# Measuring batch sizes. A doubled batch must serve 5 % more rows per second than the best so far; after three that do not,
# the climb ends. Two were too few: a model that gains 8 % at eight rows seems flat at two and four on a noisy machine.
GAIN_TO_GO_ON = 1.05
FLAT_MAX = 3
SWEEP_S_MAX = 2.0  # all measuring of batch sizes: start-up time is part of the product
# Then all sizes are measured again in turn, a little in every round, so that a slow moment (the fronts start at the same
# time, a neighbour wakes up) meets all of them; and of the rounds the lower quartile is believed, since noise only adds
# time. One size after the other, with medians, made a model of 0.11 ms look fifty times slower at two rows than at four.
ROUNDS_MIN, ROUNDS_MAX, ROUNDS_S, TURN_S = 3, 16, 0.15, 0.0005

# What gather, scatter and the records add to a batch of any size; learned better as soon as real batches run.
CYCLE_S = 60e-6

Progress = Callable[[int, int, str], None]
Clock = Callable[[], float]


class RowsDepend(Exception):
    """Made-up rows of a batch reach one another; for `sweep` and `warm_rest` alone."""


def silent(done: int, total: int, what: str) -> None: ...


class Warmup:
    """One warm-up of one replica. `report` is true at any moment, also after a failure."""

    def __init__(
        self, replica: Replica, used: Sequence[ShapeUse] = (), progress: Progress = silent, clock: Clock = time.perf_counter
    ) -> None:
        self.replica, self.report = replica, Report(len(replica.manifest.samples))
        self._used, self._progress, self._clock = used, progress, clock
        self._began_s = clock()
        self._end_s = self._began_s + replica.manifest.warmup_s
        self._prepared_s = 0.0  # spent on making the backend ready: as much again at most, and not at the cost of the rest
        self._done = 0

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
            self.report.seconds = self._clock() - self._began_s
        self._progress(self._done, self._done, "")
        return self.report

    def _step(self, count: int, what: str) -> None:
        """The total is what is known now: how many sizes are worth measuring shows on the way."""
        self._done += count
        total = len(self.replica.manifest.samples) + (len(sizes(self.replica.rows_max)) if self.replica.signature else 0)
        self._progress(self._done, max(total, self._done), what)

    # ---- tensors -------------------------------------------------------------------------------------------------

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
            chosen, warning = made_up_rows.chosen(replica, self._refused, lambda: self._clock() < self._end_s)
            self.report.warnings += [warning] if warning else []
        return chosen

    def _refused(self, shape: Shape) -> str:
        """Why its first row does not run, "" when it does."""
        try:
            self._one(shape, shape.rows[0])
        except BadModel as e:
            return e.message
        return ""

    def _leave_out(self, shape: Shape, why: str) -> None:
        self.report.notes.append(f"shape {shape.label} of the shape log is left out: {why}")

    def one_at_a_time(self, why: str) -> None:
        self.replica.rows_max = 1
        self.report.warnings.append(
            f"batching is off: {why}; add real rows as a sample, which decides: [[samples]] in model.toml"
        )

    def warm_rest(self) -> None:
        """What the samples and the sweep have not warmed yet."""
        replica = self.replica
        if replica.signature is None:
            self._warm_handler(replica.manifest.samples)
            return
        chosen = best_rows(replica.cost.default, replica.rows_max, replica.manifest.slo_s or float("inf"))
        for shape in self.shapes[1:]:
            try:
                self._warm_shape(shape, chosen)
            except RowsDepend as e:
                return self.one_at_a_time(str(e))
            except GoldenFailed:
                raise
            except BadModel as e:
                if shape.source != "shape log":
                    raise
                self._leave_out(shape, e.message)

    def _warm_shape(self, shape: Shape, chosen: int) -> None:
        """One more shape, at every batch size that service will use."""
        wanted = sorted({*sizes(chosen), *(n for n in shape.sizes if n <= self.replica.rows_max)})
        alone = self.alone(shape) if self._clock() < self._end_s else []
        measured: list[tuple[int, float]] = []
        for rows in wanted:
            if not self._has_time(shape, rows, measured):
                self._record(shape.label, rows, Convergence())
                continue
            seconds = self._entry(shape, rows, alone)
            measured.append((rows, seconds))
            self._step(1, f"{shape.label}, batch of {rows}")
        if measured:
            self.replica.cost.learn_shape(shape.key, measured)

    def _has_time(self, shape: Shape, rows: int, measured: Sequence[tuple[int, float]]) -> bool:
        """Whether a batch of `rows` may run: time is left, and it is not expected to take more than is left."""
        expected_s = measured[-1][1] * rows / measured[-1][0] if measured else 0.0
        return self._clock() + expected_s < self._end_s and shape.row_bytes * rows <= warmup_plan.WARM_BYTES_MAX

    def sweep(self) -> Iterator[tuple[int, float]]:
        """Measure batches of 1, 2, 4, … rows until larger ones bring nothing, and start the cost curve from it.

        Yields (rows, seconds) as it goes; the curve learned at the end may differ a little where sizes were close.
        """
        if not self.shapes:
            return
        replica, shape = self.replica, self.shapes[0]
        alone = self.alone(shape)
        end_s = min(self._end_s, self._clock() + SWEEP_S_MAX) - self._prepared_s
        measured: list[tuple[int, float]] = []
        best, flat = 0.0, 0
        for rows in sizes(replica.rows_max):
            if measured and not self._has_time(shape, rows, measured):
                break
            try:
                seconds = self._entry(shape, rows, alone)
            except RowsDepend as e:
                self.one_at_a_time(str(e))
                break
            except BadModel as e:
                if shape.source == "sample":
                    raise
                self.one_at_a_time(e.message)
                break
            measured.append((rows, seconds))
            yield rows, seconds
            flat = flat + 1 if rows / seconds < GAIN_TO_GO_ON * best else 0
            best = max(best, rows / seconds)
            if flat == FLAT_MAX or self._clock() - self._prepared_s > end_s:
                break
        if measured:
            replica.cost.learn(shape.key, self._in_turn(shape, measured))

    def _in_turn(self, shape: Shape, measured: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
        """The same sizes measured again, together."""
        batches = [(rows, shape.batch(rows), max(1, min(20, round(TURN_S / seconds)))) for rows, seconds in measured]
        took: dict[int, list[float]] = {rows: [] for rows, _ in measured}
        end_s = self._clock() + ROUNDS_S
        for nth in range(ROUNDS_MAX):
            if nth >= ROUNDS_MIN and self._clock() > end_s:
                break
            for rows, batch, times in batches if nth % 2 else reversed(batches):
                start_s = self._clock()
                for _ in range(times):
                    self.replica.run(batch)
                took[rows].append((self._clock() - start_s) / times)
        return [(rows, CYCLE_S + sorted(all_)[len(all_) // 4]) for rows, all_ in took.items()]

    def _entry(self, shape: Shape, rows: int, alone: Sequence[Sequence[Array]]) -> float:
        """Run one shape and size until its latency has settled; check its first answer. Seconds of a batch in service."""
        batch = shape.batch(rows)
        preparing = self.replica.capabilities.preparing
        if preparing is not None and self._prepared_s < self.replica.manifest.warmup_s:
            begun_s = self._clock()
            preparing.prepare(batch)
            took_s = self._clock() - begun_s
            self._prepared_s, self._end_s = self._prepared_s + took_s, self._end_s + took_s

        def run() -> Sequence[Array]:
            try:
                convergence: Sequence[Array] = self.replica.run(batch)
            except EvenkeelError as e:
                raise BadModel(f"a batch of {rows} rows made from {self._origin(shape)} fails: {e.message}") from e
            return convergence

        def check(outputs: Sequence[Array]) -> None:
            if rows > 1 and alone:
                self.judge(shape, self.checked(outputs, rows), alone)

        convergence = self._until_settled(run, check)
        self._record(shape.label, rows, convergence)
        return CYCLE_S + convergence.steady_s

    def judge(self, shape: Shape, together: Sequence[Array], alone: Sequence[Sequence[Array]]) -> None:
        """A batch against its rows. Made-up rows may lie where the model is ill-conditioned, so a small difference is told."""
        signature, tolerance = self.replica.signature, self.replica.manifest.batch_tolerance
        assert signature is not None, "asked of tensor replicas only"
        difference = golden.rows_differ(together, alone, signature, tolerance)
        if shape.source == "sample" or not difference:
            self.report.golden.judge_batch(self._origin(shape), difference)
        elif golden.rows_differ(together, alone, signature, tolerance, slack=golden.MADE_UP_SLACK):
            raise RowsDepend(difference)
        else:
            self.report.warnings.append(f"made-up input of shape {shape.label}: {difference}")

    def _until_settled(self, run: Callable[[], Any], check: Callable[[Any], None]) -> Convergence:
        convergence = Convergence()
        until_s = min(self._end_s, self._clock() + ENTRY_SHARE * self.replica.manifest.warmup_s)
        while True:
            start_s = self._clock()
            outputs = run()
            settled = convergence.add(self._clock() - start_s)
            if convergence.runs == 1:
                check(outputs)
            if settled or convergence.runs >= RUNS_MAX or (convergence.runs >= RUNS_MIN and self._clock() >= until_s):
                return convergence

    def checked(self, outputs: Sequence[Array], rows: int) -> list[Array]:
        assert self.replica.scatter is not None, "asked of tensor replicas only"
        checked = self.replica.scatter.checked(outputs, rows)
        if isinstance(checked, str):
            raise BadModel(checked)
        return checked

    def alone(self, shape: Shape) -> list[list[Array]]:
        """The outputs of each row of the shape on its own; empty when batches are not to be compared with them.

        Rows made by turning values round may be refused by the model, and are dropped then. A model that answers the
        same row differently each time (it samples, say) cannot be compared.
        """
        signature, rows = self.replica.signature, shape.rows
        assert signature is not None, "asked of tensor replicas only"
        alone = [self._one(shape, rows[0])]
        wrong = golden.not_finite(alone[0], signature)
        if wrong and shape.source != "sample":  # nobody said that made-up input makes sense
            self.report.notes.append(f"made-up input of shape {shape.label}: {wrong}")
        if not signature.rows_axis or self.replica.rows_max == 1:
            return []
        if golden.rows_differ(self._one(shape, rows[0]), [alone[0]], signature, self.replica.manifest.batch_tolerance):
            self.report.notes.append("the same row gives another answer each time: batches cannot be compared with rows")
            return []
        kept = [rows[0]]
        until_s = self._clock() + ENTRY_SHARE * self.replica.manifest.warmup_s
        for row in rows[1:]:
            if self._clock() >= until_s:
                break
            try:
                alone.append(self._one(shape, row))
            except BadModel:
                continue
            kept.append(row)
        shape.rows = kept
        return alone

    def _one(self, shape: Shape, row: list[Array]) -> list[Array]:
        try:
            outputs = self.replica.run(row)
        except EvenkeelError as e:
            raise BadModel(f"a row made from {self._origin(shape)} fails: {e.message}") from e
        return [np.array(a) for a in self.checked(outputs, 1)]  # a backend may give views of memory that it uses again

    def _origin(self, shape: Shape) -> str:
        """Where the input of an entry came from: what a message about it should name."""
        return {"sample": "the samples", "shape log": "the shape log", "signature": "the signature"}[shape.source]

    def _record(self, key: str, rows: int, convergence: Convergence) -> None:
        self.report.plan.append(WarmupEntry(key, rows, convergence.runs, round(convergence.seconds, 5), convergence.settled))

    # ---- handlers ------------------------------------------------------------------------------------------------

    def _warm_handler(self, all_: Sequence[ModelSample]) -> None:
        """Whole requests: nothing can be made up for them, so only samples warm a handler."""
        replica = self.replica
        for sample in all_:
            convergence = self._until_settled(partial(samples.raw_reply, replica, sample), lambda reply: None)
            self._record(sample.input.name, 1, convergence)
            if not replica.capabilities.batched:
                replica.cost.default = Curve([1], [convergence.steady_s])
        if replica.capabilities.batched and all_:
            self._compare_handler(all_)

    def _compare_handler(self, all_: Sequence[ModelSample]) -> None:
        """A batch of requests must answer each as it would be answered alone, if it answers alike twice."""
        replica = self.replica
        alone = [samples.raw_reply(replica, s) for s in all_]
        again = [samples.raw_reply(replica, s) for s in all_]
        if any(_reply_differs(a, b, s) for a, b, s in zip(alone, again, all_, strict=True)):
            self.report.notes.append("the same request gives another answer each time: batches cannot be compared")
            return
        for rows in sizes(min(self.replica.rows_max, 8))[1:]:
            chosen = [i % len(all_) for i in range(rows)]
            replies = [samples.whole(r) for r in replica.handle([samples.raw_request(all_[i]) for i in chosen])]
            for at, (i, reply) in enumerate(zip(chosen, replies, strict=True)):
                difference = str(reply) if isinstance(reply, Exception) else _reply_differs(reply, alone[i], all_[i])
                what = f"request {at} of a batch of {rows} (sample {all_[i].input.name}), compared with its answer alone"
                self.report.golden.judge_batch(what, difference)


def _reply_differs(got: RawReply, want: RawReply, sample: ModelSample) -> str | None:
    return golden.compare(got.body, want.body, want.content_type, sample.rtol, sample.atol)


def sizes(rows_max: int) -> list[int]:
    """1, 2, 4, … and `rows_max`."""
    chosen = [1]
    while chosen[-1] * 2 <= rows_max:
        chosen.append(chosen[-1] * 2)
    return chosen if chosen[-1] == rows_max else [*chosen, rows_max]
