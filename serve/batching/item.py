"""One request in an engine, and the part of it that is in a batch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

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
    turn_s: float = 0.0  # when it last had its turn; 0: it has had none
    rows_are_requests: ClassVar[bool] = False  # a table of requests of one row each, see engine/cycle/row_table.py

    @property
    def waits_since_s(self) -> float:
        return max(self.arrived_s, self.turn_s)


class Segment(NamedTuple):
    """Rows `start` to `start + rows` of a request, at the same place in the batch as in the list of segments."""

    item: Item
    start: int
    rows: int
