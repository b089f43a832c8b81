"""What the router knows: routes by endpoint, connections by instance, and what is in flight. One event loop owns it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

from evenkeel.endpoint.router import invocation_heads
from evenkeel.endpoint.router.instance_side import InstancePool
from evenkeel.endpoint.router.invocation_routes import EndpointRoute, InstanceAddress
from evenkeel.endpoint.wire.api_errors import ApiError

LOOK_S = 0.25  # between two looks for deadlines that have passed


class HasDeadline(Protocol):
    """What has a deadline, by the monotonic clock."""

    deadline_s: float

    def is_due(self) -> None: ...


class RouterState:
    def __init__(self, payload_bytes: int, region: str, account: str) -> None:
        self.payload_bytes, self.account, self._region = payload_bytes, account, region
        self.routes: dict[str, EndpointRoute] = {}
        self.in_flight: Counter[str] = Counter()
        self._pools: dict[str, InstancePool] = {}
        self._waiting: list[tuple[frozenset[str], asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timed: set[HasDeadline] = set()
        self._is_looking = False

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

    # ---- deadlines -----------------------------------------------------------------------------------------------------

    def watch(self, timed: HasDeadline) -> None:
        """It is told when its deadline has passed, within a look. One timer for all: one for each request costs it CPU."""
        self._timed.add(timed)
        self._look_later()

    def forget(self, timed: HasDeadline) -> None:
        self._timed.discard(timed)

    def _look(self) -> None:
        now_s = time.monotonic()
        for timed in [each for each in self._timed if now_s >= each.deadline_s]:
            timed.is_due()
        self._is_looking = False
        self._look_later()

    def _look_later(self) -> None:
        if self._timed and not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(LOOK_S, self._look)

    # ---- errors --------------------------------------------------------------------------------------------------------

    def model_error(self, endpoint: str, status: int, original: bytes) -> ApiError:
        return invocation_heads.model_error(endpoint, status, original, self._region, self.account)

    def no_answer(self, endpoint: str, why: str) -> ApiError:
        return invocation_heads.no_answer(endpoint, why, self._region, self.account)
