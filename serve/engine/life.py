"""A replica's state where the others read it; only legal steps."""

from __future__ import annotations

import time

from serve.contract.lifecycle import State, step
from serve.contract.status import Block, Engine


class Life:
    """Writes the cells of its state in one block of the status page."""

    def __init__(self, block: Block) -> None:
        self.block, self.state = block, State.NEW

    def become(self, target: State) -> None:
        self.state = step(self.state, target)
        self._write(time.monotonic())

    def move(self, block: Block) -> None:
        """On in another block, in the same state."""
        old, self.block = self.block, block
        for cell in (Engine.WARM_DONE, Engine.WARM_TOTAL):
            block.count[cell] = old.count[cell]
        self._write(old.value[Engine.STATE_SINCE_S])

    def _write(self, since_s: float) -> None:
        self.block.value[Engine.STATE_SINCE_S] = since_s
        self.block.count[Engine.STATE] = int(self.state)
        if self.state is State.READY:
            self.block.count[Engine.WAS_READY] = 1
