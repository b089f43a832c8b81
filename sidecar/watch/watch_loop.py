"""Observe, decide, apply, twenty times a second; and once a second what goes to files, in a thread of its own."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from evenkeel.serve.contract import logline, reach_cells
from evenkeel.serve.contract.lifecycle import readiness
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import SIDECAR_TEXT, StatusPage
from evenkeel.sidecar.export.emf import Emf
from evenkeel.sidecar.settings import SidecarSettings
from evenkeel.sidecar.watch import snapshot
from evenkeel.sidecar.watch.shape_log import ShapeLog
from evenkeel.sidecar.watch.snapshot import Remembered, Snapshot

TICK_S = 0.05  # the age of a verdict at most; one look costs 30 us, with 32 engines 370
SAMPLE_EVERY_S = 1.0
EMF_SAVED = "emf.json"  # in the run directory: the totals of the last line
LEAVE_S = 1  # for answers that are still being read when the container stops, and for the last words in the shape log


def watch_or_end(page: StatusPage, remembered: Remembered, settings: SidecarSettings, leave: threading.Event) -> None:
    or_end(watch, page, remembered, settings, leave)
    logline.leave(0)


def or_end(
    work: Callable[[StatusPage, Remembered, SidecarSettings, threading.Event], None], page: StatusPage, remembered: Remembered,
    settings: SidecarSettings, leave: threading.Event,
) -> None:  # fmt: skip
    """A sidecar that has stopped watching must not live on as one that only answers: end, and be replaced."""
    try:
        work(page, remembered, settings, leave)
    except Exception:
        log("watch_failed", "the sidecar ends on a bug of ours; the supervisor starts another", trace=traceback.format_exc())
        logline.leave(1)


def watch(page: StatusPage, remembered: Remembered, settings: SidecarSettings, leave: threading.Event) -> None:
    """Observe, decide, apply; then remember and, once a second, measure. When told to leave, the engines have ended."""
    keeping = threading.Thread(target=or_end, args=(keep_files, page, remembered, settings, leave), name="files", daemon=True)
    keeping.start()
    sample_due_s = 0.0
    while not leave.wait(TICK_S):
        now_s = time.monotonic()
        verdict = readiness(snapshot.replica_views(page), snapshot.leaving(page), reach_cells.front_views(page, now_s))
        if page.write_verdict(verdict, now_s):
            log("verdict", f"{'ready' if verdict.ready else 'not ready'}: {verdict.reason.code}", ready=verdict.ready)
        if remembered.memory.look(snapshot.seen(page, Snapshot(now_s, time.time()))):
            page.write_text(SIDECAR_TEXT, remembered.memory.text())
        if now_s >= sample_due_s:
            sample_due_s = now_s + SAMPLE_EVERY_S
            remembered.measures.sample(page, now_s)
            remembered.load.sample(page, now_s)
        logline.sink().tell_lost()
    keeping.join(LEAVE_S)


def keep_files(page: StatusPage, remembered: Remembered, settings: SidecarSettings, leave: threading.Event) -> None:
    """What is kept in files, in a thread of its own: a disk that does not answer must not delay a verdict."""
    emf = Emf(settings.emf_period_s, settings.emf_namespace, saved=Path(settings.run_dir) / EMF_SAVED)
    shapes = ShapeLog(settings.shape_log) if settings.shape_log else None
    left = False
    while not left:
        left = leave.wait(SAMPLE_EVERY_S)
        if not left:
            emf.tick(page, time.monotonic(), time.time(), remembered.measures.headroom_rps)
        if shapes is not None:
            shapes.look(page, time.monotonic(), last=left)
