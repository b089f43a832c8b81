"""What can be known, and when: the time that each verdict takes at a given traffic, said before the rollout begins. Pure.

The figures are those of the mean: the time at which evidence that grows as it does on average in quiet traffic reaches its line.
They are a little pessimistic where evidence is plenty. Noise takes more.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log

from evenkeel.sidecar.rollout.detector import FROM_THE_START, GAINS, WIN_CHANCES, Tier, tiers
from evenkeel.sidecar.rollout.outage import REQUESTS_MIN, WINDOWS
from evenkeel.sidecar.rollout.promotion import BLOCKS_MIN, BUDGET_GAINS, NOT_BAD_GAINS, SIGN_AT, STARTS
from evenkeel.sidecar.rollout.rule import ERRORS, Rule

RATIOS = (2.0, 3.0, 5.0, 10.0)
TIMES = 400  # counts of one block that are summed over; blocks with more are as good as certain


@dataclass(frozen=True, slots=True)
class PlannedTraffic:
    """Requests a second of the candidate and of the reference, and the rate of errors that the reference has."""

    candidate_rps: float
    reference_rps: float
    error_rate: float


@dataclass(frozen=True, slots=True)
class PlanLine:
    words: str
    seconds: float  # infinite: never


def plan(rule: Rule, traffic: PlannedTraffic) -> tuple[PlanLine, ...]:
    lines = [PlanLine("all answers fail: rolled back", outage_s(traffic))]
    lines += [PlanLine(f"{ratio:g} times the errors: rolled back", rollback_s(rule, traffic, ratio)) for ratio in RATIOS]
    lines += [
        PlanLine("equal: promoted as not worse", not_worse_s(rule, traffic)),
        PlanLine(f"equal: promoted as inside the budget of {rule.budget:.3g}", budget_s(rule, traffic)),
    ]
    return tuple(lines)


def outage_s(t: PlannedTraffic) -> float:
    slowest = min(t.candidate_rps, t.reference_rps)
    return WINDOWS * max(10.0, REQUESTS_MIN / slowest) if slowest else inf


def rollback_s(rule: Rule, t: PlannedTraffic, ratio: float) -> float:
    """By the faster tier."""
    return min(_tier_s(rule, t, ratio, tier) for tier in tiers(rule))


def _tier_s(rule: Rule, t: PlannedTraffic, ratio: float, tier: Tier) -> float:
    need = log(rule.rollback_at(ERRORS) / (tier.alpha_share * FROM_THE_START)) + log(len(GAINS))
    count_s = _over(need, max(_count_rate(t, ratio, tier.ratio, g) for g in GAINS))
    sign_s = _over(tier.start.sign_at + log(len(WIN_CHANCES)), _sign_rate(rule, t, ratio, tier.ratio, lost=False))
    return max(count_s, sign_s, tier.start.blocks_min * rule.block_s)


def not_worse_s(rule: Rule, t: PlannedTraffic) -> float:
    need = log(rule.promote_at / STARTS[0]) + log(len(NOT_BAD_GAINS))
    count_s = _over(need, max(_count_rate(t, 1.0, rule.bad_ratio, g) for g in NOT_BAD_GAINS))
    sign_s = _over(SIGN_AT + log(len(WIN_CHANCES)), _sign_rate(rule, t, 1.0, rule.bad_ratio, lost=True))
    return max(count_s, sign_s, *_floors(rule, t))


def budget_s(rule: Rule, t: PlannedTraffic) -> float:
    """The mean log of the budget's e-value grows by requests * (budget * (1 - g) + rate * log(g))."""
    growth = [
        rule.budget * (1 - g) + (t.error_rate * log(g) if t.error_rate else 0.0) for g in BUDGET_GAINS if g or not t.error_rate
    ]
    need = log(rule.promote_at) + log(len(BUDGET_GAINS))
    return max(_over(need, t.candidate_rps * max(growth, default=0.0)), *_floors(rule, t))


def _floors(rule: Rule, t: PlannedTraffic) -> tuple[float, ...]:
    slowest = min(t.candidate_rps, t.reference_rps)
    return rule.stage_s_min, BLOCKS_MIN * rule.block_s, _over(rule.requests_min, slowest)


def _over(amount: float, rate: float) -> float:
    return amount / rate if rate > 0 else inf


def _count_rate(t: PlannedTraffic, ratio: float, null: float, gain: float) -> float:
    """Mean log factor a second of one bet, when the true ratio is `ratio`."""
    ours, theirs = ratio * t.error_rate * t.candidate_rps, t.error_rate * t.reference_rps
    rate = null * t.candidate_rps + t.reference_rps
    return ours * log(gain) + (ours + theirs) * log(rate / (gain * null * t.candidate_rps + t.reference_rps))


def _sign_rate(rule: Rule, t: PlannedTraffic, ratio: float, null: float, *, lost: bool) -> float:
    """Mean log factor a second of the better bet on wins, over Poisson counts at equal exposure."""
    exposure = min(null * t.candidate_rps, t.reference_rps) * rule.block_s
    ours, theirs = exposure * ratio * t.error_rate / null, exposure * t.error_rate
    more, fewer = _chances(ours, theirs)
    win, loss = (fewer, more) if lost else (more, fewer)
    return max(win * log(2 * q) + loss * log(2 * (1 - q)) for q in WIN_CHANCES) / rule.block_s


def _chances(mean: float, other: float) -> tuple[float, float]:
    """That the first of two Poisson counts is larger, and that it is smaller."""
    first, second = _poisson(mean), _poisson(other)
    below = more = fewer = 0.0
    upto = 0.0
    for a, b in zip(first, second, strict=True):
        more, fewer = more + a * below, fewer + b * upto
        below, upto = below + b, upto + a
    return more, fewer


def _poisson(mean: float) -> list[float]:
    """Around the mean; means beyond what is summed over are scaled down, which makes the plan a little pessimistic."""
    mean = min(mean, TIMES / 2)
    terms = [exp(-mean)]
    for k in range(1, TIMES):
        terms.append(terms[-1] * mean / k)
    return terms


def text(rule: Rule, traffic: PlannedTraffic) -> str:
    """For people."""
    head = (
        f"{traffic.candidate_rps:g} requests a second in the candidate, {traffic.reference_rps:g} in the reference, "
        f"errors {traffic.error_rate:.3g}; until {_time(rule.max_s)} after the start"
    )
    lines = [head, *(f"  {_shown(line, rule)}" for line in plan(rule, traffic))]
    return "\n".join([*lines, "Means in quiet traffic; few rollouts take twice as long."])


def _shown(line: PlanLine, rule: Rule) -> str:
    late = " (later than --max-minutes)" if rule.max_s < line.seconds < inf else ""
    return f"{line.words:48} {_time(line.seconds)}{late}"


def _time(seconds: float) -> str:
    if seconds == inf:
        return "never"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
