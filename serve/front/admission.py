"""How long a wait is accepted, and how many rows are surely below it. Pure.

How it works. Where few requests wait, each may wait for most of its deadline: a slow model, or a long request before it, is no
overload. Where many do, a few seconds of work are enough: a longer queue serves no one more, and it is what has to be served
first when a surge is over. Under an overload that lasts, a short queue that never runs dry does as well. So while requests have
to be refused the accepted wait shrinks, down to what keeps the engines busy, and once nobody has been refused for a while it
grows back. It shrinks slowly enough that a burst which just met the limit costs nobody a refusal afterwards: the queue is gone
before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Of the deadline, what the predicted wait may take. At 1 a long queue would be one of requests that reach the model just
# when they are too late; less refuses sooner. A fifth covers what the prediction is wrong by.
WAIT_SHARE_MAX = 0.8
FEW = 64  # requests for each engine, of one front
ROWS_SURE_MAX = 64  # below so many rows the wait is not looked at, whatever the model: others may have sent as many
STANDING_S = 0.25  # of work for each engine, kept under overload: more than any pause between two batches
STANDING_BATCHES = 4  # the same for slow models, in full batches
SHRINK = GROW = 0.5  # seconds a second
REFUSING_S = 1.0  # the last refusal is less than this ago: the overload lasts
CALM_S = 3.0  # it is more than this ago: over
# Whom a shrunk limit refuses may be callers whom the full one would serve, for ever. So after this long in which nobody would
# have had to wait longer than the full limit, it grows back whoever is refused; in an overload that lasts it shrinks again.
PROBE_S = 20.0
BELIEVED_MAX = 10.0  # times what was learned


@dataclass(frozen=True, slots=True)
class Accepted:
    """`limit_s`: the longest predicted wait that is accepted now."""

    full_s: float
    limit_s: float
    at_s: float
    refused_s: float = -1e9  # when a wait was last too long
    beyond_s: float = -1e9  # when it was last longer than the full limit

    @staticmethod
    def start(timeout_s: float, now_s: float, at_most_s: float = math.inf) -> Accepted:
        full_s = min(WAIT_SHARE_MAX * timeout_s, at_most_s)
        return Accepted(full_s, full_s, now_s)

    def refused(self, now_s: float, wait_s: float) -> Accepted:
        beyond_s = now_s if wait_s > self.full_s else self.beyond_s
        return Accepted(self.full_s, self.limit_s, self.at_s, now_s, beyond_s)

    def later(self, now_s: float, batch_s: float) -> Accepted:
        """`batch_s`: what a full batch takes."""
        least_s = min(self.full_s, max(STANDING_S, STANDING_BATCHES * batch_s))
        passed_s, calm_s = now_s - self.at_s, now_s - self.refused_s
        limit_s = self.limit_s
        lasts = now_s - self.beyond_s < PROBE_S
        if calm_s < REFUSING_S and lasts:
            limit_s = min(limit_s, max(least_s, limit_s - SHRINK * passed_s))
        elif calm_s > CALM_S or not lasts:
            limit_s += GROW * passed_s
        return Accepted(self.full_s, min(self.full_s, max(limit_s, least_s)), now_s, self.refused_s, self.beyond_s)


def rows_sure(limit_s: float, row_s: float) -> int:
    """So many rows ahead are served within the limit: no need to look closer."""
    return int(min(ROWS_SURE_MAX, limit_s / row_s)) if row_s > 0 else ROWS_SURE_MAX


@dataclass(frozen=True, slots=True)
class Running:
    """The batch that an engine runs. `predicted_s` 0: nothing is known of such batches."""

    rows: int = 0
    for_s: float = 0.0
    predicted_s: float = 0.0


def row_cost(learned_s: float, running: Running) -> float:
    """Seconds a row: as learned, but what the running batch has taken already is known better than any prediction. Where batches
    are predicted it is believed up to a point: one that stumbles says little of those behind it."""
    if not running.rows or running.for_s <= 0:
        return learned_s
    seen_s = running.for_s / running.rows
    return max(learned_s, seen_s if running.predicted_s <= 0 else min(seen_s, BELIEVED_MAX * learned_s))


def overrun(running: Running) -> float:
    """Seconds by which the running batch is late: whoever comes now has waited them already, so to speak."""
    return max(0.0, running.for_s - running.predicted_s) if running.predicted_s > 0 else 0.0
