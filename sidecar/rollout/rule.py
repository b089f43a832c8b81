"""What one rollout is judged by: error rates of the judge itself, margins, floors, times. Fixed before the first window.

A rule is written into the replay log, so a reader of the log knows by what the verdict was reached. It never changes
during a rollout: thresholds that move with the data would void every guarantee.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from math import ceil
from typing import Any

from evenkeel.sidecar.rollout.judge_errors import BadRule
from evenkeel.sidecar.rollout.own_metrics import OwnMetric


class Arm(StrEnum):
    PRODUCTION = "production"  # what serves now, for days already
    BASELINE = "baseline"  # the same version, freshly started, with as much traffic as the candidate
    CANDIDATE = "candidate"


ERRORS = "errors"
EDGES_MAX = 3  # at or above the reference's p90, p99, and the objective
# Of alpha, where slow answers are judged too; the edges share the rest. Errors are rare and slow answers are not, so the
# errors need the larger share.
ERRORS_SHARE = 0.6
WITHIN = " at "  # stands between a metric and the value of the label within which it is judged
STRATA_JUDGED = 6
UNANSWERED = "unanswered"  # the metric of requests that were begun and have no answer
OWN_SHARE = 0.3  # of alpha, for all the user's own metrics together, where there are any


def is_of_errors(metric: str) -> bool:
    return metric.partition(WITHIN)[0] in (ERRORS, UNANSWERED)


@dataclass(frozen=True, slots=True)
class Objective:
    """An absolute bound: at most this share of requests may fail, or be slower than an edge. Missing it rolls back by itself."""

    name: str  # as it was asked for: errors, p99
    share: float
    edge_s: float = 0.0  # of a latency objective

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and self.edge_s >= 0):
            raise BadRule(f"objective {self.name}: a share between 0 and 1, and seconds that are not negative")


@dataclass(frozen=True, slots=True)
class Rule:
    rollout: str  # the id
    reference: Arm = Arm.BASELINE  # what the candidate is compared with
    alpha: float = 0.01  # chance of a false rollback in the whole rollout, over all metrics
    beta: float = 0.05  # chance of a false promotion of a candidate that is worse by bad_ratio
    margin: float = 1.2  # a ratio of bad events up to this is no reason to roll back
    bad_ratio: float = 2.0  # a ratio of error rates from this on must not be promoted
    bad_ratio_latency: float = 2.0  # the same for the rate of slow answers
    budget: float = 0.001  # an error rate below this is good enough whatever the reference does
    # The same for the share of answers above an edge. An edge at or above p99 may have next to nothing above it, in which
    # case no ratio can ever be shown; then the candidate's 99.8th percentile below the same edge is proof enough.
    budget_latency: float = 0.002
    block_s: float = 30.0  # evidence grows by blocks of this length
    requests_min: int = 1000  # in this stage, in the candidate and in the reference
    stage_s_min: float = 600.0
    max_s: float = 1800.0
    at_end: str = "hold"  # or "rollback": what to say when max_s has passed without proof. Never promote
    latency: bool = True
    edges: tuple[float, ...] = ()  # seconds; empty: chosen from the reference's first edge_requests_min answers
    objective_s: float = 0.0  # the service objective, 0 for none: adds the bucket edge at or above it
    edge_requests_min: int = 1000
    mix_checked: bool = True  # false where nobody knows the weights
    split_tolerance: float = 0.05  # the candidate's share may be off by this part of what was declared
    crashes_max: int = 3  # this many restarts of one candidate instance are a crash loop
    unready_s_max: float = 30.0  # readiness lost for less than this is never a reason
    ready_s_max: float = 600.0  # from the start of the judge to the first time that a candidate instance is ready
    initial_delay_s: float = 0.0  # the first seconds count for nobody: caches are cold
    slo: tuple[Objective, ...] = ()
    own: tuple[OwnMetric, ...] = ()  # the user's own metrics
    strata: str = ""  # a label of the requests, by whose values they are compared
    strata_share: float = 0.0  # of alpha, for judging within each value; 0: only the values' shares are compared
    unanswered_share: float = 0.0  # of alpha, for requests without an answer; 0: they are not judged
    warm_s_max: float = 0.0  # slow answers count once the candidate's own latency has settled, at the latest after so long
    revision: int = 2  # of the guards in detector.py. Logs of this format that do not tell have 1

    def __post_init__(self) -> None:
        for ok, complaint in (
            (self.rollout != "", "a rollout needs an id"),
            (self.reference != Arm.CANDIDATE, "the candidate cannot be its own reference"),
            (0 < self.alpha < 1 and 0 < self.beta < 1, "alpha and beta must lie between 0 and 1"),
            (self.margin >= 1, "margin must be 1 or more"),
            (self.bad_ratio > self.margin and self.bad_ratio_latency > self.margin, "bad_ratio must be above margin"),
            (0 <= self.budget < 1 and 0 <= self.budget_latency < 1, "a budget is a rate below 1"),
            (self.block_s > 0 and self.max_s > 0 and self.ready_s_max > 0, "times must be positive"),
            (0 <= self.initial_delay_s < self.max_s, "initial_delay must end before the time allowed does"),
            (0 < self.split_tolerance < 1, "split_tolerance is a part below 1"),
            (self.at_end in ("hold", "rollback"), "at_end must be hold or rollback"),
            (len(self.edges) <= EDGES_MAX, f"at most {EDGES_MAX} latency edges"),
            (all(e > 0 for e in self.edges) and self.objective_s >= 0, "latency edges are positive seconds"),
            (len({o.name for o in self.slo}) == len(self.slo), "an objective is given twice"),
            (0 <= self.unanswered_share < 1, "unanswered_share is a part below 1"),
            (self.warm_s_max >= 0, "warm_s_max is no negative time"),
            (0 <= self.strata_share < (1 if self.strata else 1e-12), "strata_share is a part below 1, of a label"),
            (self.revision in (1, 2), "revision must be 1 or 2"),
            (all(m.bad_ratio > self.margin for m in self.own), "bad-ratio of a metric of your own must be above margin"),
        ):
            if not ok:
                raise BadRule(complaint)

    @property
    def metrics_planned(self) -> int:
        """How many metrics may be judged. Fixed at the start, so that alpha can be shared before any data are seen."""
        if not self.latency:
            return 1
        return 1 + (len(self.edges) or (3 if self.objective_s else 2))

    @property
    def blocks_planned(self) -> int:
        """A regression may begin in each of them; the count witness shares its alpha among these starts."""
        return max(1, ceil(self.max_s / self.block_s))

    def rollback_at(self, metric: str) -> float:
        """The e-value that convicts one metric: 1/alpha_m with the alpha_m adding up to alpha."""
        if metric == UNANSWERED:
            return 1 / (self.alpha * max(self.unanswered_share, 1e-9))
        if WITHIN in metric:
            within = self.strata_share * (1 - self.unanswered_share)
            return STRATA_JUDGED * self.metrics_planned / (self.alpha * max(within, 1e-9))
        if self.own_named(metric):
            return len(self.own) / (self.alpha * OWN_SHARE * (1 - self.strata_share) * (1 - self.unanswered_share))
        edges = self.metrics_planned - 1
        share = 1.0 if edges == 0 else ERRORS_SHARE if metric == ERRORS else (1 - ERRORS_SHARE) / edges
        return 1 / (self.alpha * share * self.common_share)

    @property
    def common_share(self) -> float:
        """Of alpha: what is left for errors and slow answers of all requests together."""
        return (1 - OWN_SHARE if self.own else 1.0) * (1 - self.strata_share) * (1 - self.unanswered_share)

    @property
    def promote_at(self) -> float:
        """Two routes lead to a proof, each with half of beta. All metrics must pass, so none of them shares its half."""
        return 2 / self.beta

    def bad_ratio_of(self, metric: str) -> float:
        own = self.own_named(metric)
        return own.bad_ratio if own else self.bad_ratio if is_of_errors(metric) else self.bad_ratio_latency

    def budget_of(self, metric: str) -> float:
        own = self.own_named(metric)
        return own.budget if own else self.budget if is_of_errors(metric) else self.budget_latency

    def own_named(self, metric: str) -> OwnMetric | None:
        return next((m for m in self.own if m.name == metric), None)

    def to_json(self) -> dict[str, Any]:
        """Without what came later than the format and is at its default, so that an older log says the same as it did."""
        slo = [asdict(o) for o in self.slo]
        data = {**asdict(self), "edges": list(self.edges), "reference": self.reference.value, "slo": slo}
        later = {"own": [m.to_json() for m in self.own], "strata": self.strata, "strata_share": self.strata_share,
                 "unanswered_share": self.unanswered_share, "warm_s_max": self.warm_s_max,
                 "revision": self.revision if self.revision > 1 else 0}  # fmt: skip
        return {**{k: v for k, v in data.items() if k not in later}, **{k: v for k, v in later.items() if v}}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Rule:
        unknown = set(data) - {f.name for f in fields(Rule)}
        if unknown:
            raise BadRule(f"unknown settings {sorted(unknown)}")
        slo = tuple(Objective(**o) for o in data["slo"])
        own = tuple(map(OwnMetric.from_json, data.get("own", ())))
        records = {"own": own, "edges": tuple(data["edges"]), "reference": Arm(data["reference"]), "slo": slo}
        return Rule(**{"revision": 1, **data, **records})
