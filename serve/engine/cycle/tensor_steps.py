"""The steps of a batch of tensors around the run itself, whichever way it runs: gather and look, check and scatter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evenkeel.serve.batching.item import Segment
from evenkeel.serve.engine.cycle.replies import Replies
from evenkeel.serve.engine.cycle.tensors import Array, Lend, single_rows
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.errors import EvenkeelError, ModelFailed
from evenkeel.serve.transport.descriptor import FINITE


class TensorSteps:
    """Of one tensor replica."""

    def __init__(self, replica: Replica, replies: Replies) -> None:
        assert replica.inputs and replica.outputs and replica.gather and replica.scatter, "tensor replicas have them all"
        self._inputs, self._outputs, self._gather, self._scatter = (
            replica.inputs,
            replica.outputs,
            replica.gather,
            replica.scatter,
        )
        self._by_columns, self._replies = replica.by_columns, replies

    def singles(self, segments: list[Segment]) -> Array | None:
        """Where the rows of the batch lie, if it can be handled by columns."""
        return single_rows(segments, self._outputs.row_bytes) if self._by_columns else None

    def gathered(
        self, segments: list[Segment], key: Any, singles: Array | None, lend: Lend | None = None
    ) -> Sequence[Array]:  # fmt: skip
        """The batch, fit to be run. Raises NotFinite."""
        batch = self._gather.batch(segments, key, singles, lend)
        self._gather.refuse_not_finite(batch)
        return batch

    def answer(
        self, segments: list[Segment], singles: Array | None, outputs: Sequence[Array], key: Any, started_s: float, rows: int
    ) -> EvenkeelError | None:
        """Check and scatter. Returns what is wrong with the outputs."""
        checked = self._scatter.checked(outputs, rows)
        if isinstance(checked, str):
            return ModelFailed(checked)
        flags = FINITE if self._scatter.finite(checked) else 0
        if singles is not None:
            self._scatter.singles(segments[0].item, checked[0], singles)
            self._replies.singles(segments, self._outputs.row_bytes, flags, started_s)
        else:
            self._each(segments, checked, key, flags, started_s)
        return None

    def _each(self, segments: list[Segment], outputs: list[Array], key: Any, flags: int, started_s: float) -> None:
        """Each request's share of the outputs, without padding, answered when its last part is done."""
        inputs, layout, scatter = self._inputs, self._outputs, self._scatter
        at, flags_of_batch = 0, flags
        for s in segments:
            flags = flags_of_batch
            share = [a[at : at + s.rows] for a in outputs] if layout.rows_axis else outputs
            at += s.rows
            outputs_of_all = self._replies.join(s, share)
            if outputs_of_all is not None:
                if s.rows != s.item.rows:  # other parts of it ran in other batches
                    flags = FINITE if scatter.finite(outputs_of_all) else 0
                if not inputs.fixed:
                    outputs_of_all = scatter.crop(outputs_of_all, inputs.row_dims(s.item.peer.memory, s.item.offset), key)
                self._replies.tensors(s.item, layout, outputs_of_all, flags, started_s)
