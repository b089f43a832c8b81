"""Loading and unloading while the engine serves: in a thread of its own, one after the other, so that the cycle never waits.

How it works. A model that is loaded and proven is handed to the cycle, which takes requests for it from its next turn on. One
that is to go takes nothing more from then on; when it has answered what it had, the cycle hands it back, and this thread lets
go of it: its memory is given to the system before the unload is answered. Owner of what is being done with each number.
"""

from __future__ import annotations

import ctypes
import gc
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from evenkeel.serve.contract.commands import CommandError, Refusal, Result
from evenkeel.serve.contract.logline import log
from evenkeel.serve.engine import failures
from evenkeel.serve.errors import EvenkeelError, OutOfMemory
from evenkeel.serve.transport.descriptor import model_ref

if TYPE_CHECKING:
    from evenkeel.serve.contract.model_order import ModelOrder
    from evenkeel.serve.engine.cycle.cycle import Cycle
    from evenkeel.serve.engine.cycle.model_cycle import ModelCycle
    from evenkeel.serve.engine.engine_commands import Finish
    from evenkeel.serve.engine.models.replica import Replica

JOBS_MAX = 64  # begun and not done
RETRY_S = 1.0
DESCRIBED_MAX = 8  # models that one answer names
NAME_CHARS_MAX = 100  # of each
TURN_S_MAX = 5.0  # for the cycle to come round while a batch runs

ModelPhase = Enum("ModelPhase", "LOADING LOADED UNLOADING")
_NOW: dict[ModelPhase, str] = {
    ModelPhase.LOADING: "is being loaded",
    ModelPhase.LOADED: "is loaded already",
    ModelPhase.UNLOADING: "is being unloaded",
}


class ModelLoads:
    """`load_replica` makes a replica that is proven; it raises what the model raises. `first`: says what the engine's own model
    is, which cannot be unloaded, since it ends with its engine."""

    def __init__(
        self, cycle: Cycle, load_replica: Callable[[ModelOrder], Replica], own_number: int | None = None,
        first: Callable[[], list[Result]] = list,
    ) -> None:  # fmt: skip
        self._cycle, self._load_replica, self._own_number, self._first = cycle, load_replica, own_number, first
        self._lock = threading.Lock()
        self._phases: dict[int, tuple[int, ModelPhase]] = {}  # by number: the generation, and what is done with it
        self._names: dict[int, Result] = {}
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._open = 0

    def start(self) -> None:
        threading.Thread(target=self._work, name="loader", daemon=True).start()

    # ---- what is asked, in the thread of the commands ----------------------------------------------------------------

    def load(self, order: ModelOrder, finish: Finish) -> None:
        with self._lock:
            phase = self._phases.get(order.number)
            if order.number == self._own_number:
                raise CommandError(Refusal.REFUSED, f"model number {order.number} {_NOW[ModelPhase.LOADED]}")
            if phase is not None:
                raise CommandError(Refusal.REFUSED, f"model number {order.number} {_NOW[phase[1]]} (generation {phase[0]})")
            self._admit()
            self._phases[order.number] = order.generation, ModelPhase.LOADING
        self._jobs.put(partial(self._load, order, finish))

    def unload(self, number: int, generation: int, finish: Finish) -> None:
        if number == self._own_number:
            raise CommandError(Refusal.REFUSED, "this engine was started for that model, which ends with it: use drain")
        with self._lock:
            found = self._phases.get(number)
            if found is None or found[0] != generation:
                raise CommandError(Refusal.REFUSED, f"model number {number}, generation {generation}, is not loaded")
            if found[1] is not ModelPhase.LOADED:
                raise CommandError(Refusal.REFUSED, f"model number {number} {_NOW[found[1]]}")
            self._admit()
            self._phases[number] = generation, ModelPhase.UNLOADING
        self._cycle.call(partial(self._cycle.withdraw, model_ref(number, generation), partial(self._gone, finish)))

    def describe(self) -> Result:
        with self._lock:
            names, count = list(self._names.values())[:DESCRIBED_MAX], len(self._names)
        first = self._first()
        return {"models": [*first, *names], "count": len(first) + count}

    def _admit(self) -> None:
        if self._open >= JOBS_MAX:
            raise CommandError(Refusal.BUSY, f"{JOBS_MAX} models are being loaded or unloaded", retry_after_s=RETRY_S)
        self._open += 1

    # ---- what is done ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def _load(self, order: ModelOrder, finish: Finish) -> None:
        try:
            replica = self._loaded(order)
        except failures.DeviceLost as e:
            self._cycle.call(partial(_raise, e))
            return
        except CommandError as error:
            log("model_not_loaded", error.message, model=order.name[:NAME_CHARS_MAX], level="warning")
            with self._lock:
                del self._phases[order.number]
                self._open -= 1
            finish(error)
            return
        self._cycle.call(partial(self._add, order, replica, finish))

    def _loaded(self, order: ModelOrder) -> Replica:
        """Raises CommandError, and DeviceLost."""
        try:
            return self._load_replica(order)
        except BaseException as e:  # foreign code: what it raises is an error of this model, not of the engine
            raise why_not_loaded(e) from e

    def _add(self, order: ModelOrder, replica: Replica, finish: Finish) -> None:
        """In the cycle's thread."""
        self._cycle.add(replica)
        described = {"name": replica.manifest.name[:NAME_CHARS_MAX], "version": replica.manifest.version[:NAME_CHARS_MAX],
                     "number": order.number, "revision": order.generation}  # fmt: skip
        with self._lock:
            self._phases[order.number] = order.generation, ModelPhase.LOADED
            self._names[order.number] = described
            self._open -= 1
        finish(described)

    def _gone(self, finish: Finish, model: ModelCycle) -> None:
        """In the cycle's thread: it has nothing to do any more."""
        self._jobs.put(partial(self._free, [model], model.replica.number, finish))

    def _free(self, models: list[ModelCycle], number: int, finish: Finish) -> None:
        """`models`: the last reference to it, once the cycle has come round."""
        turned = threading.Event()
        self._cycle.call(turned.set)
        turned.wait(TURN_S_MAX)
        is_handler = models[0].replica.handler is not None
        models.clear()
        if is_handler:  # what a script has made may hold itself
            gc.collect()
        give_back()
        with self._lock:
            del self._phases[number]
            del self._names[number]
            self._open -= 1
        finish({"number": number})


def why_not_loaded(error: BaseException) -> CommandError:
    """Raises DeviceLost."""
    translated = error if isinstance(error, EvenkeelError) else failures.translated(error)
    refusal = Refusal.NO_MEMORY if isinstance(translated, OutOfMemory) or isinstance(error, MemoryError) else Refusal.FAILED
    return CommandError(refusal, translated.message)


def _raise(error: Exception) -> None:
    raise error


def give_back() -> None:
    """What was freed goes back to the system: glibc keeps it otherwise. Elsewhere nothing is done."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
