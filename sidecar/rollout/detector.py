"""Is the candidate worse? Two witnesses, over every stretch of blocks that ends now, so that what begins late is found as fast.

How it works. The evidence of each block is a factor for each bet (e_values.py). The count witness multiplies the factors of
the stretch. Each stretch is one possible start of a regression; the starts share alpha before any data are seen: three
quarters for "from the beginning", the rest in equal parts for every later block. The sum over starts of (share times
product) is again an e-value, and a stretch that reaches 1/alpha over its share makes that sum reach 1/alpha. So the bound on
false rollbacks holds at all times, and it holds the more where evidence is taken away, as it is three times:

- divided by the dispersion, so that noise of one arm is not taken for certainty;
- without its best `TRIM_S` seconds in a row it must still speak against the candidate, so that one burst is not enough;
- no part of it may look as if nothing were wrong (lulls.py), so that two bursts are not enough either.

The sign witness only asks in how many blocks the candidate had more bad events than `ratio` times the reference. It must
agree over the same stretch. It is a guard whose effect is measured, see docs/rollouts.md, and carries no share of the bound.

Two tiers: a large regression is convicted after a few blocks, a small one needs twice as many. There is one beginning and there
are sixty later starts, each of which may fall on two bursts, so a stretch that does not begin with the rollout must be longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, inf, log

from evenkeel.sidecar.rollout import dispersion
from evenkeel.sidecar.rollout.e_values import Pair, log_mean, outcome, ratio_factors
from evenkeel.sidecar.rollout.lulls import NO_LULL, Lull, has_lull
from evenkeel.sidecar.rollout.rule import Rule

GAINS = (1.8, 3.0, 6.0, 16.0)
WIN_CHANCES = (0.7, 0.92)
FROM_THE_START = 0.75  # of alpha
FIRST_STRETCHES = (9, 12, 19, 24, 36, 48, 72, 96, 144, 192, 288, 432, 648, 972, 1458)  # of revision 1
STRETCHES = (9, 12, 15, 19, 24, 30, 36, 48, 72, 96, 144, 192, 288, 432, 648, 972, 1458)  # blocks; and all there are
TRIM_S = 210.0  # a burst of three minutes touches seven blocks of half a minute
TRIM_BLOCKS_MAX = 7
LULL = 1.0  # what a lull takes from a conviction, on the scale that is shown
BUDGET_GAINS = (1.5, 3.0, 10.0)
BUDGET_AT = log(20)  # beyond doubt outside the budget: inside it nothing is rolled back


@dataclass(frozen=True, slots=True)
class Demand:
    """What a stretch must have beside the count witness's evidence. The logs are of e-values."""

    blocks_min: int
    sign_at: float  # that the sign witness must reach
    rest_at: float  # that must be left without the best run of blocks
    lull: Lull = NO_LULL


@dataclass(frozen=True, slots=True)
class Tier:
    ratio: float  # the null: the candidate has at most so many times the reference's rate
    alpha_share: float
    dispersion_z: float
    start: Demand  # of the stretch from the beginning
    late: Demand  # of all others
    divisor: Callable[[float], float] = dispersion.divisor


def tiers(rule: Rule) -> tuple[Tier, ...]:
    large, small = max(2.0, rule.margin), rule.margin
    if rule.revision == 1:
        nine, nineteen = Demand(9, log(30), 0.0), Demand(19, log(20), 1.0)
        return (
            Tier(large, 0.2, 3.0, nine, nine, dispersion.first_divisor),
            Tier(small, 0.8, 2.0, nineteen, nineteen, dispersion.first_divisor),
        )
    return (
        Tier(large, 0.2, 4.0, Demand(9, log(14), -1.0), Demand(12, log(30), 0.0, Lull((1, 2, 4), 3.0))),
        Tier(small, 0.8, 2.0, Demand(18, log(20), 1.0, STEADY), Demand(24, log(20), 1.0, STEADY)),
    )


STEADY = Lull((4, 8), 5.0, 0.7)


Row = tuple[float, ...]
START: Row = (0.0,) * (len(GAINS) + len(WIN_CHANCES))


@dataclass(frozen=True, slots=True)
class Suspicion:
    """How far each witness is from conviction, as logs: both at 0 or more convict."""

    count: float
    sign: float

    @property
    def convicts(self) -> bool:
        return self.count >= 0 and self.sign >= 0

    @property
    def weakest(self) -> float:
        return min(self.count, self.sign)


def factors(tier: Tier, block: Pair) -> Row:
    """Logs of one block's factors: of each bet on a ratio, then of each bet on wins."""
    return ratio_factors(block, tier.ratio, GAINS) + win_factors(block, tier.ratio, WIN_CHANCES)


def win_factors(block: Pair, ratio: float, chances: Sequence[float], *, lost: bool = False) -> Row:
    """Of bets that the candidate has more bad events than `ratio` times the reference, or with `lost` that it has fewer."""
    even = outcome(Pair(round(ratio * block.n_c), block.n_r, block.bad_c, block.bad_r))
    won, other = (even.loss, even.win) if lost else (even.win, even.loss)
    tie = max(0.0, 1.0 - won - other)
    return tuple(log(won * 2 * q + other * 2 * (1 - q) + tie) for q in chances)


def suspect(rule: Rule, metric: str, tier: Tier, rows: Sequence[Row], blocks: Sequence[Pair]) -> Suspicion:
    """The strongest case over all stretches. `rows` are the sums of factors after every block, the first one zeros."""
    early = _early(_case(rule, metric, tier, rows, blocks))
    for length in stretches(rule, len(blocks), tier.start.blocks_min, tier.late.blocks_min):
        case = _case(rule, metric, tier, rows, blocks[-length:])
        early = max(early, case, key=lambda s: s.weakest)
    return early


def _early(case: Suspicion) -> Suspicion:
    """What is shown before there are blocks enough: it convicts nobody."""
    return Suspicion(min(case.count, -1e-9), min(case.sign, -1e-9))


def stretches(rule: Rule, blocks: int, blocks_min: int, late_min: int) -> Iterator[int]:
    """Their lengths: of those that begin later, then of the one from the beginning."""
    lengths = FIRST_STRETCHES if rule.revision == 1 else STRETCHES
    yield from (length for length in lengths if late_min <= length < blocks)
    if blocks >= blocks_min:
        yield blocks


def _case(rule: Rule, metric: str, tier: Tier, rows: Sequence[Row], blocks: Sequence[Pair]) -> Suspicion:
    first, last = rows[len(rows) - 1 - len(blocks)], rows[-1]
    logs = [b - a for a, b in zip(first, last, strict=True)]
    is_whole = len(blocks) == len(rows) - 1
    share = FROM_THE_START if is_whole else (1 - FROM_THE_START) / rule.blocks_planned
    demand = tier.start if is_whole else tier.late
    need = log(rule.rollback_at(metric) / (tier.alpha_share * share))
    count, sign = log_mean(logs[: len(GAINS)]), log_mean(logs[len(GAINS) :]) - demand.sign_at
    if count < need or sign < 0:
        return Suspicion(count - need, sign)
    guarded = (
        count / dispersion.against(blocks, tier.dispersion_z, tier.divisor) - need,
        _without_best_run(rows[-len(blocks) - 1 :], trim_blocks(rule)) - demand.rest_at,
        _over_budget(blocks, rule.budget_of(metric)) - BUDGET_AT,
        -LULL if has_lull(blocks, demand.lull) else inf,
    )
    return Suspicion(min(guarded), sign)


def trim_blocks(rule: Rule) -> int:
    return min(TRIM_BLOCKS_MAX, ceil(TRIM_S / rule.block_s))


def _without_best_run(rows: Sequence[Row], run: int) -> float:
    """Each bet's evidence without the `run` blocks in a row that speak loudest."""
    if len(rows) <= run:
        return -inf
    left = []
    for bet in range(len(GAINS)):
        best = max(rows[i + run][bet] - rows[i][bet] for i in range(len(rows) - run))
        left.append(rows[-1][bet] - rows[0][bet] - best)
    return log_mean(left)


def _over_budget(blocks: Sequence[Pair], budget: float) -> float:
    if budget == 0:
        return inf
    return over(sum(p.n_c for p in blocks), sum(p.bad_c for p in blocks), budget)


def over(requests: int, bad: int, bound: float) -> float:
    """Log e-value against "the rate is at most `bound`": the mean over g of g**bad * exp(-requests * bound * (g - 1))."""
    return log_mean([bad * log(g) - requests * bound * (g - 1) for g in BUDGET_GAINS])
