"""PID 1's work: spawn, watch, restart, drain, reap. Knows processes by role and place, and nothing of what they do.

Owner of the children. What is decided is decided elsewhere: what follows an end in ended_processes.py, who is stuck in
process_watch.py, how all of it ends in departure.py.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from evenkeel.container.models.placement import Placement
from evenkeel.container.supervise import engine_leave, engine_order, supervisor_commands
from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.departure import Departure
from evenkeel.container.supervise.ended_processes import EndedProcesses
from evenkeel.container.supervise.process_watch import ProcessWatch, WatchLimits
from evenkeel.container.supervise.starting import start_due
from evenkeel.container.supervise.wakeups import Wakeups
from evenkeel.container.versions.deployer import Deployer
from evenkeel.serve.contract.status_page import StatusPage

TICK_S = 0.25
LEAVING_TICK_S = 0.02


class Supervisor:
    """Runs until every child has ended. `run` returns the container's exit code."""

    def __init__(
        self, page: StatusPage, children: list[Child], restart_limit: int, departure: Departure,
        limits: WatchLimits = WatchLimits(),  # noqa: B008  frozen
        versions: Deployer | None = None, commands: socket.socket | None = None, models: Placement | None = None,
    ) -> None:  # fmt: skip
        """`commands`: the socket on which it is told what to do. `models`: which are loaded where, if there are many."""
        self._page, self._children, self._departure, self._versions = page, children, departure, versions
        self._watch = ProcessWatch(page, children, limits, versions)
        self._ended = EndedProcesses(page, children, restart_limit, departure, self._watch, versions)
        self._models = models
        self._wakeups = Wakeups(children, supervisor_commands.serve(commands, departure, versions, models))
        self.on_tick: Callable[[], None] = lambda: None

    def run(self) -> int:
        self._wakeups.heed_signals()
        self._departure.heed_signals()
        while not self._tick(time.monotonic()):
            self.on_tick()
            self._wakeups.sleep(LEAVING_TICK_S if self._departure.begun else TICK_S)
        return self._departure.exit_code

    def _tick(self, now_s: float) -> bool:
        """Look at everything once. True when all is over."""
        self._ended.reap(now_s)
        self._watch.look(now_s)
        engine_order.insist(self._page, self._children, now_s)
        engine_leave.insist(self._children)
        if not self._departure.begun:
            self._serve_on(now_s)
            return False
        if self._departure.done(now_s):
            return True
        if self._departure.owes_answers:
            self._answer_on(now_s)
        return False

    def _serve_on(self, now_s: float) -> None:
        if self._versions is not None:
            self._versions.tick(now_s)
        start_due(self._page, self._children, now_s)
        if self._models is not None:
            self._models.tick(now_s)
        self._watch.watch()

    def _answer_on(self, now_s: float) -> None:
        """We leave, and requests wait whose engine has gone or has not come yet."""
        if self._versions is not None and not self._versions.steady:
            self._versions.tick(now_s)
        start_due(self._page, self._children, now_s)
        self._watch.watch_engines()
