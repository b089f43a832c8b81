"""What an engine has accepted and not yet finished: queues by shape, first come first served, large requests in turns.

Owner of every item from its SUBMIT until its last row has been placed in a batch. Items of one key have equal row
shapes (after padding to a bucket) and may share a batch. An item of more rows than one batch can hold is large: with each
batch that takes rows of it, it goes to the end of its queue, so nobody waits behind more than one batch of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evenkeel.serve.batching.item import ALONE, Item, Segment


@dataclass(slots=True)
class Pending:
    """The queue. `rows` counts what waits, over all keys. `turn_rows`: the largest batch.

    `large` and `beyond` tell those who come now how much of that they will not wait behind: the number of large requests, and
    their rows beyond the next turn of each.
    """

    turn_rows: int = 1 << 31
    rows: int = 0
    large: int = 0
    beyond: int = 0
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
        if item.rows > self.turn_rows:
            self._count_large(item, 1)

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
        if item.rows > self.turn_rows and item.placed < item.rows:
            self._count_large(item, -1)

    def _count_large(self, item: Item, change: int) -> None:
        if not item.rows_are_requests:
            self.large += change
            self.beyond += change * max(0, item.rows - item.placed - self.turn_rows)

    def fail(self, item: Item) -> None:
        """The item failed in a batch: if rows of it still wait, they must not run."""
        self._by_id.pop(item.id, None)
        self._forget(item)

    def placed(self, segments: Iterable[Segment], now_s: float = 0.0) -> None:
        """These rows are in a batch now. An item whose last row is placed is here no more; a large one has had its turn."""
        for item, _, rows in segments:
            self.rows -= rows
            if item.rows > self.turn_rows and not item.rows_are_requests:
                self._had_turn(item, rows, now_s)
            if item.placed == item.rows:
                del self._by_id[item.id]

    def _had_turn(self, item: Item, rows: int, now_s: float) -> None:
        """Of a large item at the head of its queue, or one that has just left it."""
        waiting = item.rows - item.placed
        self.beyond -= max(0, waiting + rows - self.turn_rows) - max(0, waiting - self.turn_rows)
        if not waiting:
            self.large -= 1
            return
        item.turn_s = now_s
        queue = self._queues[ALONE if item.alone else item.key]
        assert queue[0] is item, "only the last item of a batch can have rows left, and it is the head then"
        queue.rotate(-1)

    def oldest(self) -> tuple[Hashable, deque[Item]] | None:
        """The queue whose head has waited longest, that head valid; None when nothing waits."""
        chosen: tuple[Hashable, deque[Item]] | None = None
        for key in list(self._queues):
            queue = self._queues[key]
            while queue and (queue[0].gone or queue[0].placed == queue[0].rows):
                queue.popleft()
            if not queue:
                del self._queues[key]
            elif chosen is None or queue[0].waits_since_s < chosen[1][0].waits_since_s:
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
        items = [item for item in self._by_id.values() if item.peer is peer]
        for item in items:
            self.drop(item.id)
        return items

    def expired(self, now_s: float) -> list[Item]:
        """Items whose deadline has passed while they waited. The caller drops and answers them."""
        if not self._by_id:
            return []
        return [item for item in self._by_id.values() if item.deadline_s <= now_s]

    def __len__(self) -> int:
        return len(self._by_id)
