"""Batches proven against their rows: each size of a shape runs until it is as fast as it gets, and its first answer must be
what its rows are answered alone.

What a sample shows decides. Made-up rows that reach one another only end batching, see RowsDepend.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.engine.models import golden
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup_plan import Shape
from evenkeel.serve.engine.models.warmup_report import Report
from evenkeel.serve.engine.models.warmup_time import WarmupTime
from evenkeel.serve.errors import BadModel, EvenkeelError

# What gather, scatter and the records add to a batch of any size; learned better as soon as real batches run.
CYCLE_S = 60e-6


class RowsDepend(Exception):
    """Made-up rows of a batch reach one another; the caller then ends batching, by `one_at_a_time`."""


class BatchProof:
    """Of one tensor replica. What it finds is in `report`."""

    def __init__(self, replica: Replica, report: Report, time: WarmupTime) -> None:
        self._replica, self._report, self._time = replica, report, time

    def entry(self, shape: Shape, rows: int, alone: Sequence[Sequence[Array]]) -> float:
        """Run one shape and size until its latency has settled; check its first answer. Seconds of a batch in service."""
        batch = shape.batch(rows)
        preparing = self._replica.capabilities.preparing
        if preparing is not None:
            self._time.prepare(partial(preparing.prepare, batch))

        def run() -> Sequence[Array]:
            try:
                convergence: Sequence[Array] = self._replica.run(batch)
            except EvenkeelError as e:
                raise BadModel(f"a batch of {rows} rows made from {shape.origin} fails: {e.message}") from e
            return convergence

        def check(outputs: Sequence[Array]) -> None:
            if rows > 1 and alone:
                self.judge(shape, self.checked(outputs, rows), alone)

        convergence = self._time.until_settled(run, check)
        self._report.record(shape.label, rows, convergence)
        return CYCLE_S + convergence.steady_s

    def judge(self, shape: Shape, together: Sequence[Array], alone: Sequence[Sequence[Array]]) -> None:
        """A batch against its rows. Made-up rows may lie where the model is ill-conditioned, so a small difference is told."""
        signature, tolerance = self._replica.signature, self._replica.manifest.batch_tolerance
        assert signature is not None, "asked of tensor replicas only"
        difference = golden.rows_differ(together, alone, signature, tolerance)
        if shape.source == "sample" or not difference:
            self._report.golden.judge_batch(shape.origin, difference)
        elif golden.rows_differ(together, alone, signature, tolerance, slack=golden.MADE_UP_SLACK):
            raise RowsDepend(difference)
        else:
            self._report.warnings.append(f"made-up input of shape {shape.label}: {difference}")

    def alone(self, shape: Shape) -> list[list[Array]]:
        """The outputs of each row of the shape on its own; empty when batches are not to be compared with them.

        Rows made by turning values round may be refused by the model, and are dropped then. A model that answers the
        same row differently each time (it samples, say) cannot be compared.
        """
        signature, rows = self._replica.signature, shape.rows
        assert signature is not None, "asked of tensor replicas only"
        alone = [self.one(shape, rows[0])]
        wrong = golden.not_finite(alone[0], signature)
        if wrong and shape.source != "sample":  # nobody said that made-up input makes sense
            self._report.notes.append(f"made-up input of shape {shape.label}: {wrong}")
        if not signature.rows_axis or self._replica.rows_max == 1:
            return []
        if golden.rows_differ(self.one(shape, rows[0]), [alone[0]], signature, self._replica.manifest.batch_tolerance):
            self._report.notes.append("the same row gives another answer each time: batches cannot be compared with rows")
            return []
        kept = [rows[0]]
        until_s = self._time.entry_end_s
        for row in rows[1:]:
            if self._time.clock() >= until_s:
                break
            try:
                alone.append(self.one(shape, row))
            except BadModel:
                continue
            kept.append(row)
        shape.rows = kept
        return alone

    def one(self, shape: Shape, row: list[Array]) -> list[Array]:
        """The outputs of one row. Raises BadModel."""
        try:
            outputs = self._replica.run(row)
        except EvenkeelError as e:
            raise BadModel(f"a row made from {shape.origin} fails: {e.message}") from e
        return [np.array(a) for a in self.checked(outputs, 1)]  # a backend may give views of memory that it uses again

    def checked(self, outputs: Sequence[Array], rows: int) -> list[Array]:
        assert self._replica.scatter is not None, "asked of tensor replicas only"
        checked = self._replica.scatter.checked(outputs, rows)
        if isinstance(checked, str):
            raise BadModel(checked)
        return checked

    def one_at_a_time(self, why: str) -> None:
        self._replica.rows_max = 1
        self._report.warnings.append(
            f"batching is off: {why}; add real rows as a sample, which decides: [[samples]] in model.toml"
        )
