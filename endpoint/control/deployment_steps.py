"""A deployment as a list of steps, made from its DeploymentConfig. Pure.

Every kind of update is the same four movements, again and again: launch what the step wants of the new fleet, shift its share of
the traffic, bake, and end what the step no longer wants of the old fleet. What differs is how much of it a step takes:

    all at once   everything, then bake for the termination wait
    canary        a part of the traffic on a new fleet that is there as a whole; then everything
    linear        a part more each time, and as much less of the old fleet
    rolling       a batch of instances each time, in place of as many old ones

Sources: the developer guide on deployment guardrails (blue-green-canary, -linear, -all-at-once, rolling), all documented (D).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evenkeel.endpoint.control.fleet_plan import FleetPlan

Counts = dict[str, int]  # instances by variant


@dataclass(frozen=True, slots=True)
class DeploymentStep:
    """`new` is wanted before traffic shifts, `old` after baking. `share` of each variant's traffic goes to the new fleet."""

    new: Counts
    old: Counts
    share: float
    bake_s: float = 0.0
    canary: int = 0  # instances that the share stands for, 0: all


def launch(fleet: FleetPlan) -> tuple[DeploymentStep, ...]:
    """The first fleet of an endpoint."""
    return (DeploymentStep(_counts(fleet), {}, 1.0),)


def back(old: FleetPlan, failed: DeploymentStep) -> tuple[DeploymentStep, ...]:
    """A rollback: all traffic to the old fleet, which becomes what it was; what the failed step had of the new one ends then."""
    return (DeploymentStep(failed.new, _counts(old), 0.0),)


def steps(old: FleetPlan, new: FleetPlan, config: Mapping[str, Any]) -> tuple[DeploymentStep, ...]:
    """`config` is a DeploymentConfig, or nothing: all at once, without baking."""
    rolling = config.get("RollingUpdatePolicy")
    if rolling is not None:
        return _rolling(old, new, rolling)
    policy = config.get("BlueGreenUpdatePolicy", {})
    routing = policy.get("TrafficRoutingConfiguration", {})
    last_s = float(policy.get("TerminationWaitInSeconds", 0))
    kind = routing.get("Type", "ALL_AT_ONCE")
    if kind == "CANARY":
        return _canary(old, new, routing, last_s)
    if kind == "LINEAR":
        return _linear(old, new, routing, last_s)
    return (DeploymentStep(_counts(new), {}, 1.0, last_s),)


def _counts(fleet: FleetPlan) -> Counts:
    return {v.name: v.instances for v in fleet.variants}


def _canary(old: FleetPlan, new: FleetPlan, routing: Mapping[str, Any], last_s: float) -> tuple[DeploymentStep, ...]:
    all_new = _counts(new)
    size = _size(routing["CanarySize"], sum(all_new.values()))
    share = size / max(1, sum(all_new.values()))
    return (
        DeploymentStep(all_new, _counts(old), share, float(routing["WaitIntervalInSeconds"]), size),
        DeploymentStep(all_new, {}, 1.0, last_s),
    )


def _linear(old: FleetPlan, new: FleetPlan, routing: Mapping[str, Any], last_s: float) -> tuple[DeploymentStep, ...]:
    all_new, all_old = _counts(new), _counts(old)
    total = max(1, sum(all_new.values()))
    size = _size(routing["LinearStepSize"], total)
    wait_s = float(routing["WaitIntervalInSeconds"])
    made = []
    for shifted in range(size, total, size):
        share = shifted / total
        made.append(DeploymentStep(all_new, {k: math.ceil(n * (1 - share)) for k, n in all_old.items()}, share, wait_s, shifted))
    return (*made, DeploymentStep(all_new, {}, 1.0, last_s))


def _rolling(old: FleetPlan, new: FleetPlan, policy: Mapping[str, Any]) -> tuple[DeploymentStep, ...]:
    """Only of an endpoint with one variant; the exclusion is checked where the update is asked for."""
    [name], after = [v.name for v in new.variants], new.variants[0].instances
    before = sum(_counts(old).values())
    size = _size(policy["MaximumBatchSize"], after)
    wait_s = float(policy["WaitIntervalInSeconds"])
    made = []
    for fresh in range(size, after, size):
        left = max(0, before - fresh)
        made.append(DeploymentStep({name: fresh}, {v.name: left for v in old.variants}, fresh / (fresh + left), wait_s))
    return (*made, DeploymentStep({name: after}, {}, 1.0, wait_s))


def _size(capacity: Mapping[str, Any], total: int) -> int:
    """Instances of a CapacitySize: at least one, at most all."""
    value = float(capacity["Value"])
    wanted = value if capacity["Type"] == "INSTANCE_COUNT" else math.ceil(total * value / 100)
    return max(1, min(total, int(wanted)))
