"""What an endpoint should run: a fleet for each endpoint config, with variants of so many instances. Records."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

STARTUP_S = 480.0  # HOST: consistently passing within 8 minutes
FIRST_LAUNCHES_MAX = 3  # of instances that end before they were ready, until a start has failed (ours)


@dataclass(frozen=True, slots=True)
class VariantPlan:
    """`folder` is the model's, made ready; `startup_s` bounds from launch to the first passing ping."""

    name: str
    model: str
    image: str
    instances: int
    weight: float
    strategy: str = "RANDOM"
    startup_s: float = STARTUP_S
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    model_data: str = ""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """`number` tells the fleets of an endpoint apart, also when a config is used a second time."""

    number: int
    config: str
    variants: tuple[VariantPlan, ...]

    def variant(self, name: str) -> VariantPlan | None:
        return next((v for v in self.variants if v.name == name), None)

    def resized(self, counts: dict[str, int], weights: dict[str, float]) -> FleetPlan:
        changed = tuple(
            dataclasses.replace(v, instances=counts.get(v.name, v.instances), weight=weights.get(v.name, v.weight))
            for v in self.variants
        )
        return dataclasses.replace(self, variants=changed)


def fleet_of(row: dict[str, Any]) -> FleetPlan:
    return FleetPlan(row["number"], row["config"], tuple(VariantPlan(**v) for v in row["variants"]))
