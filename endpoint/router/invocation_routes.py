"""Who gets a request: a variant by its weight, a fleet of it by its share, an instance at random or the least busy. Pure.

An instance is known by name; how much it has in flight is counted where requests are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
LEAST = "LEAST_OUTSTANDING_REQUESTS"


@dataclass(frozen=True, slots=True)
class InstanceAddress:
    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class FleetRoute:
    share: float
    config: str
    instances: tuple[InstanceAddress, ...]


@dataclass(frozen=True, slots=True)
class VariantRoute:
    name: str
    weight: float
    strategy: str
    fleets: tuple[FleetRoute, ...]


@dataclass(frozen=True, slots=True)
class EndpointRoute:
    variants: tuple[VariantRoute, ...]

    def variant(self, chance: float, target: str) -> VariantRoute | None:
        """`chance` is in [0, 1). The target counts whatever its weight is (D: InvokeEndpoint)."""
        if target:
            return next((v for v in self.variants if v.name == target), None)
        return _by_weight(self.variants, [v.weight for v in self.variants], chance)


def instance(
    variant: VariantRoute, chance: float, second: float, in_flight: Mapping[str, int], without: str = ""
) -> InstanceAddress | None:
    """`chance` picks the fleet and `second` the instance. A fleet that has nobody leaves its share to the others."""
    fleets = [f for f in variant.fleets if any(i.name != without for i in f.instances)]
    fleet = _by_weight(fleets, [f.share for f in fleets], chance)
    if fleet is None:
        return None
    fitting = [i for i in fleet.instances if i.name != without]
    if variant.strategy == LEAST:
        least = min(in_flight.get(i.name, 0) for i in fitting)
        fitting = [i for i in fitting if in_flight.get(i.name, 0) == least]
    return fitting[int(second * len(fitting))]


def _by_weight(choices: Sequence[T], weights: Sequence[float], chance: float) -> T | None:
    """Where all weights are 0, all count the same."""
    if not choices:
        return None
    total = sum(weights)
    if total <= 0:
        return choices[int(chance * len(choices))]
    left = chance * total
    for choice, weight in zip(choices, weights, strict=True):
        left -= weight
        if left < 0:
            return choice
    return next(c for c, w in zip(reversed(choices), reversed(weights), strict=True) if w > 0)


def route_of(told: Mapping[str, Any]) -> EndpointRoute:
    return EndpointRoute(
        tuple(
            VariantRoute(
                v["name"], v["weight"], v["strategy"],
                tuple(
                    FleetRoute(f["share"], f["config"], tuple(InstanceAddress(*i) for i in f["instances"])) for f in v["fleets"]
                ),
            )
            for v in told["variants"]
        )
    )  # fmt: skip
