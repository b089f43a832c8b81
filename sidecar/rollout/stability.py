"""When both suffer, the surroundings do: blocks in which the reference is far from its own past count for nobody. Pure.

The candidate has no say in it. A version that brought the trouble shows in its own arm; what befalls the reference cannot be the
new version's doing, and a failure that both arms share would drown the version's own errors in equal numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from evenkeel.sidecar.rollout.e_values import Pair
from evenkeel.sidecar.rollout.rule import ERRORS

FAR = 10.0  # times the reference's own median rate
FEW = 5.0  # bad events that are no sign of anything, whatever the median is
RATE_MIN = 0.01  # a rate below this is never an outage
SATURATED = 0.2  # of requests failed. Near 1 no ratio can be told, and twice the rate is impossible
SATURATED_LATENCY = 0.4  # of answers above an edge that is meant for a tenth of them
SHARED = 0.5  # of the reference's rate
UNSTABLE_SHARE = 0.2  # of a stage's blocks


def median(values: Sequence[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def rate(block: Pair) -> float:
    return block.bad_r / max(1, block.n_r)


def is_shared(block: Pair) -> bool:
    """The candidate suffers as well. What befalls the reference alone is no excuse for the candidate, and speaks for it."""
    return block.bad_c * block.n_r >= SHARED * block.bad_r * block.n_c


def is_stable(metric: str, block: Pair, typical: float) -> bool:
    """Whether the reference is what it usually is. `typical` is the median of its rates."""
    seen = rate(block)
    far = max(RATE_MIN, FAR * typical + FEW / max(1, block.n_r))
    return seen <= (SATURATED if metric == ERRORS else SATURATED_LATENCY) and seen <= far
