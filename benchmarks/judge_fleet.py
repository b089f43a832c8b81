"""What befalls single instances, by the product's own code: raw counters of a fleet go through `Rollout`, look by look.

Arms of two instances that share traffic half and half, errors and a latency histogram, as scrapes with their own times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

import numpy as np

from benchmarks.judge_report import Target
from benchmarks.judge_rule import WINDOW_S, Array
from evenkeel.sidecar.rollout.counters import Key, Scrape
from evenkeel.sidecar.rollout.reasons import RolloutVerdict
from evenkeel.sidecar.rollout.rollout import Rollout
from evenkeel.sidecar.rollout.rule import Arm, Rule

LADDER = tuple(0.008 * 1.25**i for i in range(29))  # seconds, to about 4 s
SLOW_SIGMA = 0.5  # of log-normal latencies around 20 ms
MEDIAN_S = 0.02


@dataclass(frozen=True, slots=True)
class Life:
    """What the candidate does. A function of the second gives None where it does not answer a scrape."""

    latency: Callable[[float], float] = lambda at_s: 1.0  # times the reference's
    gone_from_s: float = inf
    hangs_from_s: float = inf
    refuses_from_s: float = inf
    lost: float = 0.0  # share of scrapes that are lost, in both arms
    late_s: float = 0.0  # one candidate scrape comes late by that, in the first window
    renamed_at_s: float = inf  # one candidate instance is replaced under another name
    minutes: int = 30
    rps: float = 200.0
    base: float = 0.001


def run(life: Life, rng: np.random.Generator, rule: Rule) -> tuple[RolloutVerdict, float]:
    """The first verdict and its second."""
    rollout, fleet = Rollout(rule), {}
    names = {Arm.CANDIDATE: ["a", "b"], Arm.BASELINE: ["a", "b"]}
    for look in range(life.minutes * 60 // WINDOW_S + 1):
        at_s = float(look * WINDOW_S)
        if at_s >= life.renamed_at_s and "c" not in names[Arm.CANDIDATE]:
            names[Arm.CANDIDATE] = ["a", "c"]
        scrapes, missing = [], []
        for arm, instances in names.items():
            for name in instances:
                key = Key(arm, name)
                instance = fleet.setdefault(key, Counters(rng, life, arm))
                late_s = life.late_s if (look, key) == (1, Key(Arm.CANDIDATE, "a")) else 0.0
                scrape = instance.scraped(key, at_s + late_s)
                gone = arm == Arm.CANDIDATE and at_s >= life.gone_from_s
                if gone or (look and rng.random() < life.lost):
                    missing.append(key)
                else:
                    scrapes.append(scrape)
        rollout.observe(at_s, scrapes, missing)
        if rollout.verdict != RolloutVerdict.HOLD:
            return rollout.verdict, at_s
    return RolloutVerdict.HOLD, inf


class Counters:
    """One instance's raw counters, which grow up to the moment of each scrape."""

    def __init__(self, rng: np.random.Generator, life: Life, arm: Arm) -> None:
        self._rng, self._life, self._is_candidate = rng, life, arm == Arm.CANDIDATE
        self._at_s, self._codes = 0.0, {"200": 1000, "400": 0, "500": 0}
        self._buckets: Array = np.zeros(len(LADDER) + 1, int)

    def scraped(self, key: Key, at_s: float) -> Scrape:
        life, seconds = self._life, max(0.0, at_s - self._at_s)
        self._at_s = max(self._at_s, at_s)
        requests = int(self._rng.poisson(life.rps / 4 * seconds))
        if self._is_candidate and at_s > life.hangs_from_s:
            requests = 0
        code = "400" if self._is_candidate and at_s > life.refuses_from_s else "500"
        bad = requests if code == "400" else int(self._rng.binomial(requests, life.base))
        self._codes[code] += bad
        self._codes["200"] += requests - bad
        times = life.latency(at_s) if self._is_candidate else 1.0
        took = MEDIAN_S * times * np.exp(SLOW_SIGMA * self._rng.standard_normal(requests - bad))
        self._buckets += np.bincount(np.searchsorted(LADDER, took), minlength=len(LADDER) + 1)
        below = np.cumsum(self._buckets)
        histogram = tuple((edge, int(n)) for edge, n in zip((*LADDER, inf), below, strict=True))
        return Scrape(key, at_s, dict(self._codes), histogram, {}, 0, True, "READY")


def targets(runs: int, seed: int) -> Iterator[Target]:
    rule = Rule("simulation")
    back, on = RolloutVerdict.ROLLBACK, RolloutVerdict.PROMOTE
    cells: list[tuple[str, Life, RolloutVerdict, float, dict[str, float]]] = [
        ("vanished candidate within 60 s", Life(gone_from_s=121.0, minutes=5), back, 121 + 60, {"least": 0.99}),
        ("candidate that hangs within 60 s", Life(hangs_from_s=121.0, minutes=5), back, 121 + 60, {"least": 0.99}),
        ("400 to everything within 60 s", Life(refuses_from_s=121.0, minutes=5), back, 121 + 60, {"least": 0.99}),
        ("latency x 100 from the start within 60 s", Life(lambda at_s: 100.0, minutes=3), back, 60, {"least": 0.99}),
        ("latency x 100 from 120 s on within 60 s", Life(lambda at_s: 100.0 if at_s > 120 else 1.0, minutes=5), back, 180,
         {"least": 0.99}),
        ("latency x 1.2 within 10 min", Life(lambda at_s: 1.2, minutes=11), back, 600, {"least": 0.95}),
        ("healthy, latency too, promoted in 30 min", Life(), on, 1800, {"least": 0.97}),
        ("healthy, 1 % of scrapes lost, promoted in 30 min", Life(lost=0.01), on, 1800, {"least": 0.9}),
        ("healthy, one scrape 3 s late in the first window, promoted in 30 min", Life(late_s=3.0), on, 1800, {"least": 0.9}),
        ("healthy, one pod renamed at 200 s, promoted in 30 min", Life(renamed_at_s=200.0), on, 1800, {"least": 0.9}),
        ("cold start of the candidate, latency x 2 for 2 min, promoted in 30 min",
         Life(lambda at_s: 2.0 if at_s <= 120 else 1.0), on, 1800, {"least": 0.9}),
        ("cold start of the candidate, latency x 4 for 2 min, promoted in 30 min",
         Life(lambda at_s: 4.0 if at_s <= 120 else 1.0), on, 1800, {"least": 0.9}),
        ("a leak of latency, x 1 to x 2 in the hour, rolled back", Life(lambda at_s: 1 + at_s / 3600, minutes=60), back, 3600,
         {}),
    ]  # fmt: skip
    for words, life, verdict, by_s, bar in cells:
        rng = np.random.default_rng(seed)
        found = [run(life, rng, rule) for _ in range(runs)]
        yield Target(words, sum(said == verdict and at_s <= by_s for said, at_s in found), runs, **bar)
