"""The settings of the first rule, as its logs hold them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from evenkeel.sidecar.rollout.judge_errors import BadRule
from evenkeel.sidecar.rollout.rule import ERRORS, Arm

EDGES_MAX = 3  # at or above the reference's p90, p99, and the objective
# Of alpha, where slow answers are judged too; the edges share the rest. With an even share a threefold error rate is found within
# 15 minutes with probability 0.88 only, and a tenfold one never within 5 (benchmarks/judge.py).
ERRORS_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class FirstRule:
    rollout: str  # the id
    reference: Arm = Arm.BASELINE  # what the candidate is compared with
    alpha: float = 0.01  # chance of a false rollback in the whole rollout, over all metrics
    beta: float = 0.05  # chance of a false promotion of a candidate that is worse by bad_ratio
    margin: float = 1.25  # r0: a ratio of bad events up to this is no reason to roll back
    bad_ratio: float = 2.0  # a ratio of error rates from this on must not be promoted
    bad_ratio_latency: float = 2.0  # the same for the rate of slow answers
    budget: float = 0.001  # an error rate below this is good enough whatever the reference does
    # The same for the share of answers above an edge. An edge at or above p99 may have next to nothing above it, in which
    # case no ratio can ever be shown; then the candidate's 99.8th percentile below the same edge is proof enough.
    budget_latency: float = 0.002
    block_s: float = 30.0  # the sign witness counts one win or loss a block; 60 where faults come in bursts
    batch_s: float = 60.0  # the design effect is measured over batches of this length
    requests_min: int = 1000  # in this stage, in the candidate and in the reference
    stage_s_min: float = 300.0
    max_s: float = 1800.0
    at_end: str = "hold"  # or "rollback": what to say when max_s has passed without proof. Never promote
    latency: bool = True
    edges: tuple[float, ...] = ()  # seconds; empty: chosen from the reference's first edge_requests_min answers
    objective_s: float = 0.0  # the service objective, 0 for none: adds the bucket edge at or above it
    edge_requests_min: int = 1000
    mix_p_min: float = 0.001  # sample-ratio check
    mix_checked: bool = True  # false where anyone who sets the weights does not tell them
    crashes_max: int = 3  # this many restarts of one candidate instance are a crash loop
    unready_s_max: float = 30.0  # readiness lost for less than this is never a reason
    ready_s_max: float = 600.0  # from the start of the judge to the first time that a candidate instance is ready

    def __post_init__(self) -> None:
        for ok, complaint in (
            (self.rollout != "", "a rollout needs an id"),
            (self.reference != Arm.CANDIDATE, "the candidate cannot be its own reference"),
            (0 < self.alpha < 1 and 0 < self.beta < 1, "alpha and beta must lie between 0 and 1"),
            (self.margin >= 1, "margin must be 1 or more"),
            (self.bad_ratio > self.margin and self.bad_ratio_latency > self.margin, "bad_ratio must be above margin"),
            (0 <= self.budget < 1 and 0 <= self.budget_latency < 1, "a budget is a rate below 1"),
            (self.block_s > 0 and self.batch_s > 0 and self.max_s > 0 and self.ready_s_max > 0, "times must be positive"),
            (self.at_end in ("hold", "rollback"), "at_end must be hold or rollback"),
            (len(self.edges) <= EDGES_MAX, f"at most {EDGES_MAX} latency edges"),
            (all(e > 0 for e in self.edges) and self.objective_s >= 0, "latency edges are positive seconds"),
        ):
            if not ok:
                raise BadRule(complaint)

    @property
    def metrics_planned(self) -> int:
        """How many metrics may be judged. Fixed at the start, so that alpha can be shared before any data are seen."""
        if not self.latency:
            return 1
        return 1 + (len(self.edges) or (3 if self.objective_s else 2))

    def rollback_at(self, metric: str) -> float:
        """The e-value that both witnesses of one metric must reach: 1/alpha_m with the alpha_m adding up to alpha."""
        edges = self.metrics_planned - 1
        share = 1.0 if edges == 0 else ERRORS_SHARE if metric == ERRORS else (1 - ERRORS_SHARE) / edges
        return 1 / (self.alpha * share)

    @property
    def promote_at(self) -> float:
        """Two routes lead to a proof, each with half of beta. All metrics must pass, so none of them shares its half."""
        return 2 / self.beta

    def bad_ratio_of(self, metric: str) -> float:
        return self.bad_ratio if metric == ERRORS else self.bad_ratio_latency

    def budget_of(self, metric: str) -> float:
        return self.budget if metric == ERRORS else self.budget_latency

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "edges": list(self.edges), "reference": self.reference.value}

    @staticmethod
    def from_json(data: dict[str, Any]) -> FirstRule:
        unknown = set(data) - {f.name for f in fields(FirstRule)}
        if unknown:
            raise BadRule(f"unknown settings {sorted(unknown)}")
        return FirstRule(**{**data, "edges": tuple(data["edges"]), "reference": Arm(data["reference"])})
