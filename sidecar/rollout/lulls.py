"""A regression goes on; a burst is over after a while. Does some part of a stretch look as if nothing were wrong? Pure.

Two bursts of a few minutes look like one regression when only their sum is seen, but between them, before or after them the
candidate is what the reference is. A run of blocks is such a lull when both of these say so:

- the run's own events of both arms are nearer to equal rates than to the stretch's ratio, so that a swing that both arms share
  is no lull;
- the candidate's events alone are nearer, by the odds `exp(log_odds)`, to the reference's usual rate than to that ratio times it.

Where the reference is noisy a real regression has such parts as well, so `power` may lower the ratio that is compared with.
A stretch with a lull convicts nobody. That only takes convictions away, so no bound on false rollbacks is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log

from evenkeel.sidecar.rollout.e_values import NOTHING, Pair


@dataclass(frozen=True, slots=True)
class Lull:
    runs: tuple[int, ...] = ()  # lengths in blocks
    log_odds: float = 0.0
    power: float = 1.0  # of the stretch's ratio, which is compared with equal rates


NO_LULL = Lull()
ADDED = 0.5  # events of the reference: one that had none is not taken for one that never has any


def has_lull(blocks: Sequence[Pair], lull: Lull) -> bool:
    sums = list(accumulate(blocks, initial=NOTHING))
    whole = sums[-1]
    if whole.n_c == 0 or whole.n_r == 0:
        return False
    usual = (whole.bad_r + ADDED) / whole.n_r
    ratio = max(1.0, whole.bad_c / whole.n_c / usual) ** lull.power
    return any(
        is_lull(_difference(sums[i], sums[i + run]), ratio, usual, lull.log_odds)
        for run in lull.runs for i in range(len(blocks) - run + 1)
    )  # fmt: skip


def is_lull(run: Pair, ratio: float, usual: float, log_odds: float) -> bool:
    if run.n_c == 0 or run.n_r == 0:
        return False
    speaks = run.bad_c * log(ratio)
    together = speaks + (run.bad_c + run.bad_r) * log((run.n_c + run.n_r) / (ratio * run.n_c + run.n_r))
    alone = speaks - run.n_c * usual * (ratio - 1)
    return together < 0 and alone < -log_odds


def _difference(before: Pair, after: Pair) -> Pair:
    return Pair(after.n_c - before.n_c, after.n_r - before.n_r, after.bad_c - before.bad_c, after.bad_r - before.bad_r)
