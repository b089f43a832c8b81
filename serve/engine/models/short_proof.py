"""A model that is loaded while others serve: proven by its samples and a batch of two, in milliseconds. What its batches cost
is learned as they run."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.serve.batching.cost import FIRST_BATCHES, Curve
from evenkeel.serve.contract import manifest as manifests
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.models import replica as replicas
from evenkeel.serve.engine.models import samples
from evenkeel.serve.engine.models.batch_proof import CYCLE_S, RowsDepend
from evenkeel.serve.engine.models.startup import Ledger
from evenkeel.serve.engine.models.warmup import Warmup
from evenkeel.serve.errors import BadModel, EvenkeelError

if TYPE_CHECKING:
    from evenkeel.serve.contract.model_order import ModelOrder
    from evenkeel.serve.engine.models.replica import Replica
    from evenkeel.serve.settings import EngineSettings

SAMPLES_MAX = 8  # of a model that are tried
UNKNOWN_S = 1e-3  # of one row, where none was run
LARGER_COSTS = 1.01  # times as much as one row: supposed of a full batch until some have run


def loaded_briefly(settings: EngineSettings, order: ModelOrder) -> Replica:
    """Raises BadModel, and whatever foreign code raises."""
    cache = Path(settings.cache_dir) if settings.cache_dir else None
    options = LoadOptions(
        settings.threads, settings.device, settings.sharers, settings.require_gpu, Ledger(), False, settings.hugging_face, cache
    )
    manifest = manifests.load(Path(order.folder), order.name, order.version, order.program)
    if manifest.backend == "handler":
        raise BadModel("models with Python code cannot be loaded beside others yet: serve it in a container of its own")
    replica = replicas.load(Path(order.folder), options, order.name, order.version, order.program)
    replica.number, replica.revision, replica.counters = order.number, order.generation, order.counters
    if order.name:  # by which it is asked for, whatever its manifest calls it
        replica.manifest = dataclasses.replace(replica.manifest, name=order.name)
    if 0 < order.rows_max < replica.rows_max:
        replica.rows_max = replica.rows_fit = order.rows_max
    prove_briefly(replica)
    return replica


def prove_briefly(replica: Replica) -> None:
    """Raises BadModel when the model fails or is wrong."""
    warmup = Warmup(replica)
    for sample in replica.manifest.samples[:SAMPLES_MAX]:
        samples.run_sample(replica, sample, warmup.report.golden)
    if replica.signature is None:
        return
    if not warmup.shapes:  # no made-up row runs: what a request brings may
        replica.cost.default = curve_of(UNKNOWN_S, replica.rows_max)
        return
    shape = warmup.shapes[0]
    alone = warmup.batches.alone(shape)  # the first runs, which allocate
    began_s = time.perf_counter()
    replica.run(shape.batch(1))
    seconds = time.perf_counter() - began_s
    if alone and replica.rows_max > 1:
        try:
            outputs = warmup.batches.checked(replica.run(shape.batch(2)), 2)
        except EvenkeelError as e:
            raise BadModel(f"a batch of 2 rows fails: {e.message}") from e
        try:
            warmup.batches.judge(shape, outputs, alone)
        except RowsDepend as e:
            warmup.batches.one_at_a_time(str(e))
    replica.cost.default = curve_of(seconds, replica.rows_max)


def curve_of(seconds: float, rows_max: int) -> Curve:
    one_s = CYCLE_S + seconds
    if rows_max == 1:
        return Curve([1], [one_s])
    return Curve([1, rows_max], [one_s, one_s * LARGER_COSTS], guesses=FIRST_BATCHES)
