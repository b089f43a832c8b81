"""Where an engine's time goes, step by step, in microseconds a request: a real engine and its model, whose turns are taken by
hand, and whose front is a script that writes requests into shared memory, as fronts do, and reads the replies.

Around the functions that begin a step (STEPS) is a stopwatch of CPU time, which takes from each the time of those that it
calls. What the stopwatch itself costs is measured on a function that does nothing, and taken off. What no step claims is the
rest: the loop between them. Reported is the mean of the fastest quarter of the turns, so the figures are those of a machine
that is little disturbed.

usage: python -m benchmarks.engine_time [--turns 400]
"""

from __future__ import annotations

import argparse
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.markdown import table
from benchmarks.table import handlers
from benchmarks.table.bodies import samples
from benchmarks.table.dialects import Plain
from benchmarks.table.workloads import WORKLOADS
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.cycle import run_handler
from evenkeel.serve.engine.cycle.model_cycle import ModelCycle
from evenkeel.serve.engine.cycle.model_queue import ModelQueue
from evenkeel.serve.engine.cycle.replies import Replies
from evenkeel.serve.engine.cycle.run_stamp import RunStamp
from evenkeel.serve.engine.cycle.single_request import BoundRowRunner, SingleRequest
from evenkeel.serve.engine.cycle.tensor_steps import TensorSteps
from evenkeel.serve.engine.models import replica
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup import Warmup
from evenkeel.serve.engine.peers import Peers
from evenkeel.serve.transport.channel import Channel
from tests.support.engine_bench import Bench, FrontEnd

RECEIVE, QUEUE, DECODE, STAMP = "receive", "take, queue, choose", "gather, or read the body", "stamp and count"
RUN, ENCODE, SEND, REST = "run", "scatter, reply", "send", "rest"
ORDER = (RECEIVE, QUEUE, DECODE, STAMP, RUN, ENCODE, SEND)
STEPS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    (RECEIVE, Peers, ("receive",)),
    (QUEUE, ModelCycle, ("took_block", "take")),
    (QUEUE, ModelQueue, ("next", "note", "tell", "expire")),
    (QUEUE, SingleRequest, ("serve",)),
    (DECODE, TensorSteps, ("singles", "gathered")),
    (DECODE, run_handler, ("raw_request",)),
    (RUN, BoundRowRunner, ("__call__",)),
    (STAMP, RunStamp, ("batch", "single", "over", "ran", "beat")),
    (ENCODE, TensorSteps, ("answer",)),
    (ENCODE, Replies, ("raw",)),
    (SEND, Channel, ("send",)),
)  # fmt: skip
WARM = 50


@dataclass(slots=True)
class StepTimes:
    """Seconds by step. `open`: what the functions that run now have called so far, as seconds and a number. A stopwatch adds
    `own_s` to its step, and `around_s` to the step that calls."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    open: list[tuple[float, int]] = field(default_factory=list)
    own_s: float = 0.0
    around_s: float = 0.0
    watched_s: float = 0.0  # of those that nobody else who is watched has called

    def around(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function under a stopwatch."""
        clock, open = time.thread_time, self.open

        @functools.wraps(function)
        def timed(*given: Any, **named: Any) -> Any:
            open.append((0.0, 0))
            began_s = clock()
            try:
                return function(*given, **named)
            finally:
                self.note(step, clock() - began_s)

        return timed

    def note(self, step: str, took_s: float) -> None:
        below_s, calls = self.open.pop()
        self.seconds[step] += took_s - below_s - calls * self.around_s - self.own_s
        if self.open:
            above_s, count = self.open[-1]
            self.open[-1] = above_s + took_s, count + 1
        else:
            self.watched_s += took_s + self.around_s

    def calibrate(self) -> None:
        """On a function that does nothing: the least of many."""
        probe, own, whole = self.around("", lambda: None), [], []
        for _ in range(50):
            self.clear()
            began_s = time.thread_time()
            for _ in range(100):
                probe()
            whole.append((time.thread_time() - began_s) / 100)
            own.append(self.seconds[""] / 100)
        self.own_s, self.around_s = min(own), min(whole) - min(own)
        self.clear()

    def clear(self) -> None:
        self.seconds.clear()
        self.watched_s = 0.0


@dataclass(frozen=True, slots=True)
class EngineWork:
    says: str
    workload: str
    together: int


WORKS = (
    EngineWork("T, 64 rows of one turn", "json-64", 64),
    EngineWork("T, one row alone", "json-1", 1),
    EngineWork("a handler of 0.1 ms, 8 bodies", "handler-64", 8),
)


def loaded(name: str) -> Replica:
    root = models.ensure()
    handlers.ensure(root)
    made = replica.load(root / WORKLOADS[name].model, LoadOptions(threads=1))
    Warmup(made, [], lambda done, total, what: None).run()
    return made


def sender(work: EngineWork, made: Replica, front: FrontEnd) -> Callable[[], object]:
    """What writes the requests of a turn."""
    if made.inputs is not None:
        rows = [[np.zeros((1, *made.inputs.dims[0]), np.float32)]] * work.together
        return lambda: front.submit_all(rows)
    workload = WORKLOADS[work.workload]
    sent = samples(workload, models.ensure() / workload.model)[0].value
    body = Plain("/invocations").request(workload.wire, sent).body
    return lambda: [front.submit_raw(body, content_type="application/json") for _ in range(work.together)]


def measured(work: EngineWork, turns: int) -> dict[str, float]:
    """Microseconds a request, by step."""
    times, made = StepTimes(), loaded(work.workload)
    times.calibrate()
    backend = (RUN, type(made.backend), ("handle",) if made.handler else ("run",))
    found: list[dict[str, float]] = []
    with Bench(made) as bench, patched(times, (*STEPS, backend)):
        front = bench.front(slot_bytes=0 if made.inputs is not None else 4096)
        send = sender(work, made, front)
        for turn in range(WARM + turns):
            send()
            times.clear()
            engine_s, answered = 0.0, 0
            while answered < work.together:
                began_s = time.thread_time()
                bench.cycle.turn(0)
                engine_s += time.thread_time() - began_s
                bench.clock.advance(0.001)  # it may wait a moment for more rows
                answered += len(front.replies())
            if turn >= WARM:
                found.append({**times.seconds, REST: engine_s - times.watched_s})
    fastest = sorted(found, key=lambda steps: sum(steps.values()))[: max(1, len(found) // 4)]
    return {step: 1e6 * mean(steps.get(step, 0.0) for steps in fastest) / work.together for step in (*ORDER, REST)}


@contextmanager
def patched(times: StepTimes, steps: Sequence[tuple[str, Any, tuple[str, ...]]]) -> Iterator[None]:
    kept = [(step, owner, name, getattr(owner, name)) for step, owner, names in steps for name in names]
    for step, owner, name, function in kept:
        setattr(owner, name, times.around(step, function))
    try:
        yield
    finally:
        for _, owner, name, function in kept:
            setattr(owner, name, function)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=400)
    turns = parser.parse_args().turns
    columns = {work.says: measured(work, turns) for work in WORKS}
    rows = [[step, *(f"{steps[step]:.1f}" for steps in columns.values())] for step in (*ORDER, REST)]
    rows.append(["all", *(f"{sum(steps.values()):.1f}" for steps in columns.values())])
    print("\n".join(table(["µs a request", *columns], rows)))


if __name__ == "__main__":
    main()
