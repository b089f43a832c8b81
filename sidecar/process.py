"""The sidecar process: observe, decide, apply, ten times a second and more; and an HTTP port that shows it.

It writes the verdict that `/ping` reads and nothing else. If it dies, fronts keep the last verdict and the supervisor
starts another. The loop runs in a thread of its own, started before the HTTP framework is even imported, so that
neither a slow import nor a slow reader of /status delays a verdict.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from serve.contract.lifecycle import Reason, Verdict, readiness
from serve.contract.logline import log, setup
from serve.contract.process import die_with_parent
from serve.contract.status import StatusPage
from sidecar import observe
from sidecar.settings import parse
from sidecar.shapes import ShapeLog

HOLD_S_MAX = 0.5  # how much later the first ready may be for it
LEAVE_S = 2.0  # for the last words in the shape log
NICE = 19
TICK_S = 0.05  # the age of a verdict at most; one look costs about 50 us


def main() -> None:
    settings = parse(sys.argv[1])
    die_with_parent(os.getppid())
    setup("sidecar", text=settings.log_text)
    leave, loaded = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    page = StatusPage(settings.status_fd)
    watching = threading.Thread(target=watch, args=(page, settings.shape_log, leave, loaded), name="watch", daemon=True)
    watching.start()
    serve_http(page, settings.listen_fd, loaded)  # ends on SIGTERM too, by uvicorn's own handler
    leave.set()
    watching.join(LEAVE_S)


def watch(page: StatusPage, shape_log: str, leave: threading.Event, loaded: threading.Event) -> None:
    """Observe, decide, apply. Ends the process when it is told to leave: engines have written their last by then."""
    shapes = ShapeLog(shape_log) if shape_log else None
    hold_until_s = 0.0
    while not leave.wait(TICK_S):
        now_s = time.monotonic()
        replicas = [observe.replica_view(e, now_s) for e in observe.engines(page)]
        verdict = readiness(replicas, observe.leaving(page))
        if verdict.ready and not page.verdict().ready and not loaded.is_set():
            # The first ready of this container. The load of our own HTTP would take CPU from the first requests.
            hold_until_s = hold_until_s or now_s + HOLD_S_MAX
            if now_s < hold_until_s:
                verdict = Verdict(False, Reason.WARMING)
        if page.write_verdict(verdict, now_s):
            log("verdict", f"{'ready' if verdict.ready else 'not ready'}: {verdict.reason.code}", ready=verdict.ready)
        if shapes is not None:
            shapes.look(page, now_s)
    if shapes is not None:
        shapes.look(page, time.monotonic(), last=True)
    os._exit(0)


def serve_http(page: StatusPage, listen_fd: int, loaded: threading.Event) -> None:
    servers: list[Any] = []
    loading = threading.Thread(target=lambda: servers.append(make_server(page)), name="load")
    loading.start()
    loading.join()
    loaded.set()
    servers[0].run(sockets=[socket.socket(fileno=listen_fd)])


def make_server(page: StatusPage) -> Any:
    """Half a second of imports, while the engine warms up and the first requests come: this thread takes what they leave."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    import uvicorn

    from sidecar.http import build

    config = uvicorn.Config(build(page), log_config=None, access_log=False, lifespan="off")
    config.load()
    return uvicorn.Server(config)


if __name__ == "__main__":
    main()
