"""Who gets a request: shares as told, and nobody without an instance."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from evenkeel.endpoint.router.invocation_routes import EndpointRoute, VariantRoute, instance, route_of


def route(**weights: float) -> EndpointRoute:
    variants = [
        {
            "name": n,
            "weight": w,
            "strategy": "RANDOM",
            "fleets": [{"share": 1.0, "config": "c", "instances": [["i", "127.0.0.1", 1]]}],
        }
        for n, w in weights.items()
    ]
    return route_of({"variants": variants})


def variant(*shares: tuple[float, tuple[str, ...]], strategy: str = "RANDOM") -> VariantRoute:
    fleets = [{"share": s, "config": "c", "instances": [[n, "127.0.0.1", 1] for n in names]} for s, names in shares]
    return route_of({"variants": [{"name": "v", "weight": 1.0, "strategy": strategy, "fleets": fleets}]}).variants[0]


def spread(chosen: VariantRoute, **in_flight: int) -> Counter[str]:
    chance = random.Random(7)
    found = (instance(chosen, chance.random(), chance.random(), in_flight) for _ in range(4000))
    return Counter(i.name for i in found if i is not None)


def test_variants_get_their_weights_share() -> None:
    chance = random.Random(7)
    found = Counter(v.name for _ in range(4000) if (v := route(a=3.0, b=1.0, c=0.0).variant(chance.random(), "")))
    assert set(found) == {"a", "b"} and 2800 < found["a"] < 3200


def test_a_target_counts_whatever_its_weight() -> None:
    chosen = route(a=1.0, b=0.0).variant(0.0, "b")
    assert chosen is not None and chosen.name == "b"
    assert route(a=1.0).variant(0.0, "x") is None


def test_a_canary_gets_its_share_and_instances_of_a_fleet_the_same() -> None:
    found = spread(variant((0.75, ("a", "b")), (0.25, ("c",))))
    assert 900 < found["c"] < 1100 and 1350 < found["a"] < 1650


def test_a_fleet_without_instances_leaves_its_share_to_the_other() -> None:
    assert set(spread(variant((0.0, ("a",)), (1.0, ())))) == {"a"}
    assert spread(variant((1.0, ()))) == Counter()


def test_a_fleet_without_a_share_gets_nothing_while_another_can() -> None:
    assert set(spread(variant((0.0, ("a",)), (1.0, ("b",))))) == {"b"}


def test_the_least_busy_is_chosen_where_that_is_wanted() -> None:
    chosen = variant((1.0, ("a", "b", "c")), strategy="LEAST_OUTSTANDING_REQUESTS")
    assert set(spread(chosen, a=3, b=1, c=1)) == {"b", "c"}


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999999999])
def test_every_chance_finds_somebody(chance: float) -> None:
    assert instance(variant((0.1, ("a",)), (0.2, ("b",))), chance, chance, {}) is not None
    assert instance(variant((0.1, ("a",)), (0.2, ("b",))), chance, chance, {}, without="a").name == "b"  # type: ignore[union-attr]
