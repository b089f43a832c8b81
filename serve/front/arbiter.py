"""gunicorn as the parent of the front's workers: its settings, its log lines, and which worker has which place.

Runs in the arbiter's process and so never twice at once. It binds nothing: the data port's socket is inherited from the
supervisor, so it stays open while workers, and gunicorn itself, restart.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

from fastapi import FastAPI
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from evenkeel.serve.contract.cgroup import oom_kills
from evenkeel.serve.contract.listen_queue import BACKLOG
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Main, StatusPage, worker_restart_cell
from evenkeel.serve.front.pages.data_pages import build
from evenkeel.serve.front.worker import FrontWorker
from evenkeel.serve.settings import FrontSettings

AWAY_S = 3.0  # gunicorn looks once a second: with so much between two looks it did not run itself


class Application(BaseApplication):  # type: ignore[misc]
    """gunicorn's settings, from ours."""

    def __init__(self, settings: FrontSettings) -> None:
        self.settings = settings
        self.places = Places(StatusPage(settings.status_fd))
        super().__init__()

    def load_config(self) -> None:
        values: dict[str, Any] = {
            "bind": f"fd://{self.settings.listen_fd}", "workers": self.settings.fronts, "worker_class": FrontWorker,
            "timeout": self.settings.timeout_s, "graceful_timeout": max(1, round(self.settings.drain_s)), "backlog": BACKLOG,
            "control_socket_disable": True, "logger_class": "evenkeel.serve.front.arbiter.Log", "preload_app": True,
            "proc_name": "evenkeel-front", "pre_fork": self.places.choose, "child_exit": self.places.note_end,
        }  # fmt: skip
        for name, value in values.items():
            self.cfg.set(name, value)

    def load(self) -> FastAPI:
        """Once, before the first worker is forked. What there is by then lives for ever: a collector that looked at it again in a
        worker would write to each of its pages, and none would be shared any more."""
        application = build(many=self.settings.models_fd >= 0)
        gc.collect()
        gc.freeze()
        return application

    def run(self) -> None:
        FrontArbiter(self).run()


class FrontArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's, but for a pause of the whole container (docker pause, a snapshot): it blames no worker for it."""

    def __init__(self, app: Application) -> None:
        self._looked_s = time.monotonic()
        super().__init__(app)

    def murder_workers(self) -> None:
        """Ends those that were silent for too long. Nobody is silent in a time in which nobody listened."""
        now_s = time.monotonic()
        if now_s - self._looked_s > AWAY_S:
            for worker in self.WORKERS.values():
                worker.tmp.notify()
        self._looked_s = now_s
        super().murder_workers()


class Log:
    """gunicorn's logger, as our log lines. Only what is unusual."""

    def __init__(self, cfg: Any) -> None:
        self.access_log = self.error_log = None

    def _write(self, level: str, message: Any, args: tuple[Any, ...]) -> None:
        log("gunicorn", str(message) % args if args and not isinstance(args[0], dict) else str(message), level=level)

    def critical(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self._write("critical", msg, args)

    def error(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self._write("error", msg, args)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self._write("error", f"{msg}: {sys.exc_info()[1]!r}", args)

    def warning(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self._write("warning", msg, args)

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None: ...

    def debug(self, msg: Any, *args: Any, **kwargs: Any) -> None: ...

    def log(self, lvl: Any, msg: Any, *args: Any, **kwargs: Any) -> None: ...

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None: ...

    def reopen_files(self) -> None: ...

    def close_on_exec(self) -> None: ...


class Places:
    """gunicorn's hooks, run in the parent and so never twice at once: which worker has which place, and who was replaced.

    A worker goes on in the counters of the one before it, so no count is lost and none starts again.
    """

    def __init__(self, page: StatusPage) -> None:
        self.page = page
        self._ended: dict[int, str] = {}  # place -> why the last worker there ended

    def choose(self, arbiter: Any, worker: FrontWorker) -> None:
        """pre_fork: the lowest place nobody holds."""
        held = {w.place for w in arbiter.WORKERS.values()}
        worker.place = next(i for i in range(len(held) + 1) if i not in held)
        reason = self._ended.pop(worker.place, None)
        if reason is not None:
            self.page.main.count[worker_restart_cell(reason)] += 1

    def note_end(self, arbiter: Any, worker: FrontWorker) -> None:
        """child_exit. gunicorn tells why only where it ended the worker itself, for silence. A kill by the kernel that the
        supervisor has not found the victim of was this one."""
        unexplained = oom_kills() > self.page.main.count[Main.OOM_KILLS]
        self._ended[worker.place] = "stuck" if worker.aborted else "out_of_memory" if unexplained else "exit"
