"""What becomes of an endpoint next, from its state, what is seen of its instances, and the time. Pure.

`wanted` says how many instances of which fleet there should be, `shares` who gets how much of the traffic, and `advance` takes a
deployment a movement further. The reconciler makes the world like that and asks again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from evenkeel.endpoint.control import deployment_steps
from evenkeel.endpoint.control.endpoint_state import (
    Deployment,
    DeploymentKind,
    EndpointState,
    EndpointStatus,
    StepPhase,
    step_status,
)
from evenkeel.endpoint.control.fleet_plan import FIRST_LAUNCHES_MAX, FleetPlan, VariantPlan

PING_FAILED = (
    "The primary container for production variant {variant} did not pass the ping health check. Please check CloudWatch logs for "
    "this endpoint. ({why})"
)  # O: sagemaker-python-sdk #452; what is in brackets is ours
ALARM_FIRED = "The deployment was rolled back: the alarm {alarm} is in the state ALARM."  # ours, no public source
TIMED_OUT = "The deployment was rolled back: it took longer than MaximumExecutionTimeoutInSeconds."  # ours


class Life(StrEnum):
    """Of an instance."""

    STARTING = "starting"
    READY = "ready"
    OUT = "out"  # it missed a ping, and gets no traffic until it answers
    LEAVING = "leaving"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class SeenInstance:
    """An instance as the fleet tells of it."""

    name: str
    fleet: int
    variant: str
    life: Life
    launched_s: float
    was_ready: bool = False
    why: str = ""  # it ended or does not start


@dataclass(frozen=True, slots=True)
class Circumstances:
    """`speed` shortens waits, and never a start-up. `firing`: names of alarms in the state ALARM."""

    now_s: float
    speed: float = 1.0
    firing: frozenset[str] = frozenset()


Wanted = dict[tuple[int, str], int]  # (fleet number, variant) -> instances


def wanted(state: EndpointState) -> Wanted:
    if state.status in (EndpointStatus.DELETING, EndpointStatus.FAILED):
        return {}
    deployment = state.deployment
    if deployment is None:
        return _all(state.fleet)
    if deployment.kind is DeploymentKind.SCALE:
        return _all(deployment.new)
    goes_back, ends = deployment.kind is DeploymentKind.BACK, deployment.phase is StepPhase.TERMINATE
    old = deployment.step.old if ends or goes_back else _old_before(deployment)
    new = {} if ends and goes_back else deployment.step.new
    counts = {(deployment.old.number, name): n for name, n in old.items()} if deployment.old else {}
    return counts | {(deployment.new.number, name): n for name, n in new.items()}


def launchable(state: EndpointState) -> frozenset[int]:
    """The fleets that get instances where some are missing: in a rollback not the new one, which only waits for its end."""
    deployment = state.deployment
    if deployment is not None and deployment.kind is DeploymentKind.BACK:
        return frozenset({deployment.old.number} if deployment.old else ())
    return frozenset(fleets(state))


def shares(state: EndpointState) -> dict[int, float]:
    """Of the traffic of each variant, by the number of the fleet."""
    deployment = state.deployment
    if deployment is None or deployment.kind is DeploymentKind.SCALE or deployment.old is None:
        fleet = state.fleet or (deployment.new if deployment else None)
        return {fleet.number: 1.0} if fleet else {}
    share = deployment.step.share
    if deployment.phase is StepPhase.LAUNCH and deployment.kind is not DeploymentKind.BACK:
        share = deployment.steps[deployment.at - 1].share if deployment.at else 0.0
    return {deployment.old.number: 1.0 - share, deployment.new.number: share}


def fleets(state: EndpointState) -> dict[int, FleetPlan]:
    """Every fleet that has instances or should have some."""
    deployment = state.deployment
    known = [state.fleet, *((deployment.old, deployment.new) if deployment else ())]
    return {fleet.number: fleet for fleet in known if fleet is not None}


def advance(state: EndpointState, seen: Sequence[SeenInstance], at: Circumstances) -> EndpointState:
    """The state after what is due now, or the same."""
    deployment = state.deployment
    if deployment is None or state.status is EndpointStatus.DELETING:
        return state
    why = _failed(deployment, seen, at)
    if why:
        return _went_wrong(state, deployment, why, at.now_s)
    if deployment.phase is StepPhase.LAUNCH:
        if not _ready_as_wanted(state, seen):
            return state
        return _with(state, deployment, at.now_s, phase=StepPhase.BAKE)
    if deployment.phase is StepPhase.BAKE:
        if at.now_s < deployment.since_s + deployment.step.bake_s / at.speed:
            return state
        return _with(state, deployment, at.now_s, phase=StepPhase.TERMINATE)
    if not _ended_as_wanted(state, seen):
        return state
    if deployment.at + 1 < len(deployment.steps):
        return _with(state, deployment, at.now_s, phase=StepPhase.LAUNCH, at=deployment.at + 1)
    return _done(state, deployment, at.now_s)


def begin(state: EndpointState, deployment: Deployment, now_s: float) -> EndpointState:
    """An update or a scaling of an endpoint that is in service."""
    return step_status(state, EndpointStatus.UPDATING, now_s, deployment=deployment, failure="",
                       fleets=max(state.fleets, deployment.new.number))  # fmt: skip


def _all(fleet: FleetPlan | None) -> Wanted:
    return {(fleet.number, v.name): v.instances for v in fleet.variants} if fleet else {}


def _old_before(deployment: Deployment) -> dict[str, int]:
    """Of the old fleet, until this step ends some."""
    if deployment.at:
        return deployment.steps[deployment.at - 1].old
    return deployment_steps.launch(deployment.old)[0].new if deployment.old else {}


def _with(state: EndpointState, deployment: Deployment, now_s: float, phase: StepPhase, at: int | None = None) -> EndpointState:
    moved = dataclasses.replace(deployment, phase=phase, since_s=now_s, at=deployment.at if at is None else at)
    return dataclasses.replace(state, deployment=moved, modified_s=now_s)


def _ready_as_wanted(state: EndpointState, seen: Sequence[SeenInstance]) -> bool:
    return all(
        sum(s.life is Life.READY and (s.fleet, s.variant) == which for s in seen) >= count
        for which, count in wanted(state).items() if which[0] in launchable(state)
    )  # fmt: skip


def _ended_as_wanted(state: EndpointState, seen: Sequence[SeenInstance]) -> bool:
    counts = wanted(state)
    living = Counter((s.fleet, s.variant) for s in seen if s.life is not Life.ENDED)
    return all(count <= counts.get(which, 0) for which, count in living.items())


def _failed(deployment: Deployment, seen: Sequence[SeenInstance], at: Circumstances) -> str:
    """Why it cannot go on, or nothing."""
    judged = deployment.old if deployment.kind is DeploymentKind.BACK else deployment.new
    if judged is not None:
        for variant in judged.variants:
            why = _never_ready(
                variant, [s for s in seen if (s.fleet, s.variant) == (judged.number, variant.name)], deployment, at.now_s
            )
            if why:
                return PING_FAILED.format(variant=variant.name, why=why)
    if deployment.kind is not DeploymentKind.UPDATE:
        return ""
    if fired := sorted(at.firing & set(deployment.alarms)) if deployment.phase is StepPhase.BAKE else []:
        return ALARM_FIRED.format(alarm=fired[0])
    return TIMED_OUT if deployment.ends_s and at.now_s > deployment.ends_s else ""


def _never_ready(variant: VariantPlan, mine: Sequence[SeenInstance], deployment: Deployment, now_s: float) -> str:
    """Why instances of a variant do not become ready; instances that were in service before are no witnesses."""
    fresh = [s for s in mine if not s.was_ready and s.launched_s >= deployment.started_s]
    ended = [s for s in fresh if s.life is Life.ENDED]
    if len(ended) >= FIRST_LAUNCHES_MAX:
        return ended[-1].why
    late = [s for s in fresh if s.life is Life.STARTING and now_s > s.launched_s + variant.startup_s]
    return late[0].why or f"no passing ping within {variant.startup_s:g} s" if late else ""


def _went_wrong(state: EndpointState, deployment: Deployment, why: str, now_s: float) -> EndpointState:
    if deployment.kind is DeploymentKind.CREATE:
        return step_status(state, EndpointStatus.FAILED, now_s, failure=why, fleet=deployment.new, deployment=None)
    if deployment.kind is DeploymentKind.BACK:
        return step_status(
            state, EndpointStatus.UPDATE_ROLLBACK_FAILED, now_s, failure=f"{deployment.why} {why}", deployment=None
        )
    if deployment.kind is DeploymentKind.SCALE:
        return step_status(state, EndpointStatus.IN_SERVICE, now_s, failure=why, deployment=None)
    assert deployment.old is not None, "an update has a fleet to go back to"
    back = dataclasses.replace(
        deployment, kind=DeploymentKind.BACK, steps=deployment_steps.back(deployment.old, deployment.step), at=0,
        phase=StepPhase.LAUNCH, since_s=now_s, started_s=now_s, why=why, ends_s=0.0,
    )  # fmt: skip
    return dataclasses.replace(state, deployment=back, modified_s=now_s)


def _done(state: EndpointState, deployment: Deployment, now_s: float) -> EndpointState:
    went_back = deployment.kind is DeploymentKind.BACK
    fleet = deployment.old if went_back else deployment.new
    return step_status(state, EndpointStatus.IN_SERVICE, now_s, fleet=fleet, deployment=None, failure=deployment.why)
