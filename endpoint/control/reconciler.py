"""Makes the world what the states of the endpoints want: instances launched and ended, routes told, deployments taken further.

It looks five times a second, and after each look everything that it decided is on the disk before it is done, so a process
that takes over after a kill goes on from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from evenkeel.endpoint.control import endpoint_machine
from evenkeel.endpoint.control.endpoint_calls import EndpointCalls
from evenkeel.endpoint.control.endpoint_machine import Circumstances, Life
from evenkeel.endpoint.control.endpoint_state import EndpointState, EndpointStatus
from evenkeel.endpoint.control.router_link import RouterLink
from evenkeel.endpoint.fleet.instance_fleet import Instance, InstanceFleet
from evenkeel.serve.contract.logline import log

LOOK_EVERY_S = 0.2
MOVEMENTS_MAX = 64  # of a deployment in one look
AGAIN_S_MAX = 30.0  # between launches of what ends at once: 1, 2, 4 … s
GONE = (Life.LEAVING, Life.ENDED)
ROUTED = (EndpointStatus.IN_SERVICE, EndpointStatus.UPDATING, EndpointStatus.UPDATE_ROLLBACK_FAILED)


class Reconciler:
    def __init__(self, endpoints: EndpointCalls, fleet: InstanceFleet, router: RouterLink, speed: float) -> None:
        self._endpoints, self._fleet, self._router, self._speed = endpoints, fleet, router, speed
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        while True:
            self._fleet.look()
            for state in self._endpoints.every():
                try:
                    self._reconcile(state)
                except OSError as e:  # a full disk; what was decided is decided again
                    log("endpoint_error", f"endpoint {state.name}: {e}")
            await asyncio.sleep(LOOK_EVERY_S)

    def _reconcile(self, state: EndpointState) -> None:
        for _ in range(MOVEMENTS_MAX):
            moved = endpoint_machine.advance(state, self.seen(state), Circumstances(time.time(), self._speed))
            if moved == state:
                break
            self._endpoints.keep(moved)
            if moved.status is not state.status:
                log("endpoint_status", f"endpoint {state.name}: {moved.status}", config=moved.config, why=moved.failure)
            state = moved
            self._make(state)
        self._make(state)
        if state.status is EndpointStatus.DELETING and not self._living(state):
            self._endpoints.forget(state)
            self._fleet.tidy(state.name, keep=0)

    def seen(self, state: EndpointState) -> list[endpoint_machine.SeenInstance]:
        return [instance.seen() for instance in self._fleet.of(state.name)]

    def _living(self, state: EndpointState) -> list[Instance]:
        return [i for i in self._fleet.of(state.name) if i.life is not Life.ENDED]

    def _make(self, state: EndpointState) -> None:
        wanted = endpoint_machine.wanted(state)
        fleets = endpoint_machine.fleets(state)
        present: dict[tuple[int, str], list[Instance]] = {key: [] for key in wanted}
        for instance in self._fleet.of(state.name):
            if instance.life not in GONE:
                present.setdefault((instance.fleet, instance.variant), []).append(instance)
        for (number, name), mine in present.items():
            missing = wanted.get((number, name), 0) - len(mine)
            if missing < 0:
                self._end(_victims(mine, -missing))
            elif number in endpoint_machine.launchable(state) and (plan := fleets[number].variant(name)) is not None:
                for _ in range(missing if self._may_launch(state, number, name) else 0):
                    self._fleet.launch(state.name, number, plan)
        self._fleet.tidy(state.name)
        self._router.tell(state.name, self._route(state))

    def _may_launch(self, state: EndpointState, number: int, variant: str) -> bool:
        """What ended before it was ready is launched again, each time after twice as long."""
        mine = [i for i in self._fleet.of(state.name) if (i.fleet, i.variant) == (number, variant)]
        failed = [i for i in mine if i.life is Life.ENDED and not i.was_ready]
        return not failed or time.time() > failed[-1].launched_s + min(AGAIN_S_MAX, 2.0 ** (len(failed) - 1))

    def _end(self, instances: Sequence[Instance]) -> None:
        """Out of the routes first, then what is in flight, then the process."""
        for instance in instances:
            instance.life = Life.LEAVING
            task = asyncio.get_running_loop().create_task(self._leave(instance))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _leave(self, instance: Instance) -> None:
        await asyncio.sleep(0)  # after the routes of this look were told
        await self._router.drained([instance.name])
        self._fleet.end(instance)

    def _route(self, state: EndpointState) -> dict[str, Any] | None:
        """As the router reads it. An endpoint that is not in service is not there for clients (O)."""
        if state.status not in ROUTED or state.fleet is None:
            return None
        shares, fleets = endpoint_machine.shares(state), endpoint_machine.fleets(state)
        ready = [i for i in self._fleet.of(state.name) if i.life is Life.READY and i.place is not None]
        names = list(dict.fromkeys(v.name for number in shares for v in fleets[number].variants))
        return {"variants": [_variant(name, state, shares, ready) for name in names]}


def _variant(name: str, state: EndpointState, shares: dict[int, float], ready: Sequence[Instance]) -> dict[str, Any]:
    fleets = endpoint_machine.fleets(state)
    plans = {number: plan for number in shares if (plan := fleets[number].variant(name)) is not None}
    weight = sum(plans[number].weight * shares[number] for number in plans)
    strategy = next(plan.strategy for plan in plans.values())
    routes = []
    for number in plans:
        mine = [i for i in ready if (i.fleet, i.variant) == (number, name)]
        addresses = [[i.name, i.place.address, i.place.port] for i in mine if i.place is not None]
        routes.append({"share": shares[number], "config": fleets[number].config, "instances": addresses})
    return {"name": name, "weight": weight, "strategy": strategy, "fleets": routes}


def _victims(instances: Sequence[Instance], count: int) -> list[Instance]:
    """Those not in service first, then the youngest."""
    return sorted(instances, key=lambda i: (i.life is Life.READY, -i.launched_s))[:count]
