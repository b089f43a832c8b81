"""DescribeEndpoint and ListEndpoints: an endpoint's state and its instances as the API shows them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evenkeel.endpoint.control import endpoint_machine
from evenkeel.endpoint.control.endpoint_machine import Life, SeenInstance
from evenkeel.endpoint.control.endpoint_state import Deployment, DeploymentKind, EndpointState, EndpointStatus, StepPhase
from evenkeel.endpoint.control.fleet_plan import FleetPlan
from evenkeel.endpoint.wire.json_values import Values, known

# D: VariantStatus and the words of its StatusMessage, developer guide "automating SageMaker with EventBridge"
LAUNCHING, TERMINATING = "Launching {n} instance(s).", "Terminating {n} instance(s)."
SCALING = "Scaling out desired instance count to {n}."
BAKING_CANARY = "Baking for {s} seconds (TerminationWaitInSeconds) with traffic enabled on canary capacity of {n} instance(s)."
BAKING_ALL = "Baking for {s} seconds (TerminationWaitInSeconds) with traffic enabled on full capacity of {n} instance(s)."


def described(state: EndpointState, seen: Sequence[SeenInstance]) -> Values:
    deployment = state.deployment
    pending = deployment if deployment and deployment.kind in (DeploymentKind.UPDATE, DeploymentKind.BACK) else None
    serving = state.fleet or (deployment.new if deployment else None)
    desired = deployment.new if deployment and deployment.kind is DeploymentKind.SCALE else serving
    return known({
        "EndpointName": state.name, "EndpointArn": state.arn, "EndpointConfigName": state.config,
        "EndpointStatus": str(state.status), "CreationTime": state.created_s, "LastModifiedTime": state.modified_s,
        "FailureReason": state.failure or None,
        "ProductionVariants": _variants(serving, desired, state, seen) if serving and desired else None,
        "PendingDeploymentSummary": _pending(pending, state, seen) if pending else None,
        "LastDeploymentConfig": state.last_config or None,
    })  # fmt: skip


def summary(state: EndpointState) -> Values:
    return {"EndpointName": state.name, "EndpointArn": state.arn, "EndpointStatus": str(state.status),
            "CreationTime": state.created_s, "LastModifiedTime": state.modified_s}  # fmt: skip


def _pending(deployment: Deployment, state: EndpointState, seen: Sequence[SeenInstance]) -> Values:
    return {"EndpointConfigName": deployment.new.config, "StartTime": deployment.started_s,
            "ProductionVariants": _variants(deployment.new, deployment.new, state, seen)}  # fmt: skip


def _variants(fleet: FleetPlan, desired: FleetPlan, state: EndpointState, seen: Sequence[SeenInstance]) -> list[Values]:
    return [
        known({
            "VariantName": v.name, "CurrentWeight": v.weight, "DesiredWeight": wanted.weight,
            "DesiredInstanceCount": wanted.instances, "CurrentInstanceCount": _ready(seen, fleet, v.name),
            "DeployedImages": [{"SpecifiedImage": v.image, "ResolvedImage": v.image, "ResolutionTime": state.created_s}],
            "VariantStatus": _status(fleet, v.name, state, seen) or None,
        })
        for v in fleet.variants if (wanted := desired.variant(v.name))
    ]  # fmt: skip


def _ready(seen: Sequence[SeenInstance], fleet: FleetPlan, variant: str) -> int:
    return sum(s.life is Life.READY and (s.fleet, s.variant) == (fleet.number, variant) for s in seen)


def _status(fleet: FleetPlan, variant: str, state: EndpointState, seen: Sequence[SeenInstance]) -> list[dict[str, Any]]:
    """What this variant of this fleet is about, where it is about anything."""
    deployment = state.deployment
    wanted = endpoint_machine.wanted(state).get((fleet.number, variant), 0)
    living = sum(s.life is not Life.ENDED and (s.fleet, s.variant) == (fleet.number, variant) for s in seen)
    if state.status is EndpointStatus.DELETING:
        return _one("Deleting", TERMINATING.format(n=living), state.modified_s)
    if deployment is None:
        return []
    since_s, ready = deployment.since_s, _ready(seen, fleet, variant)
    if deployment.kind is DeploymentKind.SCALE:
        return _one("Updating", SCALING.format(n=wanted), since_s)
    if living > wanted:
        return _one("Deleting", TERMINATING.format(n=living - wanted), since_s)
    if fleet.number == deployment.new.number and deployment.phase is StepPhase.BAKE and deployment.kind is DeploymentKind.UPDATE:
        words = BAKING_CANARY if deployment.step.canary else BAKING_ALL
        return _one("Baking", words.format(s=int(deployment.step.bake_s), n=deployment.step.canary or wanted), since_s)
    if ready < wanted:
        status = "Creating" if deployment.kind is DeploymentKind.CREATE else "Updating"
        return _one(status, LAUNCHING.format(n=wanted - ready), since_s)
    return []


def _one(status: str, message: str, since_s: float) -> list[dict[str, Any]]:
    return [{"Status": status, "StatusMessage": message, "StartTime": since_s}]
