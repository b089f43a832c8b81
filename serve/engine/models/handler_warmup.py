"""Warm-up of a handler: whole requests. Nothing can be made up for them, so only samples warm a handler."""

from __future__ import annotations

from functools import partial

from evenkeel.serve.batching.cost import Curve
from evenkeel.serve.contract.manifest import ModelSample
from evenkeel.serve.engine.backends.base import RawReply
from evenkeel.serve.engine.models import golden, samples
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup_plan import batch_sizes
from evenkeel.serve.engine.models.warmup_report import Report
from evenkeel.serve.engine.models.warmup_time import WarmupTime

COMPARED_MAX = 8  # requests of a batch that is compared with them


def warm_handler(replica: Replica, report: Report, time: WarmupTime) -> None:
    """Raises BadModel when it fails or is wrong."""
    for sample in replica.manifest.samples:
        convergence = time.until_settled(partial(samples.raw_reply, replica, sample), lambda reply: None)
        report.record(sample.input.name, 1, convergence)
        if not replica.capabilities.batched:
            replica.cost.default = Curve([1], [convergence.steady_s])
    if replica.capabilities.batched and replica.manifest.samples:
        compare_requests(replica, report)


def compare_requests(replica: Replica, report: Report) -> None:
    """A batch of requests must answer each as it would be answered alone, if it answers alike twice."""
    all_ = replica.manifest.samples
    alone = [samples.raw_reply(replica, s) for s in all_]
    again = [samples.raw_reply(replica, s) for s in all_]
    if any(_reply_differs(a, b, s) for a, b, s in zip(alone, again, all_, strict=True)):
        report.notes.append("the same request gives another answer each time: batches cannot be compared")
        return
    for rows in batch_sizes(min(replica.rows_max, COMPARED_MAX))[1:]:
        chosen = [i % len(all_) for i in range(rows)]
        replies = [samples.whole(r) for r in replica.handle([samples.raw_request(all_[i]) for i in chosen])]
        for at, (i, reply) in enumerate(zip(chosen, replies, strict=True)):
            difference = str(reply) if isinstance(reply, Exception) else _reply_differs(reply, alone[i], all_[i])
            what = f"request {at} of a batch of {rows} (sample {all_[i].input.name}), compared with its answer alone"
            report.golden.judge_batch(what, difference)


def _reply_differs(got: RawReply, want: RawReply, sample: ModelSample) -> str | None:
    return golden.compare(got.body, want.body, want.content_type, sample.rtol, sample.atol)
