"""One worker process of the front: a uvicorn server with our protocol, and what keeps it going beside its connections."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import uvloop
from anyio import to_thread
from gunicorn.workers.base import Worker

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.model_table import LoadedNames, ModelTable
from evenkeel.serve.contract.process_setup import EXIT_BUG, die_with_parent
from evenkeel.serve.contract.status_page import FRONTS_MAX, Front, Main, StatusPage
from evenkeel.serve.front import worker_server
from evenkeel.serve.front.http.connections import Connections
from evenkeel.serve.front.http.file_limit import connections_possible
from evenkeel.serve.front.request.invocations import Invocations
from evenkeel.serve.front.routing.front_warmup import FrontWarmup
from evenkeel.serve.front.routing.named_models import NamedModels
from evenkeel.serve.front.routing.self_check import SelfCheck
from evenkeel.serve.settings import FrontSettings

if TYPE_CHECKING:
    from evenkeel.serve.front.pages.models_pages import ModelsApi

LEAVING_LOOK_S = 0.05
# After which a thread that decodes gives way to the event loop. The loop asks anew at each event: at Python's own 5 ms 400 new
# connections wait for two seconds, at this tenth of a millisecond for a fifth of one, and the thread is 5 % slower.
SWITCH_S = 0.0001


class Configured(Protocol):
    """gunicorn's application, as a worker sees it."""

    settings: FrontSettings


class FrontWorker(Worker):  # type: ignore[misc]
    """One worker process."""

    app: Configured
    place: int  # among the fronts: which block of the status page is its own

    def run(self) -> None:
        die_with_parent(self.ppid)
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
        sys.setswitchinterval(SWITCH_S)
        to_thread.current_default_thread_limiter().total_tokens = 1  # each competes with the event loop for the interpreter
        settings = self.app.settings
        page = StatusPage(settings.status_fd)
        place = min(self.place, FRONTS_MAX - 1)
        block = page.front(place)
        logline.rename(f"front-{place}")
        logline.sink().count_in(block.count, Front.LINES_LOST)
        named = NamedModels(LoadedNames(ModelTable(settings.models_fd))) if settings.models_fd >= 0 else None
        invocations = Invocations(page, place, settings.engine_sockets, settings.limits, access_log=settings.access_log,
                                  named=named)  # fmt: skip
        block.value[Front.BEAT_S] = time.monotonic()  # a worker that ends within its first second was there, too
        block.count[Front.PID] = os.getpid()  # what the worker before it knew of engines is cleared by now
        self.wsgi.state.count_error, self.wsgi.state.page = invocations.outcomes.count_error, page
        if named is not None:
            self.wsgi.state.models = models_api(settings, named.names)
        self.wsgi.state.execution = invocations.engines.execution
        limits = dataclasses.replace(settings.limits, connections_max=connections_possible(settings.limits.connections_max))
        connections = Connections(page, block, invocations, limits, settings.default_accept)
        asyncio.get_running_loop().set_exception_handler(leave_on_a_bug)
        server = worker_server.make(self.wsgi, connections, settings, self._beat)
        connect = worker_server.own_connect(server)
        invocations.engines.front_warmup = FrontWarmup(connections, connect)
        check = SelfCheck(connections, connect, settings.self_check_s)
        sweeps = [asyncio.create_task(work) for work in (
            invocations.keep_sweeping(), connections.keep_sweeping(), wait_to_wind_down(connections),
            check.keep_looking())]  # fmt: skip
        for task in sweeps:
            task.add_done_callback(leave_if_it_broke)
        await server.serve(sockets=[listener.sock for listener in self.sockets])  # gunicorn has wrapped them
        for task in sweeps:
            task.cancel()
        invocations.close()

    async def _beat(self) -> None:
        self.notify()


def models_api(settings: FrontSettings, names: LoadedNames) -> ModelsApi:
    from evenkeel.serve.front.pages.models_pages import ModelsApi  # here, because a front of one model needs none of it
    from evenkeel.serve.front.pages.supervisor_client import SupervisorClient

    return ModelsApi(names, SupervisorClient(settings.supervisor), Path(settings.models_dir))


def leave_on_a_bug(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A broken invariant in a callback: nothing here can be trusted any more, and gunicorn starts another worker."""
    error = context.get("exception")
    trace = "".join(traceback.format_exception(error)) if error else ""
    log("front_error", str(context.get("message", "an error in the event loop")), level="error", traceback=trace[-4000:])
    if isinstance(error, AssertionError):
        logline.leave(EXIT_BUG)


def leave_if_it_broke(sweep: asyncio.Task[None]) -> None:
    """Without it deadlines would pass unseen, while the worker seems to live."""
    error = None if sweep.cancelled() else sweep.exception()
    if error is not None:
        trace = "".join(traceback.format_exception(error))
        log("front_error", "a loop of the worker has ended on a bug of ours; it ends, and another takes its place", level="error",
            traceback=trace[-4000:])  # fmt: skip
        logline.leave(EXIT_BUG)


async def wait_to_wind_down(connections: Connections) -> None:
    while not connections.page.main.count[Main.LEAVING]:
        await asyncio.sleep(LEAVING_LOOK_S)
    connections.wind_down()
