"""Who is accepted: by the wait before a request, by its own rows, and by how long many have been waiting. Pure.

How it works. Where few requests wait, each may wait for most of its deadline: a slow model, or a long request before it, is no
overload. Where many do, a few seconds of work are enough: a longer queue serves no one more, and it is what has to be served
first when a surge is over. Under an overload that lasts, a short queue that never runs dry does as well. So while requests have
to be refused the accepted wait shrinks, down to what keeps the engines busy, and once nobody has been refused for a while it
grows back. It shrinks slowly enough that a burst which just met the limit costs nobody a refusal afterwards: the queue is gone
before.

Many may wait for a good reason: a burst came upon an empty queue, and will be served in time if nothing follows. So the limit
for many holds only once the queue has not been empty for as long as that limit is.

A request of more rows than one batch takes turns with the others in the engine (batching/pending.py). So of its rows one batch
counts for those behind it, and it must itself expect to share the engine with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from evenkeel.serve.contract.status_page import FRONTS_MAX
from evenkeel.serve.errors import EvenkeelError, TooManyRows, WaitTooLong

# Of the deadline, what the predicted wait may take. At 1 a long queue would be one of requests that reach the model just
# when they are too late; less refuses sooner. A fifth covers what the prediction is wrong by.
WAIT_SHARE_MAX = 0.8
FEW = 64  # requests for each engine, of one front
QUIET = FEW // 4  # requests for each engine: with fewer a queue counts as empty. An overload that lasts keeps more of them
# Up to so many rows the wait is not looked at, whatever the model: others may have sent as many. Where rows cost little more are
# sure: the share of one worker of all that wait within the limit.
ROWS_SURE_LEAST = 64
STANDING_S = 0.25  # of work for each engine, kept under overload: more than any pause between two batches
STANDING_BATCHES = 4  # the same for slow models, in full batches
SHRINK = GROW = 0.5  # seconds a second
REFUSING_S = 1.0  # the last refusal is less than this ago: the overload lasts
CALM_S = 3.0  # it is more than this ago: over
# Whom a shrunk limit refuses may be callers whom the full one would serve, for ever. So after this long in which nobody would
# have had to wait longer than the full limit, it grows back anyone who is refused; in an overload that lasts it shrinks again.
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


@dataclass(frozen=True, slots=True)
class AcceptedWaits:
    """What may be waited where few requests wait, and where many do; and when the queue was last empty, or nearly so."""

    few: Accepted
    many: Accepted
    burst_s: float  # so long after it was empty, a queue of many is one burst
    empty_s: float

    @staticmethod
    def start(timeout_s: float, now_s: float, many_s: float) -> AcceptedWaits:
        """`many_s`: EVENKEEL_QUEUE_WAIT_S."""
        return AcceptedWaits(Accepted.start(timeout_s, now_s), Accepted.start(timeout_s, now_s, many_s), many_s, now_s)

    @property
    def least_s(self) -> float:
        """Nobody is refused for a shorter wait."""
        return min(self.few.limit_s, self.many.limit_s)

    def many_waiting(self, many: bool, now_s: float) -> bool:
        """Whether the limit for many holds."""
        return many and now_s - self.empty_s >= self.burst_s

    def limit_s(self, many_waiting: bool) -> float:
        return self.many.limit_s if many_waiting else self.few.limit_s

    def refused(self, many_waiting: bool, now_s: float, wait_s: float) -> AcceptedWaits:
        if many_waiting:
            return replace(self, many=self.many.refused(now_s, wait_s))
        return replace(self, few=self.few.refused(now_s, wait_s))

    def later(self, now_s: float, batch_s: float, empty: bool) -> AcceptedWaits:
        few, many = self.few.later(now_s, batch_s), self.many.later(now_s, batch_s)
        return AcceptedWaits(few, many, self.burst_s, now_s if empty else self.empty_s)


def is_empty(waiting: int, engines: int) -> bool:
    """Whether a queue of so many requests counts as empty."""
    return waiting < QUIET * max(1, engines)


def rows_sure(limit_s: float, row_s: float) -> int:
    """So many rows ahead are served within the limit: no need to look closer."""
    if row_s <= 0:
        return ROWS_SURE_LEAST
    in_time = limit_s / row_s
    return int(min(in_time, max(ROWS_SURE_LEAST, in_time / FRONTS_MAX)))


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
    """Seconds by which the running batch is late. The predicted wait does not include them."""
    return max(0.0, running.for_s - running.predicted_s) if running.predicted_s > 0 else 0.0


# ---- the decision ----------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """A request that wants to be accepted. `waiting`: the requests of this front that are to be answered, over all engines."""

    rows: int
    left_s: float  # until its deadline
    timeout_s: float  # from its beginning to its deadline
    waiting: int


class EngineLoad(NamedTuple):
    """The least loaded engine, at one moment. `row_s` 0: nobody knows what a row costs."""

    engines: int  # that are up
    ahead: int  # rows that one who comes now waits behind
    rows: int  # all that are there
    large: int  # requests there that take turns
    turn_rows: int  # the largest batch
    row_s: float
    running: Running
    untried_s: float  # for so long requests have been refused for their own rows, and no batch has run


class Accept(NamedTuple):
    """By the least loaded engine."""


class Hold(NamedTuple):
    """No engine is up: until one is."""


class Refuse(NamedTuple):
    error: EvenkeelError
    wait_s: float
    many_waiting: bool
    own_rows: bool = False  # for them, and not for the wait


def decide(asked: Asked, load: EngineLoad | None, waits: AcceptedWaits, now_s: float) -> Accept | Hold | Refuse:
    """Nothing is refused on a prediction where the cost of a row is unknown, and nothing for its own rows that fits one batch:
    what a batch costs could not be learned anew otherwise."""
    if load is None:
        return Hold()
    many = asked.waiting >= FEW * load.engines and load.row_s > 0
    # Where many wait, seconds are few, and one batch that stumbles is no surge: only what was learned counts.
    row_s = load.row_s if many else row_cost(load.row_s, load.running)
    late_s = overrun(load.running)
    wait_s = load.ahead * row_s + late_s
    many_waiting = waits.many_waiting(many, now_s)
    limit_s = waits.limit_s(many_waiting)
    if wait_s > limit_s:
        words = (f"the wait would be about {wait_s:.1f} s; {limit_s:.2g} s are accepted now, with a deadline of "
                 f"{asked.timeout_s:g} s")  # fmt: skip
        return Refuse(WaitTooLong(words, retry_after_s=max(1, math.ceil(load.ahead * load.row_s))), wait_s, many_waiting)
    if asked.rows > load.turn_rows and load.row_s > 0:
        return _decide_large(asked, load, late_s)
    return Accept()


def _decide_large(asked: Asked, load: EngineLoad, late_s: float) -> Accept | Refuse:
    """By the time until its last row is done: its own rows, and the turns of others meanwhile."""
    in_time_s = WAIT_SHARE_MAX * asked.timeout_s - (asked.timeout_s - asked.left_s)
    room = int(max(0.0, in_time_s - late_s) / load.row_s)
    turns = min(load.rows, load.ahead + load.large * (asked.rows - load.turn_rows))
    if asked.rows + turns <= room:
        return Accept()
    if load.untried_s >= PROBE_S and not load.rows:  # the cost may have been that of a bad moment: it is learned anew
        return Accept()
    alone_s = asked.rows * load.row_s
    fit = max(load.turn_rows, room - load.rows, (room - load.ahead + load.large * load.turn_rows) // (1 + load.large))
    words = (f"{asked.rows} rows would take about {alone_s + turns * load.row_s:.1f} s of a deadline of {asked.timeout_s:g} s; "
             f"about {fit} rows would fit now")  # fmt: skip
    if alone_s > WAIT_SHARE_MAX * asked.timeout_s:  # on an idle engine, too
        return Refuse(TooManyRows(words), alone_s, many_waiting=False, own_rows=True)
    retry_s = max(1, math.ceil(turns * load.row_s))
    return Refuse(WaitTooLong(words, retry_after_s=retry_s), alone_s, many_waiting=False, own_rows=True)


def spread(ahead: Sequence[int], count: int) -> list[int]:
    """How many of `count` single rows each engine gets, by the rows that are ahead there: as even as can be."""
    shares = [0] * len(ahead)
    order = sorted(range(len(ahead)), key=ahead.__getitem__)
    level, left = 0, count
    for filled in range(len(order), 0, -1):  # the fullest engines may have too much already to get any
        level, left = divmod(count + sum(ahead[i] for i in order[:filled]), filled)
        if level >= ahead[order[filled - 1]]:
            break
    for n, i in enumerate(order[:filled]):
        shares[i] = level - ahead[i] + (n < left)
    return shares
