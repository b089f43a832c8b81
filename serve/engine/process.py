"""The engine process: load, warm, then the cycle. Owner of its block of the status page, but for PID and EPOCH.

Started by the supervisor as `python -m evenkeel.serve.engine.process '<EngineSettings as JSON>'`, with the listening socket and
the status page inherited. Exits with EXIT_BAD_MODEL when starting it again could not help.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from evenkeel.serve.contract import fingerprint, logline, reach_cells
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import LogStream, log, setup
from evenkeel.serve.contract.process_setup import DUMP_SIGNAL, EXIT_BAD_MODEL, EXIT_DEVICE, begin_role
from evenkeel.serve.contract.status_page import RUN_SPANS, Engine, StatusPage
from evenkeel.serve.engine.engine_commands import EngineCommands
from evenkeel.serve.engine.failures import DeviceLost
from evenkeel.serve.engine.foreign import trace_of
from evenkeel.serve.engine.front_wait import Waiting
from evenkeel.serve.engine.leaving import Leaving
from evenkeel.serve.engine.models.replica_life import ReplicaLife
from evenkeel.serve.engine.models.startup import Ledger, process_began_s
from evenkeel.serve.engine.signals import ScriptSignals
from evenkeel.serve.errors import BadModel
from evenkeel.serve.settings import EngineSettings, parse

if TYPE_CHECKING:
    from evenkeel.serve.contract.shape_uses import ShapeUse
    from evenkeel.serve.engine.cycle.cycle import Cycle
    from evenkeel.serve.engine.models.explain import Explanation
    from evenkeel.serve.engine.models.replica import Replica
    from evenkeel.serve.engine.models.warmup import Report

UNMET_S = 1.0  # without a front that was expected: it is told why this engine is not ready
REHEARSAL_TURN_S = 0.005
NICE = 19  # of the thread that reads the model's files for their sum: it takes what nobody else wants


def main() -> None:
    ledger = Ledger(began_s=process_began_s())
    settings = parse(EngineSettings, begin_role())
    setup(f"engine-{settings.place}", text=settings.log_text, fd=settings.log_fd)
    sys.stdout, sys.stderr = LogStream("stdout"), LogStream("stderr")
    leaving, signals = Leaving(), ScriptSignals()
    signals.install()
    faulthandler.enable(2)  # the stacks of a crash in native code, below our log: the supervisor reads it
    faulthandler.register(DUMP_SIGNAL, 2)
    page = StatusPage(settings.status_fd)
    logline.sink().count_in(page.engine(first_place(settings)).count, Engine.LINES_LOST)
    life = ReplicaLife(page.engine(first_place(settings)))
    commands = EngineCommands(settings.command_fd) if settings.command_fd >= 0 else None
    try:
        run(settings, page, life, ledger, signals, commands)
    except BadModel as e:
        life.become(ReplicaState.FAILED)
        log("bad_model", e.message)
        logline.leave(EXIT_BAD_MODEL)
    except DeviceLost as e:
        log("device_lost", f"the device is in a state that only a new process can leave: {e}")
        logline.leave(EXIT_DEVICE)
    except BaseException as e:
        log("engine_failed", "the engine ends on a bug of ours; the supervisor starts another", trace=trace_of(e))
        logline.leave(1)
    leaving.begin(first=lambda: signals.pass_on(signal.SIGTERM))


def run(
    settings: EngineSettings, page: StatusPage, life: ReplicaLife, ledger: Ledger, signals: ScriptSignals,
    commands: EngineCommands | None,
) -> None:  # fmt: skip
    life.become(ReplicaState.LOADING)
    from evenkeel.serve.engine.cycle.cycle import Cycle
    from evenkeel.serve.engine.models import (  # NumPy comes with it and the framework with the backend, so only from here on
        explain,
        succession,
    )

    ledger.before("import")
    explanation = explain.Explanation(page, first_place(settings), ledger, settings.epoch)
    if commands is not None:
        commands.start(explanation)
    replica, report = proven(settings, life, ledger, explanation)
    if settings.standby >= 0:
        explanation.warmed(replica, report)
        log("standing_by", f"{replica.manifest.name} is warm and waits for the place of its predecessor")
        succession.stand_by(page, settings, life, explanation)
        logline.sink().count_in(life.block.count, Engine.LINES_LOST)
    block = life.block
    block.value[Engine.ROW_COST_S] = replica.cost.default.cheapest_row(replica.rows_max)
    block.value[Engine.RUN_LIMIT_S] = replica.manifest.run_s_max or 0.0
    listener = socket.socket(fileno=os.dup(settings.listen_fd))
    cycle = Cycle(listener, block, settings.epoch)
    model = cycle.add(replica)
    model.queue.on_change = lambda: explanation.update(batching=explain.batching(replica))

    def close(signum: int, frame: FrameType | None) -> None:
        cycle.closing = True

    signals.own(signal.SIGTERM, close)
    os.register_at_fork(after_in_child=cycle.leave_to_parent)
    settle()
    stop = threading.Event()
    threading.Thread(target=explain.publish_shapes, args=(explanation, replica, stop), name="shapes", daemon=True).start()
    if settings.epoch > 1:  # requests of the life before wait, and are run while fronts ask their first questions
        inject_faults(replica, settings)
    if settings.standby < 0:  # who takes over at once has no time for it, and its fronts are warm
        with ledger.phase("warm"):
            rehearse(cycle, page, settings)
    if settings.epoch == 1:
        inject_faults(replica, settings)
    explanation.update(facts=replica.backend.describe())  # warm-up may have added to it
    explanation.warmed(replica, report)
    block.count[Engine.READY_ROWS] = block.count[Engine.ROWS]
    if not cycle.closing:  # else it was stopped before any front had an answer from it
        tell(replica, report, ledger)
        if life.state is not ReplicaState.READY:
            life.become(ReplicaState.READY)
    cycle.serve()
    cycle.close()  # now, and not when the interpreter has been taken apart: fronts wait for whoever comes next
    stop.set()
    if succession.holds_place(page, settings):
        explanation.shapes(replica)
        if life.state is ReplicaState.READY:
            life.become(ReplicaState.DRAINING)
        life.become(ReplicaState.CLOSED)


def inject_faults(replica: Replica, settings: EngineSettings) -> None:
    if settings.faults:
        from evenkeel.serve.engine.models import fault_injection

        fault_injection.apply(replica, settings.faults)


def first_place(settings: EngineSettings) -> int:
    """Where on the status page it begins to tell of itself."""
    return settings.place if settings.standby < 0 else settings.standby


def proven(settings: EngineSettings, life: ReplicaLife, ledger: Ledger, explanation: Explanation) -> tuple[Replica, Report]:
    """Load and warm. Raises BadModel, after it has been said why on the status page."""
    from evenkeel.serve.engine.backends.base import LoadOptions
    from evenkeel.serve.engine.models import replica as replicas
    from evenkeel.serve.engine.models.golden import GoldenFailed
    from evenkeel.serve.engine.models.warmup import Warmup

    warmup = None
    try:
        threading.Thread(
            target=take_fingerprint, args=(Path(settings.model_dir), explanation), name="fingerprint", daemon=True
        ).start()
        cache = Path(settings.cache_dir) if settings.cache_dir else None
        options = LoadOptions(settings.threads, settings.device, settings.sharers, settings.require_gpu, ledger, cache)
        replica = replicas.load(Path(settings.model_dir), options, settings.name, settings.version, settings.program)
        replica.edition, replica.tally = settings.edition, settings.tally
        bound_batches(replica, life, settings.rows_max)
        explanation.loaded(replica)
        life.become(ReplicaState.WARMING)
        log("loaded", f"{replica.manifest.name} loaded, warming", **_facts(replica), seconds=ledger.to_json()["total_s"])
        block = life.block

        def progress(done: int, total: int, what: str) -> None:
            block.count[Engine.WARM_TOTAL] = total
            block.count[Engine.WARM_DONE] = done

        with ledger.phase("warm"):
            warmup = Warmup(replica, shapes_of_last_version(settings.shape_log), progress)
            report = warmup.run()
    except BadModel as e:
        reason = "golden_failed" if isinstance(e, GoldenFailed) else "bad_model"
        explanation.failed(reason, e.message, warmup.report if warmup else None)
        raise
    return replica, report


def bound_batches(replica: Replica, life: ReplicaLife, rows_max: int) -> None:
    """A life before this one ended for want of memory in a larger batch. 0: none did."""
    if 0 < rows_max < replica.rows_max:
        replica.rows_max = replica.rows_fit = rows_max
        life.block.count[Engine.ROWS_FIT] = rows_max


def rehearse(cycle: Cycle, page: StatusPage, settings: EngineSettings) -> None:
    """Serve until every front worker has been greeted and has had an answer the whole way from here, see
    front/routing/front_warmup.py; then forget what that counted.

    On a first start nobody else has been told to send anything. After a restart there may be clients among the callers:
    then what was counted stays.
    """
    block = page.engine(settings.place)
    before, waiting = bytes(block.count), Waiting(time.monotonic())
    while not cycle.closing:
        now_s = time.monotonic()
        fronts = reach_cells.counting(reach_cells.workers(page), now_s)
        unmet = reach_cells.unmet(fronts, settings.place, settings.epoch)
        unproven = reach_cells.unproven(fronts, settings.place, settings.epoch)
        if waiting.is_over(now_s, len(fronts), unmet, unproven):
            break
        block.value[Engine.AWAITS_S] = waiting.began_s if unmet and now_s - waiting.began_s > UNMET_S else 0.0
        cycle.turn(REHEARSAL_TURN_S)
    block.value[Engine.AWAITS_S] = 0.0
    for model in cycle.models.all:
        for curve in model.replica.cost.curves.values():
            curve.forget_runs()
    if settings.epoch == 1:
        old = memoryview(before).cast("Q")
        for cell in (Engine.BATCHES, Engine.ROWS, *range(Engine.RUN_SUM_S, RUN_SPANS)):
            block.count[cell] = old[cell]


def tell(replica: Replica, report: Report, ledger: Ledger) -> None:
    """One line about the start, and one about each thing that a person should know of the warm-up."""
    for note in report.notes:
        log("warmup_note", note)
    unsettled = [f"{e.rows} rows of {e.key}" for e in report.plan if not e.converged]
    if unsettled:
        log("warmup_unsettled", f"the latency of {', '.join(unsettled[:8])} had not settled when the time for it was over")
    seconds = {phase: s for phase, s in ledger.to_json().items() if s is not None}
    golden = f"{report.golden.passed} of {report.golden.checked}"
    if not replica.rehearsals:
        log("no_rehearsal", "there is no sample that fronts could ask for: they are connected, and nothing was tried all the way")
    log("ready", f"{replica.manifest.name} is warm and proven", **seconds, warmed=len(report.plan), golden=golden)


def take_fingerprint(folder: Path, explanation: Explanation) -> None:
    """A thread's work: read all files while the framework loads, and go on while the model serves if they are large."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    try:
        explanation.fingerprint(fingerprint.sha256(folder))
    except OSError as e:  # a file that the model does not need may be unreadable
        log("no_fingerprint", f"the model's files have no sha256: {e}")


def shapes_of_last_version(path: str) -> list[ShapeUse]:
    """What the shape log says; a log that is missing or damaged says nothing."""
    from evenkeel.serve.contract import shape_uses

    if not path:
        return []
    try:
        return shape_uses.read(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as e:
        log("bad_shape_log", f"EVENKEEL_SHAPE_LOG={path} is ignored: {e}; warm-up goes by the samples and the signature")
        return []


def settle() -> None:
    """For the long run: no looking at garbage that cannot be, and no pushing fronts aside."""
    gc.collect()
    gc.freeze()  # models and frameworks live for ever; batches make no cycles
    gc.set_threshold(50_000, 20, 100)
    # On a CPU shared with a front, a woken engine waits until the front has passed on all that it has: larger batches,
    # and 1.2 times the requests a second. Where each has a CPU of its own it changes nothing. See sched(7).
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then batches are a little smaller
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _facts(replica: Any) -> dict[str, Any]:
    return {"version": replica.manifest.version, "backend": replica.manifest.backend, **replica.backend.describe()}


if __name__ == "__main__":
    main()
