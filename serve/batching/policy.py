"""Run now, or wait for more rows? The one decision of dynamic batching, as a pure function.

Greedy: an engine that is free takes what is queued. It waits only when that pays, which is when three things hold:
the learned cost says that rows per second rise by more than the wait costs, more rows are really expected (callers
whose answers have just gone out come back; a lone caller never does while it waits for us), and every deadline and
the latency objective still hold. There is no fixed wait to set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from evenkeel.serve.batching.cost import Curve, best_rows, explore

WAIT_SHARE_MAX = 0.5  # never wait longer than this share of the batch's own time: bounds the cost of a wrong guess
WAIT_S_MAX = 0.010
GAIN_MIN = 1.15  # waiting must promise 15 % more rows per second, or arrival noise would decide
SLACK_S = 0.002  # kept free before a deadline for the way back


@dataclass(frozen=True, slots=True)
class Policy:
    """`slo_s` is the latency objective of the manifest; None means that only deadlines bound a batch's time."""

    rows_max: int
    slo_s: float | None


class QueueView(NamedTuple):
    """A snapshot of one shape's queue."""

    rows: int
    oldest_s: float  # when the oldest request came
    deadline_s: float  # the earliest deadline
    rate: float  # rows per second that have been arriving lately
    expected: float  # rows that may still come soon: lately queued at most, less those queued now
    waited_s: float  # how long this batch has been held back already


class Run(NamedTuple):
    rows: int


class Wait(NamedTuple):
    until_s: float


ONE_ROW = Run(1)


def next_step(view: QueueView, now_s: float, curve: Curve, policy: Policy) -> Run | Wait:
    """Decide for a free engine with a queue of at least one row."""
    assert view.rows > 0, "the caller sleeps while nothing is queued"
    if view.rows == 1 and view.expected < 1:
        return ONE_ROW  # the most common question of a quiet server, and nothing to choose from
    within_s = _time_left(view, now_s, curve, policy)
    rows = best_rows(curve, min(view.rows, policy.rows_max), within_s)
    if rows < view.rows or rows >= policy.rows_max:
        # More waits already than is worth running together.
        return Run(explore(curve, rows, min(view.rows, policy.rows_max), within_s))
    wait_s = _worthwhile_wait(view, curve, policy, within_s)
    return Wait(now_s + wait_s) if wait_s > 0 else Run(rows)


def _time_left(view: QueueView, now_s: float, curve: Curve, policy: Policy) -> float:
    """Seconds that a batch may take so that its oldest member still meets its deadline and the objective, each if it can.

    What even one row alone would miss is missed, and the best for all is to go on at full speed. Else an overload would
    never end: small, slow batches for the sake of a request that is late already, while those behind it become late.
    """
    left, least_s = math.inf, curve.predict(1)
    to_deadline = view.deadline_s - now_s - SLACK_S
    if to_deadline >= least_s:
        left = to_deadline
    if policy.slo_s is not None:
        to_objective = view.oldest_s + policy.slo_s - now_s - SLACK_S
        if to_objective >= least_s:
            left = min(left, to_objective)
    return left


def _worthwhile_wait(view: QueueView, curve: Curve, policy: Policy, within_s: float) -> float:
    """Seconds to wait for the rows that are expected, or 0 when running now serves more rows per second."""
    if view.expected < 1 or view.rate <= 0:
        return 0.0
    more = min(view.expected, policy.rows_max - view.rows)
    wait_s = more / view.rate
    run_now_s = curve.predict(view.rows)
    limit_s = min(WAIT_S_MAX, WAIT_SHARE_MAX * run_now_s) - view.waited_s
    if wait_s > limit_s:
        return 0.0
    run_later_s = curve.predict(int(view.rows + more))
    if wait_s + run_later_s > within_s:
        return 0.0
    gain = (view.rows + more) / (wait_s + run_later_s) / (view.rows / run_now_s)
    return wait_s if gain >= GAIN_MIN else 0.0
