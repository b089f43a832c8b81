"""Many small requests as one: the records of single rows that came together stay together, as a table.

At tens of thousands of requests a second the work per request is what an engine costs, so requests of one row and of
one fixed shape are queued, gathered and answered by columns: a few NumPy calls for all of them. A RowTable is an Item
whose rows are requests of their own. Whatever is out of the ordinary (a caller leaves, a deadline passes, a batch
fails) breaks the block up into plain items, or answers a single row of it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evenkeel.serve.batching.item import Item, Segment
from evenkeel.serve.transport.descriptor import RECORD_BYTES, REPLY, REQUEST, SUBMIT

Table = np.ndarray[Any, np.dtype[np.uint64]]
ROWS_MIN = 6  # with fewer records the columns cost more than they save
WORDS = RECORD_BYTES // 8
# A record as 8-byte words, in the order of the structs in transport/descriptor.py.
FIRST, ID, OFFSET, CAPACITY, USED, MODEL, DEADLINE = 0, 1, 2, 3, 4, 5, 6
SINGLE_WORD = REQUEST.pack(SUBMIT, 0, 1, 0, 0, 0, 0, 0, 0.0)[:8]  # SUBMIT of one row


@dataclass(slots=True, eq=False)
class RowTable(Item):
    """`table` has one record a row, `deadline_s` is the earliest.

    `id` is the first record's, negated: no front asks for it, and the rows keep their own.
    """

    rows_are_requests = True
    table: Table = field(default_factory=lambda: np.empty((0, WORDS), np.uint64))

    def single(self, row: int) -> Item:
        """One row as an item of its own."""
        words = self.table[row]
        deadline_s = float(words[DEADLINE : DEADLINE + 1].view(np.float64)[0])
        return Item(
            int(words[ID]), 1, self.key, deadline_s, self.arrived_s, self.peer, int(words[OFFSET]), int(words[CAPACITY]),
            int(words[USED]))  # fmt: skip

    def waiting(self) -> list[Item]:
        """What has not been placed yet, as items."""
        return [self.single(row) for row in range(self.placed, self.rows)]

    def holds(self, id: int) -> bool:
        return bool((self.table[self.placed :, ID] == id).any())


def block_of(records: bytes, peer: Any, key: Hashable, now_s: float, used: int, ref: int) -> RowTable | None:
    """A block of these records if every one is a SUBMIT of one row with `used` bytes of input for this model, else None."""
    table = np.frombuffer(records, np.uint64).reshape(-1, WORDS)
    count = len(table)
    # Bytes are compared faster than NumPy compares and reduces columns as short as these.
    if table[:, FIRST].tobytes() != SINGLE_WORD * count:
        return None
    _, _, _, id, offset, capacity, used_first, ref_first, deadline_s = REQUEST.unpack_from(records)
    if table[:, CAPACITY:].tobytes() != records[8 * CAPACITY : RECORD_BYTES] * count:  # not all of one turn of the front
        if table[:, USED : MODEL + 1].tobytes() != (used.to_bytes(8, "little") + ref.to_bytes(8, "little")) * count:
            return None
        capacity, deadline_s = int(table[:, CAPACITY].min()), float(table.view(np.float64)[:, DEADLINE].min())
    elif used_first != used or ref_first != ref:
        return None
    return RowTable(-id, count, key, deadline_s, now_s, peer, offset, capacity, used, table=table)


def broken_up(segments: list[Segment]) -> list[Segment]:
    """The same rows in the same order, with the rows of blocks as requests of their own."""
    if not any(isinstance(s.item, RowTable) for s in segments):
        return segments
    out: list[Segment] = []
    for s in segments:
        if isinstance(s.item, RowTable):
            out += [Segment(s.item.single(row), 0, 1) for row in range(s.start, s.start + s.rows)]
        else:
            out.append(s)
    return out


def span(segment: Segment) -> tuple[int, int]:
    """The first and last id of these rows of a block: a front's ids ascend in the order in which it submits."""
    item, start, rows = segment
    assert isinstance(item, RowTable), "other items have one id"
    return int(item.table[start, ID]), int(item.table[start + rows - 1, ID])


def replies(table: Table, reply: bytes, shift: int) -> bytes:
    """One reply for each record of the table: `reply` with the record's id, and its offset moved by `shift`."""
    out = np.empty((len(table), WORDS), np.uint64)
    out[:] = np.frombuffer(reply, np.uint64)
    out[:, ID : OFFSET + 1] = table[:, ID : OFFSET + 1]
    out[:, OFFSET] += np.uint64(shift)
    return out.tobytes()


assert REPLY.size == REQUEST.size and REPLY.unpack(b"\0" * 8 + b"\1" + b"\0" * 55)[4] == 1, "ids share a place in both"
