"""Traffic for the judge's simulation: windows of requests and bad events, quiet or troubled.

Every request is an independent trial at a rate that the trouble changes: noise and bursts of each arm's own, outages that both
arms share (added, as a failing dependency is), changes that both share (multiplied), offsets, and a regression that begins late
or grows slowly.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from benchmarks.judge_rule import WINDOW_S, Array, Counts


@dataclass(frozen=True, slots=True)
class Trouble:
    """Of bad-event rates. All times in seconds; `every_s` is the mean time between bursts of one arm."""

    cv: float = 0.0  # of log-normal noise of each arm, autocorrelated from window to window
    rho: float = 0.8
    burst_every_s: float = 0.0
    burst_s: int = 0
    burst_times: float = 1.0
    outage_at_s: int = -1  # both arms fail this share more of their requests
    outage_s: int = 0
    outage_share: float = 0.0
    diurnal: float = 0.0  # both arms' rates swing by this part, within half an hour
    offset: float = 1.0  # a lasting factor of the candidate's, which is no version's doing


QUIET = Trouble()


@dataclass(frozen=True, slots=True)
class Scenario:
    rps: float = 200.0
    share: float = 0.5  # of the candidate
    base: float = 0.001  # rate of bad events in the reference
    ratio: float = 1.0
    trouble: Trouble = QUIET
    onset_s: int = 0  # the regression begins then
    ramp_s: int = 0  # and takes so long to grow
    minutes: int = 30


def simulate(s: Scenario, runs: int, rng: np.random.Generator) -> Counts:
    windows, t = s.minutes * 60 // WINDOW_S, s.trouble
    shape = (runs, windows)
    at_s = WINDOW_S * np.arange(windows)
    grown = np.clip((at_s - s.onset_s) / max(1, s.ramp_s), 0.0, 1.0) if s.ramp_s else (at_s >= s.onset_s).astype(float)
    both = 1 + t.diurnal * np.sin(2 * pi * at_s / 1800)
    ours = s.base * both * (1 + (s.ratio - 1) * grown) * t.offset * _own(t, shape, rng)
    theirs = s.base * both * _own(t, shape, rng)
    down = _outage(t, windows)
    ours, theirs = (down + (1 - down) * np.minimum(0.95, rate) for rate in (ours, theirs))
    n_c, n_r = (rng.poisson(s.rps * share * WINDOW_S, shape) for share in (s.share, 1 - s.share))
    return Counts(n_c, n_r, rng.binomial(n_c, ours), rng.binomial(n_r, theirs))


def _outage(t: Trouble, windows: int) -> Array:
    """The share of each window that it covers times the share of requests that fail."""
    begin = WINDOW_S * np.arange(windows)
    covered = np.clip(np.minimum(begin + WINDOW_S, t.outage_at_s + t.outage_s) - np.maximum(begin, t.outage_at_s), 0, WINDOW_S)
    return covered / WINDOW_S * t.outage_share


def _own(t: Trouble, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    return _noise(t, shape, rng) * _bursts(t, shape, rng)


def _noise(t: Trouble, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    if t.cv == 0:
        return np.ones(shape)
    z = rng.standard_normal(shape)
    for i in range(1, shape[1]):
        z[:, i] = t.rho * z[:, i - 1] + sqrt(1 - t.rho**2) * z[:, i]
    sigma2 = np.log1p(t.cv**2)
    return np.exp(np.sqrt(sigma2) * z - sigma2 / 2)


def _bursts(t: Trouble, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    if not t.burst_every_s:
        return np.ones(shape)
    seconds = shape[1] * WINDOW_S
    begun = np.cumsum(rng.random((shape[0], seconds)) < 1 / t.burst_every_s, axis=1)
    on = begun.copy()
    on[:, t.burst_s :] -= begun[:, : -t.burst_s]
    return (1 + (t.burst_times - 1) * (on > 0)).reshape(*shape, WINDOW_S).mean(axis=2)
