"""The life of an engine process between its setup and its end: prove, meet the fronts, serve, leave."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import threading
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Engine
from evenkeel.serve.engine.backends import loader
from evenkeel.serve.engine.cycle.cycle import Cycle
from evenkeel.serve.engine.front_greeting import meet_fronts
from evenkeel.serve.engine.models import explain, succession
from evenkeel.serve.engine.models.model_loads import ModelLoads
from evenkeel.serve.engine.models.proof import proven, tell
from evenkeel.serve.engine.models.short_proof import loaded_briefly
from evenkeel.serve.engine.start import Start

WARM_BACKEND = "onnx"  # of an engine of many models

if TYPE_CHECKING:
    from evenkeel.serve.contract.model_order import ModelOrder
    from evenkeel.serve.engine.models.explain import Explanation
    from evenkeel.serve.engine.models.replica import Replica


def run(start: Start, order: ModelOrder) -> None:
    """Prove the model, wait for the place if another has it, meet the fronts, serve, leave."""
    settings, page, life, ledger = start.settings, start.page, start.life, start.ledger
    ledger.before("import")
    explanation = explain.Explanation(page, settings.first_place, ledger, settings.epoch)
    replica, report = proven(start, order, explanation)
    if settings.successor_of >= 0:
        explanation.warmed(replica, report)
        log("standing_by", f"{replica.manifest.name} is warm and waits for the place of its predecessor")
        succession.wait_for_place(page, settings, life, explanation)
        logline.sink().count_in(life.block.count, Engine.LINES_LOST)
    cycle = _cycle(start, replica, explanation)
    settle()
    stop = threading.Event()
    threading.Thread(target=explain.publish_shapes, args=(explanation, replica, stop), name="shapes", daemon=True).start()
    _meet_fronts(start, cycle, replica, order.faults)
    explanation.update(facts=replica.backend.describe())  # warm-up may have added to it
    explanation.warmed(replica, report)
    life.block.count[Engine.READY_ROWS] = life.block.count[Engine.ROWS]
    if not cycle.closing:  # else it was stopped before any front had an answer from it
        tell(replica, report, ledger)
        if life.state is not ReplicaState.READY:
            life.become(ReplicaState.READY)
        _take_commands(start, cycle, replica, explanation)
    cycle.serve()
    cycle.close()  # now, and not when the interpreter has been taken apart: fronts wait for the engine that comes next
    stop.set()
    if succession.holds_place(page, settings):
        explanation.shapes(replica)
        if life.state is ReplicaState.READY:
            life.become(ReplicaState.DRAINING)
        life.become(ReplicaState.CLOSED)


def run_many(start: Start) -> None:
    """Meet the fronts, serve what is loaded meanwhile, leave."""
    settings, life, ledger = start.settings, start.life, start.ledger
    ledger.before("import")
    with ledger.phase("import"):
        loader(WARM_BACKEND)  # so that the first model need not wait for it
    explanation = explain.Explanation(start.page, settings.place, ledger, settings.epoch)
    cycle = _empty_cycle(start)
    loads = ModelLoads(cycle, partial(loaded_briefly, settings))
    loads.start()
    start.commands.models = loads
    start.commands.start()
    settle()
    life.become(ReplicaState.WARMING)
    meet_fronts(cycle, start.page, settings)
    explanation.update(startup=ledger.to_json())
    if not cycle.closing:
        life.become(ReplicaState.READY)
    cycle.serve()
    cycle.close()
    if life.state is ReplicaState.READY:
        life.become(ReplicaState.DRAINING)
    life.become(ReplicaState.CLOSED)


def _cycle(start: Start, replica: Replica, explanation: Explanation) -> Cycle:
    """With the replica in it."""
    block = start.life.block
    block.value[Engine.ROW_COST_S] = replica.cost.default.cheapest_row(replica.rows_max)
    block.value[Engine.RUN_LIMIT_S] = replica.manifest.run_s_max or 0.0
    cycle = _empty_cycle(start)
    cycle.add(replica).queue.on_change = lambda: explanation.update(batching=explain.batching(replica))
    return cycle


def _empty_cycle(start: Start) -> Cycle:
    """Told by SIGTERM to close."""
    cycle = Cycle(socket.socket(fileno=os.dup(start.settings.listen_fd)), start.life.block, start.settings.epoch,
                  many=start.settings.many)  # fmt: skip

    def close(signum: int, frame: FrameType | None) -> None:
        cycle.closing = True

    start.signals.own(signal.SIGTERM, close)
    os.register_at_fork(after_in_child=cycle.leave_to_parent)
    return cycle


def _take_commands(start: Start, cycle: Cycle, replica: Replica, explanation: Explanation) -> None:
    """From now on models can be loaded beside the first."""
    loads = ModelLoads(cycle, partial(loaded_briefly, start.settings), replica.number, explanation.describe)
    loads.start()
    start.commands.models = loads
    start.first.done({"number": replica.number, "revision": replica.revision})


def _meet_fronts(start: Start, cycle: Cycle, replica: Replica, faults: str) -> None:
    settings = start.settings
    if settings.epoch > 1:  # requests of the life before wait, and are run while fronts ask their first questions
        inject_faults(replica, faults)
    if settings.successor_of < 0:  # a successor takes over at once and has no time for it, and its fronts are warm
        with start.ledger.phase("warm"):
            meet_fronts(cycle, start.page, settings)
    if settings.epoch == 1:
        inject_faults(replica, faults)


def inject_faults(replica: Replica, faults: str) -> None:
    if faults:
        from evenkeel.serve.engine.models import fault_injection

        fault_injection.apply(replica, faults)


def settle() -> None:
    """For the long run: no looking at garbage that cannot be, and no pushing fronts aside."""
    gc.collect()
    gc.freeze()  # models and frameworks live for ever; batches make no cycles
    gc.set_threshold(50_000, 20, 100)
    # On a CPU shared with a front, a woken engine waits until the front has passed on all that it has: larger batches,
    # and 1.2 times the requests a second. Where each has a CPU of its own it changes nothing. See sched(7).
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then batches are a little smaller
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
