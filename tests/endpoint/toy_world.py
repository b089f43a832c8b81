"""A world without processes: instances become ready or not as a test says, and an endpoint is driven over a clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from evenkeel.endpoint.control import deployment_steps, endpoint_machine
from evenkeel.endpoint.control.endpoint_machine import Circumstances, Life, SeenInstance
from evenkeel.endpoint.control.endpoint_state import (
    Deployment,
    DeploymentKind,
    EndpointState,
    EndpointStatus,
    endpoint_of,
    row_of,
)
from evenkeel.endpoint.control.fleet_plan import FleetPlan, VariantPlan

START_S = 10.0


def fleet(number: int, instances: int = 2, config: str = "", **variants: int) -> FleetPlan:
    counts = variants or {"v": instances}
    plans = tuple(VariantPlan(name, f"m{number}", "/model", n, 1.0) for name, n in counts.items())
    return FleetPlan(number, config or f"c{number}", plans)


class ToyWorld:
    """`starts`: whether an instance of that fleet becomes ready START_S after its launch, else it ends; None: it hangs."""

    def __init__(
        self, state: EndpointState, starts: Callable[[int], bool | None] = lambda fleet: True, speed: float = 1.0
    ) -> None:
        self.state, self.starts, self.speed = state, starts, speed
        self.now_s = 1000.0
        self.instances: dict[str, SeenInstance] = {}
        self.told: list[str] = []
        self.firing: frozenset[str] = frozenset()
        self.number = 0
        self.restarts = False

    def tick(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        for name, seen in self.instances.items():
            if seen.life is Life.STARTING and self.now_s >= seen.launched_s + START_S:
                good = self.starts(seen.fleet)
                if good is None:
                    continue
                life, why = (Life.READY, "") if good else (Life.ENDED, "container exited 1 after 10 s: boom")
                self.instances[name] = dataclasses.replace(seen, life=life, was_ready=good, why=why)
        for _ in range(8):
            if self.restarts:  # everything that a successor knows comes from the disk
                self.state = endpoint_of(row_of(self.state))
            at = Circumstances(self.now_s, self.speed, self.firing)
            moved = endpoint_machine.advance(self.state, list(self.instances.values()), at)
            self.make(moved)
            if moved == self.state:
                break
            self.state = moved
        self.tell()

    def make(self, state: EndpointState) -> None:
        wanted = endpoint_machine.wanted(state)
        living = [s for s in self.instances.values() if s.life is not Life.ENDED]
        for which in {*wanted, *((s.fleet, s.variant) for s in living)}:
            mine = [s for s in living if (s.fleet, s.variant) == which]
            for extra in mine[wanted.get(which, 0) :]:
                self.instances[extra.name] = dataclasses.replace(extra, life=Life.ENDED)
            if which[0] in endpoint_machine.launchable(state):
                for _ in range(wanted.get(which, 0) - len(mine)):
                    self.number += 1
                    name = f"i{self.number}"
                    self.instances[name] = SeenInstance(name, *which, Life.STARTING, self.now_s)

    def count(self, number: int, life: Life = Life.READY) -> int:
        return sum(s.fleet == number and s.life is life for s in self.instances.values())

    def serving(self) -> int:
        """Ready instances that have a share of the traffic."""
        shares = endpoint_machine.shares(self.state)
        return sum(s.life is Life.READY and shares.get(s.fleet, 0) > 0 for s in self.instances.values())

    def tell(self) -> None:
        deployment = self.state.deployment
        shares = {n: round(share, 2) for n, share in endpoint_machine.shares(self.state).items()}
        line = f"{self.state.status} {deployment.phase if deployment else '-'} {shares} {self.count(1)}+{self.count(2)}"
        if not self.told or self.told[-1] != line:
            self.told.append(line)

    def until(self, *statuses: EndpointStatus, within_s: float = 2000.0) -> None:
        end_s = self.now_s + within_s
        while self.state.status not in statuses:
            assert self.now_s < end_s, f"not in time: {self.told[-5:]}"
            self.tick()


def created(instances: int = 2, **options: Any) -> ToyWorld:
    """An endpoint in service, of fleet 1."""
    first = fleet(1, instances)
    deployment = Deployment(DeploymentKind.CREATE, None, first, deployment_steps.launch(first), 1000.0, 1000.0)
    world = ToyWorld(EndpointState("e", "arn", EndpointStatus.CREATING, 1000.0, 1000.0, None, deployment, fleets=1), **options)
    world.until(EndpointStatus.IN_SERVICE)
    return world


def update(world: ToyWorld, config: dict[str, Any], instances: int = 2, **changes: Any) -> None:
    assert world.state.fleet is not None
    new = fleet(2, instances)
    steps = deployment_steps.steps(world.state.fleet, new, config)
    deployment = Deployment(DeploymentKind.UPDATE, world.state.fleet, new, steps, world.now_s, world.now_s, **changes)
    world.state = endpoint_machine.begin(world.state, deployment, world.now_s)
    world.told.clear()
    world.tick(0.0)
