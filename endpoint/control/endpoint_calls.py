"""Calls that change an endpoint: create, update, scale, delete. They write down what is wanted, and return at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from evenkeel.endpoint.control import deployment_steps, endpoint_machine
from evenkeel.endpoint.control.endpoint_state import (
    Deployment,
    DeploymentKind,
    EndpointState,
    EndpointStatus,
    endpoint_of,
    row_of,
    step_status,
)
from evenkeel.endpoint.control.fleet_plan import STARTUP_S, FleetPlan, VariantPlan
from evenkeel.endpoint.control.journal_store import Change, JournalStore
from evenkeel.endpoint.control.model_calls import ModelCalls, data_url
from evenkeel.endpoint.control.tags import tag_changes
from evenkeel.endpoint.wire.api_errors import (
    ENDPOINT_EXISTS,
    FAILED_ENDPOINT,
    IN_PROGRESS,
    NO_ENDPOINT,
    NO_VARIANT,
    OTHER_VARIANTS,
    PART_NOT_SUPPORTED,
    fail,
)
from evenkeel.endpoint.wire.json_values import Values

IN_USE = (EndpointStatus.CREATING, EndpointStatus.UPDATING, EndpointStatus.DELETING)
COUNTS, WEIGHTS = "DesiredInstanceCount", "DesiredWeight"  # VariantPropertyType


class EndpointCalls:
    def __init__(self, store: JournalStore, models: ModelCalls) -> None:
        self._store, self._models = store, models
        self._settings = models.configs.settings

    # ---- the four calls ------------------------------------------------------------------------------------------------

    def create(self, params: Values) -> Values:
        name = params["EndpointName"]
        arn = self._settings.arn("endpoint", name)
        if self._store.get("endpoints", name) is not None:
            raise fail(ENDPOINT_EXISTS, arn=arn)
        fleet = self._fleet(params["EndpointConfigName"], 1)
        _check_policy(params.get("DeploymentConfig", {}), fleet, None)
        now_s = time.time()
        first = Deployment(DeploymentKind.CREATE, None, fleet, deployment_steps.launch(fleet), now_s, now_s)
        state = EndpointState(name, arn, EndpointStatus.CREATING, now_s, now_s, None, first, fleets=1,
                              last_config=params.get("DeploymentConfig", {}))  # fmt: skip
        self._store.write(Change("endpoints", name, row_of(state)), *tag_changes(self._store, arn, params.get("Tags", [])))
        return {"EndpointArn": arn}

    def update(self, params: Values) -> Values:
        state = self._changeable(params["EndpointName"])
        assert state.fleet is not None, "an endpoint in service has a fleet"
        config = params.get("DeploymentConfig", state.last_config if params.get("RetainDeploymentConfig") else {})
        fleet = self._fleet(params["EndpointConfigName"], state.fleets + 1)
        if params.get("RetainAllVariantProperties"):
            without = {p["VariantPropertyType"] for p in params.get("ExcludeRetainedVariantProperties", [])}
            fleet = _retained(fleet, state.fleet, without)
        _check_policy(config, fleet, state.fleet)
        now_s = time.time()
        policy = config.get("RollingUpdatePolicy") or config.get("BlueGreenUpdatePolicy", {})
        longest_s = policy.get("MaximumExecutionTimeoutInSeconds", 0) / self._settings.speed
        deployment = Deployment(
            DeploymentKind.UPDATE, state.fleet, fleet, deployment_steps.steps(state.fleet, fleet, config), now_s, now_s,
            ends_s=now_s + longest_s if longest_s else 0.0,
        )  # fmt: skip
        self.keep(dataclasses.replace(endpoint_machine.begin(state, deployment, now_s), last_config=config))
        return {"EndpointArn": state.arn}

    def update_weights(self, params: Values) -> Values:
        state = self._changeable(params["EndpointName"])
        assert state.fleet is not None, "an endpoint in service has a fleet"
        wanted = params["DesiredWeightsAndCapacities"]
        for change in wanted:
            if state.fleet.variant(change["VariantName"]) is None:
                names = ", ".join(v.name for v in state.fleet.variants)
                raise fail(NO_VARIANT, endpoint=state.name, variant=change["VariantName"], variants=names)
            if change.get("DesiredInstanceCount") == 0:
                raise fail(PART_NOT_SUPPORTED, what="DesiredInstanceCount 0 (only inference components scale to zero)", hint="")
        fleet = state.fleet.resized(
            {c["VariantName"]: c[COUNTS] for c in wanted if COUNTS in c},
            {c["VariantName"]: c[WEIGHTS] for c in wanted if WEIGHTS in c},
        )
        now_s = time.time()
        scaling = Deployment(DeploymentKind.SCALE, state.fleet, fleet, deployment_steps.launch(fleet), now_s, now_s)
        self.keep(endpoint_machine.begin(state, scaling, now_s))
        return {"EndpointArn": state.arn}

    def delete(self, params: Values) -> Values:
        state = self.get(params["EndpointName"])
        if state.status in IN_USE:
            raise fail(IN_PROGRESS, arn=state.arn)
        self.keep(step_status(state, EndpointStatus.DELETING, time.time()))
        return {}

    # ---- records -------------------------------------------------------------------------------------------------------

    def get(self, name: str) -> EndpointState:
        row = self._store.get("endpoints", name)
        if row is None:
            raise fail(NO_ENDPOINT, arn=self._settings.arn("endpoint", name))
        return endpoint_of(row)

    def every(self) -> list[EndpointState]:
        return [endpoint_of(row) for row in self._store.rows("endpoints").values()]

    def keep(self, state: EndpointState) -> None:
        self._store.write(Change("endpoints", state.name, row_of(state)))

    def forget(self, state: EndpointState) -> None:
        self._store.write(Change("endpoints", state.name, None), Change("tags", state.arn, None))

    def _changeable(self, name: str) -> EndpointState:
        state = self.get(name)
        if state.status in IN_USE:
            raise fail(IN_PROGRESS, arn=state.arn)
        if state.status is EndpointStatus.FAILED:
            raise fail(FAILED_ENDPOINT, arn=state.arn)
        return state

    def _fleet(self, config_name: str, number: int) -> FleetPlan:
        """A copy of what config and models say now: both may be deleted while the fleet runs."""
        config = self._models.configs.get(config_name)
        return FleetPlan(number, config_name, tuple(self._variant(v) for v in config["ProductionVariants"]))

    def _variant(self, variant: Mapping[str, Any]) -> VariantPlan:
        container = self._models.models.get(variant["ModelName"])["PrimaryContainer"]
        return VariantPlan(
            variant["VariantName"], variant["ModelName"], container["Image"], variant["InitialInstanceCount"],
            variant["InitialVariantWeight"],             variant.get("RoutingConfig", {}).get("RoutingStrategy", "RANDOM"),
            float(variant.get("ContainerStartupHealthCheckTimeoutInSeconds", STARTUP_S)), container.get("Environment", {}),
            data_url(container),
        )  # fmt: skip


def _retained(new: FleetPlan, old: FleetPlan, without: set[str]) -> FleetPlan:
    kept = [v for v in old.variants if new.variant(v.name) is not None]
    return new.resized(
        {} if COUNTS in without else {v.name: v.instances for v in kept},
        {} if WEIGHTS in without else {v.name: v.weight for v in kept},
    )


def _check_policy(config: Mapping[str, Any], new: FleetPlan, old: FleetPlan | None) -> None:
    """Raises ApiError where guardrails exclude it (D: deployment guardrails, exclusions)."""
    if config.get("AutoRollbackConfiguration", {}).get("Alarms"):
        raise fail(
            PART_NOT_SUPPORTED, what="AutoRollbackConfiguration (alarms of CloudWatch)", hint=" A start that fails rolls back."
        )
    names = [{v.name for v in fleet.variants} for fleet in (new, old) if fleet is not None]
    if config and len(names) == 2 and names[0] != names[1]:
        raise fail(OTHER_VARIANTS, config=new.config, new=", ".join(sorted(names[0])), old=", ".join(sorted(names[1])))
    if "RollingUpdatePolicy" in config and len(new.variants) > 1:
        raise fail(
            PART_NOT_SUPPORTED, what="a rolling update of an endpoint with several variants, as AWS does not either", hint=""
        )
