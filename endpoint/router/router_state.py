"""What the router knows: routes by endpoint, connections by instance, and what is in flight. One event loop owns it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any

from evenkeel.endpoint.router import invocation_heads
from evenkeel.endpoint.router.instance_side import InstancePool
from evenkeel.endpoint.router.invocation_routes import EndpointRoute, InstanceAddress
from evenkeel.endpoint.wire.api_errors import ApiError


class RouterState:
    def __init__(self, payload_bytes: int, region: str, account: str) -> None:
        self.payload_bytes, self.account, self._region = payload_bytes, account, region
        self.routes: dict[str, EndpointRoute] = {}
        self.in_flight: Counter[str] = Counter()
        self._pools: dict[str, InstancePool] = {}
        self._waiting: list[tuple[frozenset[str], asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- routes --------------------------------------------------------------------------------------------------------

    def set_route(self, endpoint: str, route: EndpointRoute | None) -> None:
        if route is None:
            self.routes.pop(endpoint, None)
        else:
            self.routes[endpoint] = route
        known = {i.name for r in self.routes.values() for v in r.variants for f in v.fleets for i in f.instances}
        for name in set(self._pools) - known:
            self._pools.pop(name).close()

    def pool(self, instance: InstanceAddress) -> InstancePool:
        if instance.name not in self._pools:
            self._pools[instance.name] = InstancePool(instance.host, instance.port)
        return self._pools[instance.name]

    # ---- requests ------------------------------------------------------------------------------------------------------

    def taken(self, instance: str) -> None:
        self.in_flight[instance] += 1

    def left(self, instance: str) -> None:
        self.in_flight[instance] -= 1
        if self.in_flight[instance] <= 0:
            del self.in_flight[instance]
            for names, future in self._waiting:
                if not future.done() and not any(self.in_flight[n] for n in names if n in self.in_flight):
                    future.set_result(None)

    async def drained(self, instances: Iterable[str], within_s: float) -> None:
        """Returns once nothing of theirs is in flight, or the time is over."""
        names = frozenset(instances)
        if not any(n in self.in_flight for n in names):
            return
        entry = (names, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            await asyncio.wait_for(entry[1], within_s)
        except TimeoutError:
            pass
        finally:
            self._waiting.remove(entry)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- errors --------------------------------------------------------------------------------------------------------

    def model_error(self, endpoint: str, status: int, original: bytes) -> ApiError:
        return invocation_heads.model_error(endpoint, status, original, self._region, self.account)

    def no_answer(self, endpoint: str, why: str) -> ApiError:
        return invocation_heads.no_answer(endpoint, why, self._region, self.account)
