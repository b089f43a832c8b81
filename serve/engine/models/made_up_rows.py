"""Rows for a model that comes without samples: the first made-up ones that it takes, or none and a warning."""

from __future__ import annotations

from collections.abc import Callable

from evenkeel.serve.batching.cost import supposed
from evenkeel.serve.engine.models import warmup_plan
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup_plan import Shape


def chosen(replica: Replica, refused: Callable[[Shape], str], has_time: Callable[[], bool]) -> tuple[list[Shape], str]:
    """One shape whose row runs, or none, and what its owner should be told.

    `refused`: why a row does not run, "" when it does. Without a shape the model starts unwarmed, and its cost is a guess
    until requests have run.
    """
    signature, gather = replica.signature, replica.gather
    assert signature is not None and gather is not None, "asked of tensor replicas only"
    why, label = "there was no time", ""
    for shape in warmup_plan.made_up(signature, gather):
        if label and not has_time():
            break
        why, label = refused(shape), shape.label
        if not why:
            return [shape], ""
    replica.cost.default = supposed(replica.rows_max)
    wanted = ", ".join(s.describe(signature.rows_axis) for s in signature.inputs)
    return [], (
        f"not warmed: no made-up row runs (last tried: {label}: {why}); add one real request as a sample, in model.toml: "
        f'[[samples]] input = "sample.json", with {wanted}'
    )
