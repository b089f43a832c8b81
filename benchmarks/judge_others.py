"""What others do with the same windows: a threshold, a z test and Mann and Whitney's, looked at once or all the time."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import mannwhitneyu

from benchmarks.judge_rule import Array, Counts

LEVEL = 0.01  # one-sided
THRESHOLD = 0.01  # of a minute's requests, as a canary controller's default success rate of 99 % has it
FAILURES = 5  # minutes above the threshold that end a rollout
LOOKS_FROM = 5  # minutes


def minutes(k: Counts) -> Counts:
    return k.apply(lambda x: x[:, : x.shape[1] // 6 * 6].reshape(len(x), -1, 6).sum(axis=2))


def threshold(k: Counts) -> Array:
    m = minutes(k)
    return (m.c > THRESHOLD * m.n_c).sum(axis=1) >= FAILURES


def z_test(k: Counts, *, peeking: bool) -> Array:
    """Of the rates up to each minute."""
    m = minutes(k).apply(lambda x: np.cumsum(x, axis=1).astype(float))
    pooled = (m.c + m.b) / (m.n_c + m.n_r)
    deviation = np.sqrt(np.maximum(1e-18, pooled * (1 - pooled) * (1 / m.n_c + 1 / m.n_r)))
    worse = (m.c / m.n_c - m.b / m.n_r) / deviation > -ndtri(LEVEL)
    return worse[:, LOOKS_FROM - 1 :].any(axis=1) if peeking else worse[:, -1]


def mann_whitney(k: Counts, *, peeking: bool) -> Array:
    """Of the rates by the minute."""
    m = minutes(k)
    ours, theirs = m.c / m.n_c, m.b / m.n_r
    ends = range(LOOKS_FROM, ours.shape[1] + 1) if peeking else [ours.shape[1]]
    found = np.zeros(len(ours), bool)
    for end in ends:
        p = mannwhitneyu(ours[:, :end], theirs[:, :end], alternative="greater", method="asymptotic", axis=1).pvalue
        found |= np.nan_to_num(p, nan=1.0) < LEVEL
    return found
