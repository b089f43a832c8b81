"""The front process: gunicorn as the parent of N workers, each a uvicorn server with our protocol.

Started by the supervisor as `python -m serve.front.process '<FrontSettings as JSON>'`. gunicorn binds nothing: the
data port's socket is inherited from the supervisor, so it stays open while workers, and gunicorn itself, restart.
Everything is imported before the fork: a replaced worker serves within milliseconds, and the pages are shared.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import os
import resource
import signal
import sys
import traceback
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from gunicorn.app.base import BaseApplication
from gunicorn.workers.base import Worker

from serve.contract import logline
from serve.contract.library_lines import capture
from serve.contract.logline import log, setup
from serve.contract.process import die_with_parent
from serve.contract.status import FRONTS_MAX, Front, Main, StatusPage, worker_restart_cell
from serve.front.app import build
from serve.front.desk import RESERVE, Desk
from serve.front.invocation import Invocations
from serve.front.protocol import FrontProtocol
from serve.front.rehearsal import Rehearsal
from serve.settings import FrontSettings, parse

BEAT_EVERY_S = 1.0
LEAVING_LOOK_S = 0.05
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
FILES_ELSEWHERE = 256  # that a worker has open beside its connections, and those it takes over at a restart
BACKLOG = 2048  # connections the kernel accepts for us: SageMaker gives a connect 250 ms


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
            "control_socket_disable": True, "logger_class": "serve.front.process.Log", "preload_app": True,
            "proc_name": "evenkeel-front", "pre_fork": self.places.choose, "child_exit": self.places.note_end,
        }  # fmt: skip
        for name, value in values.items():
            self.cfg.set(name, value)

    def load(self) -> FastAPI:
        return build()


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


class FrontWorker(Worker):  # type: ignore[misc]
    """One worker process."""

    app: Application
    place: int  # among the fronts: which block of the status page is its own

    def run(self) -> None:
        die_with_parent(self.ppid, signal.SIGTERM)
        uvloop.run(self._serve())

    def init_signals(self) -> None:
        for s in self.SIGNALS:
            signal.signal(s, signal.SIG_DFL)  # uvicorn sets its own for TERM and INT

    async def _serve(self) -> None:
        # What was imported lives for ever: the collector need not look at it again. Requests make no cycles, so
        # looking seldom is enough; each full look over the frozen rest would stop the event loop for milliseconds.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        settings = self.app.settings
        page = StatusPage(settings.status_fd)
        place = min(self.place, FRONTS_MAX - 1)
        block = page.front(place)
        block.count[Front.PID] = os.getpid()
        logline.rename(f"front-{place}")
        logline.sink().count_in(block.count, Front.LINES_LOST)
        invocations = Invocations(page, place, settings.engine_sockets, settings.limits)
        self.wsgi.state.count_error, self.wsgi.state.page = invocations.count_error, page
        self.wsgi.state.execution = invocations.execution
        limits = dataclasses.replace(settings.limits, connections_max=connections_possible(settings.limits.connections_max))
        desk = Desk(page, block, invocations, limits, settings.default_accept)
        asyncio.get_running_loop().set_exception_handler(leave_on_a_bug)
        config = uvicorn.Config(
            self.wsgi, http=functools.partial(FrontProtocol, desk), log_config=None, access_log=False, lifespan="off",  # type: ignore[arg-type]
            server_header=False, date_header=False, callback_notify=self._beat, timeout_notify=1, backlog=BACKLOG,
            timeout_keep_alive=round(settings.limits.keep_alive_s), timeout_graceful_shutdown=round(settings.drain_s), ws="none",
        )  # fmt: skip
        config.load()
        server = uvicorn.Server(config)
        connect = functools.partial(FrontProtocol, desk, config=config, server_state=server.server_state, app_state={})
        invocations.engines.rehearsal = Rehearsal(invocations.engines, block, connect)
        sweeps = [asyncio.create_task(invocations.keep_sweeping()), asyncio.create_task(keep_sweeping(desk)),
                  asyncio.create_task(wait_to_wind_down(desk))]  # fmt: skip
        await server.serve(sockets=self.sockets)
        for task in sweeps:
            task.cancel()
        invocations.close()

    async def _beat(self) -> None:
        self.notify()


def connections_possible(wanted: int) -> int:
    """As many connections as this process may have files for, if that is fewer: a refused accept helps nobody."""
    others = RESERVE + FILES_ELSEWHERE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + others and soft != resource.RLIM_INFINITY:
        soft = wanted + others if hard == resource.RLIM_INFINITY else min(hard, wanted + others)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != resource.RLIM_INFINITY and soft < wanted + others:
        log("few_files", f"{soft} open files are allowed (ulimit -n): connections are limited to {max(1, soft - others)}")
        return max(1, soft - others)
    return wanted


def leave_on_a_bug(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A broken invariant in a callback: nothing here can be trusted any more, and gunicorn starts another worker."""
    error = context.get("exception")
    trace = "".join(traceback.format_exception(error)) if error else ""
    log("front_error", str(context.get("message", "an error in the event loop")), level="error", traceback=trace[-4000:])
    if isinstance(error, AssertionError):
        logline.leave(EXIT_BUG)


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
        """child_exit. gunicorn tells why only where it ended the worker itself, for silence."""
        self._ended[worker.place] = "stuck" if worker.aborted else "exit"


async def keep_sweeping(desk: Desk) -> None:
    while True:
        await asyncio.sleep(BEAT_EVERY_S)
        desk.sweep()
        logline.sink().tell_lost()


async def wait_to_wind_down(desk: Desk) -> None:
    while not desk.page.main.count[Main.LEAVING]:
        await asyncio.sleep(LEAVING_LOOK_S)
    desk.wind_down()


def main() -> None:
    settings = parse(FrontSettings, sys.argv[1])
    die_with_parent(os.getppid(), signal.SIGTERM)
    setup("front", text=settings.log_text, fd=settings.log_fd)
    capture()
    sys.argv = ["evenkeel-front"]
    application = Application(settings)
    logline.sink().count_in(application.places.page.main.count, Main.WORKERS_LINES_LOST)
    application.run()


if __name__ == "__main__":
    main()
