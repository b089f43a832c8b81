"""The sidecar process: observe, decide, apply, ten times a second and more; and an HTTP port that shows it.

It writes the verdict that `/ping` reads, and its own memory. If it dies, fronts keep the last verdict and the supervisor
starts another, which goes on from that memory. The loop runs in a thread of its own, started before the HTTP framework
is even imported, so that neither a slow import nor a slow reader of /status delays a verdict.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from evenkeel.serve.contract import logline, reach_cells
from evenkeel.serve.contract.command_client import CommandClient
from evenkeel.serve.contract.library_lines import capture
from evenkeel.serve.contract.lifecycle import readiness
from evenkeel.serve.contract.logline import log, setup
from evenkeel.serve.contract.process_setup import begin_role, hide_memory
from evenkeel.serve.contract.status_page import SIDECAR_TEXT, Main, StatusPage
from evenkeel.sidecar.export import nvml_devices
from evenkeel.sidecar.export.emf import Emf
from evenkeel.sidecar.http.hosts import Hosts
from evenkeel.sidecar.settings import SidecarSettings, parse, read_token
from evenkeel.sidecar.watch import snapshot
from evenkeel.sidecar.watch.shape_log import ShapeLog
from evenkeel.sidecar.watch.snapshot import Remembered, Snapshot
from evenkeel.sidecar.watch.transitions import restore

TICK_S = 0.05  # the age of a verdict at most; one look costs 30 us, with 32 engines 370
SAMPLE_EVERY_S = 1.0
EMF_SAVED = "emf.json"  # in the run directory: the totals of the last line
LEAVE_S = 1  # for answers that are still being read when the container stops, and for the last words in the shape log


def main() -> None:
    settings = parse(begin_role())
    if read_token(settings.token_fd):
        hide_memory()
    setup("sidecar", text=settings.log_text, fd=settings.log_fd)
    capture()
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())  # until the HTTP server, once it runs, ends on it by itself
    page = StatusPage(settings.status_fd)
    logline.sink().count_in(page.main.count, Main.SIDECAR_LINES_LOST)
    predecessors = sum(n for key, n in snapshot.restarts(page).items() if key.startswith("sidecar/"))
    remembered = Remembered(memory=restore(page.read_text(SIDECAR_TEXT), time.time(), predecessors))
    watching = threading.Thread(target=watch_or_end, args=(page, remembered, settings, leave), name="watch", daemon=True)
    watching.start()
    nvml_devices.start(page, leave)
    serve_http(page, remembered, settings)
    leave.set()
    watching.join(LEAVE_S)
    logline.leave(0)  # no waiting for other threads


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


def serve_http(page: StatusPage, remembered: Remembered, settings: SidecarSettings) -> None:
    """The TCP port in this thread, the Unix socket for changing calls in another, one application for both."""
    from evenkeel.sidecar.http.app import Shown, build, trusted
    from evenkeel.sidecar.rollout_service import RolloutService

    judging = RolloutService(page, Path(settings.run_dir))
    judging.start()
    supervisor = CommandClient(settings.supervisor)
    app = build(Shown(page, remembered, judging, supervisor, read_token(settings.token_fd), called(settings)))
    threading.Thread(target=run_server, args=(trusted(app), settings.admin_fd), name="admin", daemon=True).start()
    if settings.grpc_port:
        from evenkeel.sidecar.export import grpc_health

        grpc_health.start(page, settings.host, settings.grpc_port)
    run_server(app, settings.listen_fd)


def called(settings: SidecarSettings) -> Hosts:
    """What the TCP port may be called: its own descriptor stays open for whoever listens on it."""
    with socket.socket(fileno=os.dup(settings.listen_fd)) as listener:
        return Hosts.of(listener.getsockname()[0], [settings.host])


def run_server(app: object, listen_fd: int) -> None:
    import uvicorn

    from evenkeel.sidecar.http.connection_limits import ConnectionLimits, SidecarProtocol

    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, ws="none",  # type: ignore[arg-type]
        http=functools.partial(SidecarProtocol, ConnectionLimits()),  # type: ignore[arg-type]
        timeout_graceful_shutdown=LEAVE_S)  # fmt: skip
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listen_fd)])


if __name__ == "__main__":
    main()
