"""Which idle connection makes room for a new one when there are as many as there may be.

The rule: a newcomer takes the place of the longest idle connection of its own address. Where its address has none, the address
with the most idle connections gives its longest idle one. Only those count that have been idle for over a second, so that a
client that is between two requests keeps its connection. If there are none, and one address holds over half of all places, any
of its connections that waits for a request makes room for a newcomer of another address: who asks a little all the time must not
shut everybody else out. Else the newcomer gets no place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

IDLE_FOR_S = 1.0
LOOK_S = 0.25  # between two looks at all connections, however many come: one costs a millisecond


class IdleCandidate(Protocol):
    @property
    def address(self) -> str: ...

    @property
    def idle_since_s(self) -> float | None: ...  # None: it is not idle, or was not yet when somebody last looked

    @property
    def is_idle(self) -> bool: ...


C = TypeVar("C", bound=IdleCandidate)


class IdleConnections(Generic[C]):
    """What the last look found, less what has been taken since: the longest idle of each address last."""

    def __init__(self) -> None:
        self._by_address: dict[str, list[C]] = {}
        self._greedy: list[C] = []  # of the address that holds over half of all places
        self._looked_s = float("-inf")

    def choose(self, newcomer: C, connections: Iterable[C], now_s: float) -> C | None:
        """Who makes room, by the rule above; it is not chosen twice."""
        if now_s - self._looked_s >= LOOK_S:
            self._look(connections, now_s)
        while self._by_address:
            address = newcomer.address if newcomer.address in self._by_address else self._most()
            waiting = self._by_address[address]
            chosen = waiting.pop()
            if not waiting:
                del self._by_address[address]
            if _idle_long(chosen, now_s):  # it may have asked something since
                return chosen
        while self._greedy and self._greedy[-1].address != newcomer.address:
            chosen = self._greedy.pop()
            if chosen.is_idle:
                return chosen
        return None

    def _most(self) -> str:
        return max(self._by_address, key=lambda address: len(self._by_address[address]))

    def _look(self, connections: Iterable[C], now_s: float) -> None:
        self._looked_s = now_s
        by_address: defaultdict[str, list[tuple[float, int, C]]] = defaultdict(list)
        everybody = list(connections)
        for number, connection in enumerate(everybody):
            since_s = connection.idle_since_s
            if since_s is not None and now_s - since_s > IDLE_FOR_S:
                by_address[connection.address].append((-since_s, number, connection))
        self._by_address = {address: [c for *_, c in sorted(each)] for address, each in by_address.items()}
        address, most = max(Counter(c.address for c in everybody).items(), key=itemgetter(1), default=("", 0))
        self._greedy = [c for c in everybody if c.address == address] if 2 * most > len(everybody) else []


def _idle_long(connection: IdleCandidate, now_s: float) -> bool:
    since_s = connection.idle_since_s
    return since_s is not None and now_s - since_s > IDLE_FOR_S
