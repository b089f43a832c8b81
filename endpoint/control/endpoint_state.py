"""An endpoint as a state: its status, its fleet and the deployment that is under way. Records and the table of statuses; pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from evenkeel.endpoint.control.deployment_steps import DeploymentStep
from evenkeel.endpoint.control.fleet_plan import FleetPlan, fleet_of


class EndpointStatus(StrEnum):
    """Of the API's (D), those that there are here."""

    CREATING = "Creating"
    UPDATING = "Updating"
    IN_SERVICE = "InService"
    FAILED = "Failed"
    DELETING = "Deleting"
    UPDATE_ROLLBACK_FAILED = "UpdateRollbackFailed"


S = EndpointStatus
NEXT_STATUS: dict[EndpointStatus, frozenset[EndpointStatus]] = {
    S.CREATING: frozenset({S.IN_SERVICE, S.FAILED}),
    S.IN_SERVICE: frozenset({S.UPDATING, S.DELETING}),
    S.UPDATING: frozenset({S.IN_SERVICE, S.UPDATE_ROLLBACK_FAILED}),
    S.UPDATE_ROLLBACK_FAILED: frozenset({S.UPDATING, S.DELETING}),
    S.FAILED: frozenset({S.DELETING}),  # DescribeEndpoint: nothing else is allowed
    S.DELETING: frozenset(),
}


class StepPhase(StrEnum):
    """Of a step."""

    LAUNCH = "launch"
    BAKE = "bake"
    TERMINATE = "terminate"


class DeploymentKind(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    SCALE = "scale"  # the same fleet with other counts or weights
    BACK = "back"  # a rollback


@dataclass(frozen=True, slots=True)
class Deployment:
    """`old` and `new` are the same fleet number when it is only scaled. `why` is what failed, once it goes back."""

    kind: DeploymentKind
    old: FleetPlan | None
    new: FleetPlan
    steps: tuple[DeploymentStep, ...]
    started_s: float
    since_s: float  # of the phase
    at: int = 0
    phase: StepPhase = StepPhase.LAUNCH
    why: str = ""
    alarms: tuple[str, ...] = ()
    ends_s: float = 0.0  # MaximumExecutionTimeoutInSeconds after the start; 0: none

    @property
    def step(self) -> DeploymentStep:
        return self.steps[self.at]


@dataclass(frozen=True, slots=True)
class EndpointState:
    name: str
    arn: str
    status: EndpointStatus
    created_s: float
    modified_s: float
    fleet: FleetPlan | None = None  # that which serves, or served last
    deployment: Deployment | None = None
    failure: str = ""
    fleets: int = 0  # numbers given so far
    last_config: dict[str, Any] = field(default_factory=dict)  # the DeploymentConfig used last

    @property
    def config(self) -> str:
        """Its EndpointConfigName: during a deployment still the old one's (D)."""
        fleet = self.fleet or (self.deployment.new if self.deployment else None)
        return fleet.config if fleet else ""


def step_status(state: EndpointState, status: EndpointStatus, now_s: float, **changes: Any) -> EndpointState:
    if status not in NEXT_STATUS[state.status]:
        raise ValueError(f"illegal transition {state.status} -> {status} of endpoint {state.name}")
    return dataclasses.replace(state, status=status, modified_s=now_s, **changes)


def row_of(state: EndpointState) -> dict[str, Any]:
    return dataclasses.asdict(state)


def endpoint_of(row: dict[str, Any]) -> EndpointState:
    deployment = row["deployment"]
    return EndpointState(
        **{
            **row,
            "status": EndpointStatus(row["status"]),
            "fleet": fleet_of(row["fleet"]) if row["fleet"] else None,
            "deployment": _deployment_of(deployment) if deployment else None,
        }
    )


def _deployment_of(row: dict[str, Any]) -> Deployment:
    return Deployment(
        **{
            **row,
            "kind": DeploymentKind(row["kind"]),
            "phase": StepPhase(row["phase"]),
            "old": fleet_of(row["old"]) if row["old"] else None,
            "new": fleet_of(row["new"]),
            "steps": tuple(DeploymentStep(**step) for step in row["steps"]),
            "alarms": tuple(row["alarms"]),
        }
    )
