"""The model for which an engine was started: the main thread waits to be told of it, loads it, and says what came of that.

An engine that cannot load its first model ends (EXIT_BAD_MODEL), as it can be nothing else; so it is answered before it goes, and
nothing more is loaded or unloaded meanwhile.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from evenkeel.serve.contract.commands import CommandError, Refusal, Result
from evenkeel.serve.contract.model_order import ModelOrder

if TYPE_CHECKING:
    from evenkeel.serve.engine.engine_commands import Finish

RETRY_S = 1.0


class FirstModel:
    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[ModelOrder] = queue.SimpleQueue()
        self._finish: Finish | None = None
        self._lock = threading.Lock()

    def load(self, order: ModelOrder, finish: Finish) -> None:
        with self._lock:
            if self._finish is not None:
                raise CommandError(Refusal.BUSY, "this engine loads its first model", retry_after_s=RETRY_S)
            self._finish = finish
        self._orders.put(order)

    def unload(self, number: int, generation: int, finish: Finish) -> None:
        raise CommandError(Refusal.REFUSED, "no model is loaded here yet")

    def describe(self) -> Result:
        return {"models": []}

    def wait(self) -> ModelOrder:
        """Until the supervisor has said which. It asks again until it has been heard."""
        return self._orders.get()

    def done(self, outcome: Result | CommandError) -> None:
        assert self._finish is not None, "it was told to load"
        self._finish(outcome)
