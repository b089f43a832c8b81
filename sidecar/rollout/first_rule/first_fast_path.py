"""The first rule's fast path: beyond doubt, five per cent of the last three windows, errors in three windows ever. Frozen."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from evenkeel.sidecar.rollout.e_values import Pair

FAR_WORSE_GAINS = (1.5, 2.0, 4.0, 10.0)
# The fast path: so bad that half a minute blocks are too slow, and not one burst alone.
FAR_WORSE_RATIO = 3.0
FAR_WORSE_AT = 1e6
FAR_WORSE_RATE = 0.05
FAR_WORSE_WINDOWS = 3


def far_worse(log_e: float, recent: Sequence[Pair], windows_with_bad: int) -> bool:
    """`recent` are the last three windows."""
    requests = sum(p.n_c for p in recent)
    rate = sum(p.bad_c for p in recent) / requests if requests else 0.0
    return log_e >= log(FAR_WORSE_AT) and rate >= FAR_WORSE_RATE and windows_with_bad >= FAR_WORSE_WINDOWS
