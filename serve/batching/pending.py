"""What an engine has accepted and not yet finished: queues by shape, first come first served.

Owner of every item from its SUBMIT until its last row has been placed in a batch. Items of one key have equal row
shapes (after padding to a bucket) and may share a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve.batching.placement import Segment


ALONE = "alone"  # the queue of those that share a batch with nobody, whatever their shape


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
    alone: bool = False  # it runs in a batch of its own
    gone: bool = False  # cancelled, expired or failed: skipped when its turn comes


@dataclass(slots=True)
class Pending:
    """The queue. `rows` counts what waits, over all keys."""

    rows: int = 0
    _queues: dict[Hashable, deque[Item]] = field(default_factory=dict)
    _by_id: dict[int, Item] = field(default_factory=dict)

    def add(self, item: Item) -> None:
        """Ids are unique among all fronts: each counts on from a start of its own."""
        key = ALONE if item.alone else item.key
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
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
        """The item failed in a batch: if rows of it still wait, they must not run."""
        self._by_id.pop(item.id, None)
        self._forget(item)

    def placed(self, segments: Iterable[Segment]) -> None:
        """These rows are in a batch now. An item whose last row is placed is here no more."""
        for item, _, rows in segments:
            self.rows -= rows
            if item.placed == item.rows:
                del self._by_id[item.id]

    def oldest(self) -> tuple[Hashable, deque[Item]] | None:
        """The queue whose head has waited longest, that head valid; None when nothing waits."""
        chosen: tuple[Hashable, deque[Item]] | None = None
        for key in list(self._queues):
            queue = self._queues[key]
            while queue and (queue[0].gone or queue[0].placed == queue[0].rows):
                queue.popleft()
            if not queue:
                del self._queues[key]
            elif chosen is None or queue[0].arrived_s < chosen[1][0].arrived_s:
                chosen = key, queue
        return chosen

    def items(self) -> Iterable[Item]:
        """Everything that waits, in whole or in part."""
        return self._by_id.values()

    def replace(self, item: Item, by: Sequence[Item]) -> None:
        """Put other items with the same waiting rows in an item's place in the queue."""
        queue = self._queues.setdefault(item.key, deque())
        at = queue.index(item) if item in queue else 0
        if at < len(queue) and queue[at] is item:
            del queue[at]
        del self._by_id[item.id]
        for offset, each in enumerate(by):
            queue.insert(at + offset, each)
            self._by_id[each.id] = each

    def drop_peer(self, peer: Any) -> list[Item]:
        """Take out everything that came from one front."""
        found = [item for item in self._by_id.values() if item.peer is peer]
        for item in found:
            self.drop(item.id)
        return found

    def expired(self, now_s: float) -> list[Item]:
        """Items whose deadline has passed while they waited. The caller drops and answers them."""
        if not self._by_id:
            return []
        return [item for item in self._by_id.values() if item.deadline_s <= now_s]

    def __len__(self) -> int:
        return len(self._by_id)
