"""What all models of one engine share. Nothing here belongs to one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from evenkeel.serve.contract.status_page import StatusBlock
from evenkeel.serve.engine.cycle.run_stamp import RunStamp
from evenkeel.serve.engine.peers import Peers


@dataclass(slots=True)
class QueueTotals:
    """What waits for all models of this process. On the page it is written as it is, never added to: a predecessor may still be
    finishing there."""

    rows: int = 0
    large: int = 0
    beyond: int = 0


@dataclass(frozen=True, slots=True)
class EngineContext:
    block: StatusBlock
    stamp: RunStamp
    peers: Peers
    clock: Callable[[], float]
    waiting: QueueTotals = field(default_factory=QueueTotals)
