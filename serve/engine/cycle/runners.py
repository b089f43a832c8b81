"""Which ways a model's batches and requests go, by what its backend can do."""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.serve.engine.cycle.engine_context import EngineContext
from evenkeel.serve.engine.cycle.launch_complete import LaunchAndComplete
from evenkeel.serve.engine.cycle.model_queue import ModelQueue
from evenkeel.serve.engine.cycle.open_streams import OpenStreams
from evenkeel.serve.engine.cycle.replies import Replies
from evenkeel.serve.engine.cycle.run_handler import RunHandler
from evenkeel.serve.engine.cycle.run_now import RunNow
from evenkeel.serve.engine.cycle.runner import Runner
from evenkeel.serve.engine.cycle.single_request import SingleRequest
from evenkeel.serve.engine.cycle.tensor_steps import TensorSteps


@dataclass(frozen=True, slots=True)
class Ways:
    """`single_request`: that of a request which is alone, where there is a shorter one. `streams`: of answers in parts."""

    runner: Runner
    single_request: SingleRequest | None = None
    streams: OpenStreams | None = None


def ways_of(queue: ModelQueue, replies: Replies, engine: EngineContext) -> Ways:
    replica = queue.replica
    if replica.signature is None:
        handler = RunHandler(queue, replies, engine)
        return Ways(handler, streams=handler.streams)
    steps = TensorSteps(replica, replies)
    now = RunNow(queue, steps, engine)
    if replica.capabilities.launching is not None:
        return Ways(LaunchAndComplete(queue, steps, engine, now))
    return Ways(now, SingleRequest(queue, now, engine) if replica.by_columns else None)
