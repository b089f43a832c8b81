"""`/execution-parameters`: how batch transform should cut its input for this model on this machine. Pure.

The answer holds where the job itself says nothing. How many requests at once: one for each replica and one that is read or
written meanwhile. How large: what the platform sends by default, or less where memory, the queue, or the learned cost of
a row asks for less. The sizes of lines are not known beforehand, so they are taken to be as short as lines of numbers can be:
what fits into a request is then answered in time, whatever it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.settings import MIB, Limits

PAYLOAD_MB = 6  # the platform's own default
IN_FLIGHT_MB_MAX = 100  # the platform's bound on requests at once times their size
NUMBER_CHARS = 2  # a digit and what parts it from the next
COPIES = 8  # of a body while it is served: as it came, as Python values, as tensors, and the same for the answer
TIME_SHARE = 0.5  # of the deadline that the work on one request, and on those before it, should take
MULTI, SINGLE = "MULTI_RECORD", "SINGLE_RECORD"


@dataclass(frozen=True, slots=True)
class Known:
    """`signature` None: a handler, whose cost is one of requests, and whose requests are lines if it can read them."""

    signature: Signature | None
    engines: int
    row_cost_s: float


def parameters(costs: Known, limits: Limits) -> dict[str, int | str]:
    at_once = costs.engines + 1
    payload_mb = min(PAYLOAD_MB, IN_FLIGHT_MB_MAX // at_once, limits.body_bytes_max / MIB)
    if limits.memory_bytes:
        payload_mb = min(payload_mb, limits.memory_bytes / MIB / COPIES / at_once)
    strategy = MULTI
    if costs.signature is not None:
        payload_mb = min(payload_mb, _rows(costs, limits, at_once) * _line_bytes(costs.signature) / MIB)
        if not costs.signature.rows_axis or payload_mb < 1:  # one record is the least that can be asked for
            strategy = SINGLE
    return {
        "MaxConcurrentTransforms": at_once, "BatchStrategy": strategy, "MaxPayloadInMB": max(1, math.floor(payload_mb)),
    }  # fmt: skip


def _rows(costs: Known, limits: Limits, at_once: int) -> float:
    """Rows of one request that are answered in time, and that the queue takes beside those of the others."""
    busy_s = TIME_SHARE * limits.request_timeout_s * costs.engines / at_once
    in_time = busy_s / costs.row_cost_s if costs.row_cost_s > 0 else math.inf
    return min(in_time, limits.queue_rows_max / (at_once - 1))


def _line_bytes(signature: Signature) -> int:
    return NUMBER_CHARS * sum(math.prod(d for d in spec.dims if isinstance(d, int)) for spec in signature.inputs) or NUMBER_CHARS
