"""What an engine has accepted and not yet finished: queues by shape, first come first served.

Owner of every item from its SUBMIT until its last row has been placed in a batch. Items of one key have equal row
shapes (after padding to a bucket) and may share a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False)
class Item:
    """One request in the engine. `placed` rows of it are in batches already; the rest waits.

    `peer`, `offset`, `capacity` and `used` say where it came from and goes back to; they mean nothing here.
    """

    id: int
    rows: int
    key: Hashable
    deadline_s: float
    arrived_s: float
    peer: Any = None
    offset: int = 0
    capacity: int = 0
    used: int = 0
    placed: int = 0
    gone: bool = False  # cancelled, expired or failed: skipped when its turn comes


@dataclass(slots=True)
class Pending:
    """The queue. `rows` counts what waits, over all keys."""

    rows: int = 0
    _queues: dict[Hashable, deque[Item]] = field(default_factory=dict)
    _by_id: dict[int, Item] = field(default_factory=dict)

    def add(self, item: Item) -> None:
        """Ids are unique among all fronts: each counts on from a start of its own."""
        queue = self._queues.get(item.key)
        if queue is None:
            queue = self._queues[item.key] = deque()
        queue.append(item)
        self._by_id[item.id] = item
        self.rows += item.rows

    def drop(self, id: int) -> Item | None:
        """Take an item out because its caller has left. None when it is not here: unknown, or wholly placed."""
        item = self._by_id.pop(id, None)
        if item is None:
            return None
        self._forget(item)
        return item

    def _forget(self, item: Item) -> None:
        self.rows -= item.rows - item.placed
        item.gone = True

    def fail(self, item: Item) -> None:
        """The item failed in a batch: its waiting rows must not run."""
        if not item.gone and self._by_id.pop(item.id, None) is item:
            self._forget(item)

    def placed_all(self, item: Item) -> None:
        self._by_id.pop(item.id, None)

    def queues(self) -> Iterator[tuple[Hashable, deque[Item]]]:
        """Every key that has waiting items, heads valid: what has gone is swept from the front."""
        for key in list(self._queues):
            queue = self._queues[key]
            while queue and (queue[0].gone or queue[0].placed == queue[0].rows):
                queue.popleft()
            if queue:
                yield key, queue
            else:
                del self._queues[key]

    def expired(self, now_s: float) -> list[Item]:
        """Items whose deadline has passed while they waited. The caller drops and answers them."""
        if not self._by_id:
            return []
        return [item for item in self._by_id.values() if item.deadline_s <= now_s]

    def __len__(self) -> int:
        return len(self._by_id)
