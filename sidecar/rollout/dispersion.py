"""How much more the candidate's share of bad events scatters than independent requests would. Pure.

Pearson's dispersion around the common ratio (Mantel and Haenszel's), over blocks and over groups of blocks: errors that come
in clumps, and noise that lasts for minutes, make counts look more certain than they are. Evidence is divided by what is
found. The blocks are few, so the figure itself is uncertain: against the candidate it counts once it is significant, and for
the candidate it is taken at its upper end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

from evenkeel.sidecar.rollout.e_values import NOTHING, Pair

GROUPS = (1, 2, 4, 8)  # of blocks: noise with a long memory only shows in the long ones
GROUPS_MIN = 4
INFLATION = 2.5  # of what a significant dispersion has above 1: it was measured over as few blocks as it is used for
FIRST_INFLATION = 1.5
PROOF_MARGIN = 1.0  # standard deviations of the dispersion itself, added where it would help the candidate


def divisor(value: float) -> float:
    """What evidence is divided by, where the dispersion is `value` and that is significant."""
    return 1 + INFLATION * (value - 1)


def first_divisor(value: float) -> float:
    """Of logs that were written before."""
    return FIRST_INFLATION * value


def against(blocks: Sequence[Pair], z: float, of: Callable[[float], float]) -> float:
    """What evidence against the candidate is divided by: 1 unless some dispersion is `z` standard deviations above 1."""
    factor = 1.0
    for groups in _grouped(blocks, GROUPS):
        value = scatter(groups)
        if value is not None and value > 1 + z * _deviation(len(groups)):
            factor = max(factor, of(value))
    return factor


def in_favour(blocks: Sequence[Pair]) -> float:
    """What evidence for the candidate is divided by: the largest dispersion, and what its few blocks leave open."""
    measured = [scatter(groups) for groups in _grouped(blocks, GROUPS[:3])]
    return max([1.0, *(d for d in measured if d is not None)]) * (1 + PROOF_MARGIN * _deviation(len(blocks)))


def _deviation(count: int) -> float:
    return sqrt(2 / max(1, count - 1))


def _grouped(blocks: Sequence[Pair], sizes: Sequence[int]) -> list[list[Pair]]:
    """The newest blocks in groups of each size, as far as there are enough groups."""
    return [
        [sum(blocks[i : i + size], NOTHING) for i in range(len(blocks) % size, len(blocks), size)]
        for size in sizes if len(blocks) // size >= GROUPS_MIN
    ]  # fmt: skip


def scatter(groups: Sequence[Pair]) -> float | None:
    """None where one arm had no bad event at all, so that their ratio is not known."""
    useful = [p for p in groups if p.bad_c + p.bad_r and p.n_c and p.n_r]
    ours = sum(p.bad_c * p.n_r / (p.n_c + p.n_r) for p in useful)
    theirs = sum(p.bad_r * p.n_c / (p.n_c + p.n_r) for p in useful)
    if ours == 0 or theirs == 0:
        return None
    return sum(_squared_difference(p, ours / theirs) for p in useful) / max(1, len(useful) - 1)


def _squared_difference(pair: Pair, ratio: float) -> float:
    bad = pair.bad_c + pair.bad_r
    share = ratio * pair.n_c / (ratio * pair.n_c + pair.n_r)
    return float((pair.bad_c - share * bad) ** 2 / (bad * share * (1 - share)))
