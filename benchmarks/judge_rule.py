"""The judge's rule over arrays: many rollouts side by side, runs as rows, windows or blocks as columns.

The numbers come from sidecar/rollout; a test runs the same windows through both and compares verdicts and seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from scipy.special import bdtr

from evenkeel.sidecar.rollout import detector, dispersion, outage, promotion, stability
from evenkeel.sidecar.rollout.detector import Tier
from evenkeel.sidecar.rollout.lulls import ADDED, Lull
from evenkeel.sidecar.rollout.rule import ERRORS, Rule

Array = Any  # of numpy
WINDOW_S = 10


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests and bad events of candidate and reference."""

    n_c: Array
    n_r: Array
    c: Array
    b: Array

    def apply(self, function: Any) -> Counts:
        return Counts(*(function(x) for x in (self.n_c, self.n_r, self.c, self.b)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """By run: the second of the rollback and of the promotion, infinite where there was none. The first one ends the run."""

    rollback_s: Array
    promote_s: Array

    @property
    def rolled_back(self) -> Array:
        return np.isfinite(self.rollback_s) & (self.rollback_s <= self.promote_s)

    @property
    def promoted(self) -> Array:
        return self.promote_s < self.rollback_s


def judge(windows: Counts, rule: Rule, metric: str = ERRORS) -> Outcome:
    per_block = round(rule.block_s / WINDOW_S)
    blocks = windows.apply(lambda x: x[:, : x.shape[1] // per_block * per_block].reshape(len(x), -1, per_block).sum(axis=2))
    rates = blocks.b / np.maximum(1, blocks.n_r)
    typical = np.stack([np.median(rates[:, : i + 1], axis=1) for i in range(rates.shape[1])], axis=1)
    kept = is_stable(blocks, rates, typical, metric)
    counted = kept | (blocks.c * blocks.n_r < stability.SHARED * blocks.b * blocks.n_c)
    stable = blocks.apply(lambda x: np.where(counted, x, 0))
    back = np.minimum(outages(windows), np.min([convicted(stable, rule, t, metric) for t in detector.tiers(rule)], axis=0))
    return Outcome(back, proven(blocks, rates, kept, rule, metric))


def is_stable(blocks: Counts, rates: Array, typical: Array, metric: str) -> Array:
    far = np.maximum(stability.RATE_MIN, stability.FAR * typical + stability.FEW / np.maximum(1, blocks.n_r))
    return (rates <= (stability.SATURATED if metric == ERRORS else stability.SATURATED_LATENCY)) & (rates <= far)


def outages(k: Counts) -> Array:
    """Of windows that all have requests enough."""
    out = (k.c >= outage.BAD_SHARE * k.n_c) & (k.b < outage.FINE_SHARE * k.n_r)
    streak = out[:, 2:] & out[:, 1:-1] & out[:, :-2]
    return np.where(streak.any(axis=1), WINDOW_S * (streak.argmax(axis=1) + outage.WINDOWS), np.inf)


def log_mean(logs: Sequence[Array]) -> Array:
    return np.logaddexp.reduce(np.stack(list(logs)), axis=0) - log(len(logs))


def ratio_factors(k: Counts, null: float, gains: Sequence[float]) -> list[Array]:
    both, whole, bad = (k.n_c > 0) & (k.n_r > 0), null * k.n_c + k.n_r, k.c + k.b
    return [
        np.where(both, k.c * log(g) + bad * np.log(np.maximum(whole, 1) / np.maximum(g * null * k.n_c + k.n_r, 1e-9)), 0.0)
        for g in gains
    ]


def win_factors(k: Counts, ratio: float, *, lost: bool = False) -> list[Array]:
    n_c = np.rint(ratio * k.n_c)
    flip, seen = n_c > k.n_r, (n_c > 0) & (k.n_r > 0)
    small, large = np.where(flip, k.b, k.c), np.where(flip, k.c, k.b)
    keep = np.minimum(n_c, k.n_r) / np.maximum(1, np.maximum(n_c, k.n_r))
    below = np.where(small > 0, bdtr(np.minimum(small - 1, large).clip(0), large, keep), 0.0)
    below = np.where(small > large, 1.0, below)
    upto = np.where(small >= large, 1.0, bdtr(np.minimum(small, large), large, keep))
    win, loss = np.where(seen, np.where(flip, 1 - upto, below), 0.0), np.where(seen, np.where(flip, below, 1 - upto), 0.0)
    win, loss = (loss, win) if lost else (win, loss)
    tie = np.maximum(0.0, 1 - win - loss)
    return [np.log(win * 2 * q + loss * 2 * (1 - q) + tie) for q in detector.WIN_CHANCES]


def sums(x: Array) -> Array:
    return np.concatenate([np.zeros((len(x), 1)), np.cumsum(x, axis=1)], axis=1)


def convicted(k: Counts, rule: Rule, tier: Tier, metric: str) -> Array:
    """The second of the conviction by one tier."""
    counts = [sums(f) for f in ratio_factors(k, tier.ratio, detector.GAINS)]
    signs = [sums(f) for f in win_factors(k, tier.ratio)]
    found = np.full(len(k.c), np.inf)
    for end in range(tier.start.blocks_min, k.c.shape[1] + 1):
        for length in detector.stretches(rule, end, tier.start.blocks_min, tier.late.blocks_min):
            start = end - length
            share = detector.FROM_THE_START if start == 0 else (1 - detector.FROM_THE_START) / rule.blocks_planned
            need = log(rule.rollback_at(metric) / (tier.alpha_share * share))
            count = log_mean([f[:, end] - f[:, start] for f in counts])
            sign = log_mean([f[:, end] - f[:, start] for f in signs])
            rows = np.flatnonzero((count >= need) & (sign >= (tier.late if start else tier.start).sign_at) & np.isinf(found))
            if len(rows):
                guarded = _guarded(k, rule, tier, metric, counts, rows, start, end, count[rows], need)
                found[rows[guarded]] = end * rule.block_s
    return found


def _guarded(
    k: Counts, rule: Rule, tier: Tier, metric: str, counts: Sequence[Array], rows: Array, start: int, end: int, count: Array,
    need: float,
) -> Array:  # fmt: skip
    stretch = k.apply(lambda x: x[rows, start:end])
    run = detector.trim_blocks(rule)
    rest = []
    for f in counts:
        part = f[rows, start : end + 1]
        rest.append(part[:, -1] - part[:, 0] - (part[:, run:] - part[:, :-run]).max(axis=1))
    over = log_mean([
        stretch.c.sum(axis=1) * log(g) - stretch.n_c.sum(axis=1) * rule.budget_of(metric) * (g - 1) for g in detector.BUDGET_GAINS
    ])  # fmt: skip
    enough = (over >= detector.BUDGET_AT) | (rule.budget_of(metric) == 0)
    demand = tier.late if start else tier.start
    certain = count / against(stretch, tier.dispersion_z, tier.divisor) >= need
    return certain & (log_mean(rest) >= demand.rest_at) & enough & ~lulls(stretch, demand.lull)


def lulls(k: Counts, lull: Lull) -> Array:
    whole = k.apply(lambda x: x.sum(axis=1)[:, None])
    usual = (whole.b + ADDED) / np.maximum(1, whole.n_r)
    ratio = np.maximum(1.0, whole.c / np.maximum(1, whole.n_c) / usual) ** lull.power
    found = np.zeros(len(k.c), bool)
    for run in lull.runs:
        part = k.apply(lambda x, run=run: sums(x)[:, run:] - sums(x)[:, :-run])
        seen = (part.n_c > 0) & (part.n_r > 0)
        speaks = part.c * np.log(ratio)
        shift = np.log(np.maximum(1, part.n_c + part.n_r) / np.maximum(1, ratio * part.n_c + part.n_r))
        together, alone = speaks + (part.c + part.b) * shift, speaks - part.n_c * usual * (ratio - 1)
        found |= (seen & (together < 0) & (alone < -lull.log_odds)).any(axis=1)
    return found


def scatters(k: Counts, sizes: Sequence[int]) -> list[tuple[int, Array]]:
    """For each size of group the number of groups and the dispersion, not a number where it is not known."""
    found = []
    for size in sizes:
        groups = k.c.shape[1] // size
        if groups < dispersion.GROUPS_MIN:
            continue
        g = k.apply(lambda x, size=size, groups=groups: x[:, -groups * size :].reshape(len(x), groups, size).sum(axis=2))
        bad = g.c + g.b
        useful = (bad > 0) & (g.n_c > 0) & (g.n_r > 0)
        weight = np.where(useful, 1 / np.maximum(1, g.n_c + g.n_r), 0.0)
        ours, theirs = (g.c * g.n_r * weight).sum(axis=1), (g.b * g.n_c * weight).sum(axis=1)
        known = (ours > 0) & (theirs > 0)
        ratio = np.where(known, ours / np.where(known, theirs, 1.0), 1.0)[:, None]
        share = ratio * g.n_c / np.maximum(1e-12, ratio * g.n_c + g.n_r)
        excess = np.where(useful, (g.c - share * bad) ** 2 / np.maximum(1e-12, bad * share * (1 - share)), 0.0)
        found.append((groups, np.where(known, excess.sum(axis=1) / np.maximum(1, useful.sum(axis=1) - 1), np.nan)))
    return found


def against(k: Counts, z: float, divisor: Any) -> Array:
    worst = np.ones(len(k.c))
    for groups, value in scatters(k, dispersion.GROUPS):
        significant = value > 1 + z * np.sqrt(2 / max(1, groups - 1))
        worst = np.where(significant, np.fmax(worst, divisor(value)), worst)
    return worst


def proven(blocks: Counts, rates: Array, kept: Array, rule: Rule, metric: str) -> Array:
    """The second of the promotion: proof, time, requests, and nothing unstable."""
    found = np.full(len(blocks.c), np.inf)
    requests_c, requests_r = np.cumsum(blocks.n_c, axis=1), np.cumsum(blocks.n_r, axis=1)
    bad = np.cumsum(blocks.c, axis=1)
    ratio = rule.bad_ratio_of(metric)
    counts = ratio_factors(blocks, ratio, promotion.NOT_BAD_GAINS)
    signs = win_factors(blocks, ratio, lost=True)
    first = max(promotion.BLOCKS_MIN, round(rule.stage_s_min / rule.block_s))
    for end in range(first, blocks.c.shape[1] + 1):
        out = (~kept[:, :end]).sum(axis=1)
        calm = kept[:, end - 1] & (out <= stability.UNSTABLE_SHARE * end)
        enough = (requests_c[:, end - 1] >= rule.requests_min) & (requests_r[:, end - 1] >= rule.requests_min)
        rows = np.flatnonzero(np.isinf(found) & calm & enough)
        good = _within_budget(requests_c[rows, end - 1], bad[rows, end - 1], rule, metric)
        for start, share in promotion.STARTS.items():
            if end - start >= promotion.BLOCKS_MIN:
                good |= _not_worse(blocks, rates, counts, signs, rows, start, end, share, rule, metric)
        found[rows[good]] = end * rule.block_s
    return found


def _not_worse(
    blocks: Counts, rates: Array, counts: Sequence[Array], signs: Sequence[Array], rows: Array, start: int, end: int,
    share: float, rule: Rule, metric: str,
) -> Array:  # fmt: skip
    k, seen = blocks.apply(lambda x: x[rows, start:end]), rates[rows, start:end]
    stable = is_stable(k, seen, np.median(seen, axis=1)[:, None], metric)
    total = np.where(stable, k.c + k.b, np.nan)
    with np.errstate(all="ignore"):
        usual = np.maximum(1.0, np.nan_to_num(np.nanmedian(total, axis=1), nan=1.0))[:, None]
    weight = np.where(stable, np.minimum(1.0, promotion.WEIGHT_MAX * usual / np.maximum(1, k.c + k.b)), 0.0)
    whole = log_mean([(weight * f[rows, start:end]).sum(axis=1) for f in counts])
    sign = log_mean([np.where(stable, f[rows, start:end], 0.0).sum(axis=1) for f in signs])
    spread = in_favour(k, stable)
    count = np.where(whole > 0, whole / spread, whole) + log(share)
    return (count >= log(rule.promote_at)) & (sign >= promotion.SIGN_AT)


def in_favour(k: Counts, stable: Array) -> Array:
    """As the product has it, over the stable blocks alone: rows that left some out are moved together, by their number."""
    found = np.ones(len(k.c))
    for number in np.unique(stable.sum(axis=1)):
        rows = np.flatnonzero(stable.sum(axis=1) == number)
        if number:
            part = k.apply(lambda x, rows=rows, number=number: x[rows][stable[rows]].reshape(len(rows), number))
            value = np.ones(len(rows))
            for _, one in scatters(part, dispersion.GROUPS[:3]):
                value = np.fmax(value, one)
            found[rows] = value * (1 + dispersion.PROOF_MARGIN * np.sqrt(2 / max(1, number - 1)))
    return found


def _within_budget(requests: Array, bad: Array, rule: Rule, metric: str) -> Array:
    budget = rule.budget_of(metric)
    if budget == 0:
        return np.zeros(len(requests), bool)
    powers = [np.where(bad == 0, 0.0, bad * log(g) if g else -np.inf) for g in promotion.BUDGET_GAINS]
    logs = [p + requests * budget * (1 - g) for p, g in zip(powers, promotion.BUDGET_GAINS, strict=True)]
    return log_mean(logs) >= log(rule.promote_at)
