"""Absolute objectives: missing one rolls back by itself, whatever the reference does. Pure.

The null is "the candidate's rate of bad requests is the objective's share or less". The bets lie above it; their mean is an
e-value by 1 + x <= exp(x), at any time, for independent requests. As in detector.py every stretch of blocks that ends now is
asked, the starts share alpha, and without its best run of blocks the stretch must still miss the objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from evenkeel.sidecar.rollout import detector
from evenkeel.sidecar.rollout.rule import Objective, Rule

BLOCKS_MIN = 9
REST_AT = log(3)

Requests = tuple[int, int]  # all, and the bad ones


@dataclass(frozen=True, slots=True)
class ObjectiveEvidence:
    objective: Objective
    total: Requests = (0, 0)
    open: Requests = (0, 0)
    open_s: float = 0.0
    blocks: tuple[Requests, ...] = ()
    is_missed: bool = False

    def add(self, requests: int, bad: int, seconds: float, rule: Rule) -> ObjectiveEvidence:
        total, block = (self.total[0] + requests, self.total[1] + bad), (self.open[0] + requests, self.open[1] + bad)
        if self.open_s + seconds < rule.block_s - 1e-6:
            return ObjectiveEvidence(self.objective, total, block, self.open_s + seconds, self.blocks, self.is_missed)
        blocks = (*self.blocks, block)
        lengths = detector.stretches(rule, len(blocks), BLOCKS_MIN, BLOCKS_MIN)
        missed = any(_misses(rule, self.objective, blocks, n) for n in lengths)
        return ObjectiveEvidence(self.objective, total, blocks=blocks, is_missed=self.is_missed or missed)


def _misses(rule: Rule, objective: Objective, blocks: tuple[Requests, ...], length: int) -> bool:
    stretch, run = blocks[-length:], detector.trim_blocks(rule)
    starts = detector.FROM_THE_START if length == len(blocks) else (1 - detector.FROM_THE_START) / rule.blocks_planned
    if _log_e(stretch, objective) < log(len(rule.slo) / (rule.alpha * starts)):
        return False
    return min(_log_e(stretch[:i] + stretch[i + run :], objective) for i in range(length - run + 1)) >= REST_AT


def _log_e(blocks: tuple[Requests, ...], objective: Objective) -> float:
    return detector.over(sum(n for n, _ in blocks), sum(bad for _, bad in blocks), objective.share)
