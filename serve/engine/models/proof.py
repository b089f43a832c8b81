"""From a folder to a replica that is loaded, warm and proven, and what the log and the status page say of it on the way."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenkeel.serve.contract import fingerprint, shape_uses
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.shape_uses import ShapeUse
from evenkeel.serve.contract.status_page import Engine
from evenkeel.serve.engine.models.explain import Explanation
from evenkeel.serve.engine.models.golden import GoldenFailed
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.replica_load import loaded
from evenkeel.serve.engine.models.warmup import Warmup
from evenkeel.serve.engine.models.warmup_report import Report
from evenkeel.serve.errors import BadModel

if TYPE_CHECKING:
    from evenkeel.serve.contract.model_order import ModelOrder
    from evenkeel.serve.engine.models.replica_life import ReplicaLife
    from evenkeel.serve.engine.models.startup import Ledger
    from evenkeel.serve.engine.start import Start

NICE = 19  # of the thread that reads the model's files for their sum: it takes what nobody else wants


def proven(start: Start, order: ModelOrder, explanation: Explanation) -> tuple[Replica, Report]:
    """Load and warm. Raises BadModel, after it has been said why on the status page."""
    settings, life, ledger = start.settings, start.life, start.ledger
    folder, warmup = Path(order.folder), None
    try:
        threading.Thread(target=take_fingerprint, args=(folder, explanation), name="fingerprint", daemon=True).start()
        replica = loaded(settings, order, ledger)
        replica.number, replica.revision, replica.counters = order.number, order.generation, order.counters
        bound_batches(replica, life, order.rows_max)
        explanation.loaded(replica)
        life.become(ReplicaState.WARMING)
        log("loaded", f"{replica.manifest.name} loaded, warming", **_facts(replica), seconds=ledger.to_json()["total_s"])
        block = life.block

        def progress(done: int, total: int, what: str) -> None:
            block.count[Engine.WARM_TOTAL] = total
            block.count[Engine.WARM_DONE] = done

        with ledger.phase("warm"):
            warmup = Warmup(replica, shapes_of_last_version(order.shape_log), progress)
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


def tell(replica: Replica, report: Report, ledger: Ledger) -> None:
    """One line about the start, and one about each thing that a person should know of the warm-up."""
    for warning in report.warnings:
        log("warmup_warning", warning, level="warning")
    for note in report.notes:
        log("warmup_note", note)
    unsettled = [f"{e.rows} rows of {e.key}" for e in report.plan if not e.converged]
    if unsettled:
        log("warmup_unsettled", f"the latency of {', '.join(unsettled[:8])} had not settled when the time for it was over")
    seconds = {phase: s for phase, s in ledger.to_json().items() if s is not None}
    golden = f"{report.golden.passed} of {report.golden.checked}"
    if not replica.warmup_requests:
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
    if not path:
        return []
    try:
        return shape_uses.read(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as e:
        log("bad_shape_log", f"EVENKEEL_SHAPE_LOG={path} is ignored: {e}; warm-up goes by the samples and the signature")
        return []


def _facts(replica: Replica) -> dict[str, Any]:
    return {"version": replica.manifest.version, "backend": replica.manifest.backend, **replica.backend.describe()}
