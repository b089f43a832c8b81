"""The sidecar process: observe, decide, apply, ten times a second and more; and an HTTP port that shows it.

It writes the verdict that `/ping` reads, and its own memory. If it dies, fronts keep the last verdict and the supervisor
starts another, which goes on from that memory. The loop runs in a thread of its own, started before the HTTP framework
is even imported, so that neither a slow import nor a slow reader of /status delays a verdict.
"""

from __future__ import annotations

import signal
import threading
import time

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.library_lines import capture
from evenkeel.serve.contract.logline import setup
from evenkeel.serve.contract.process_setup import begin_role, hide_memory
from evenkeel.serve.contract.status_page import SIDECAR_TEXT, Main, StatusPage
from evenkeel.sidecar.export import nvml_devices
from evenkeel.sidecar.settings import parse, read_token
from evenkeel.sidecar.watch import snapshot
from evenkeel.sidecar.watch.snapshot import Remembered
from evenkeel.sidecar.watch.transitions import restore
from evenkeel.sidecar.watch.watch_loop import LEAVE_S, watch_or_end


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
    from evenkeel.sidecar.http import server  # the HTTP framework takes its time, and the watch is running by now

    server.serve(page, remembered, settings)
    leave.set()
    watching.join(LEAVE_S)
    logline.leave(0)  # no waiting for other threads


if __name__ == "__main__":
    main()
