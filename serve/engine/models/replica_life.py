"""A replica's state where the others read it; only legal steps."""

from __future__ import annotations

import time

from evenkeel.serve.contract.lifecycle import ReplicaState, step
from evenkeel.serve.contract.status_page import Engine, StatusBlock


class ReplicaLife:
    """Writes the cells of its state in one block of the status page."""

    def __init__(self, block: StatusBlock) -> None:
        self.block, self.state = block, ReplicaState.NEW

    def become(self, target: ReplicaState) -> None:
        self.state = step(self.state, target)
        self._write(time.monotonic())

    def move(self, block: StatusBlock) -> None:
        """On in another block, in the same state."""
        old, self.block = self.block, block
        for cell in (Engine.WARM_DONE, Engine.WARM_TOTAL):
            block.count[cell] = old.count[cell]
        self._write(old.value[Engine.STATE_SINCE_S])

    def _write(self, since_s: float) -> None:
        self.block.value[Engine.STATE_SINCE_S] = since_s
        self.block.count[Engine.STATE] = int(self.state)
        if self.state is ReplicaState.READY:
            self.block.count[Engine.WAS_READY] = 1
