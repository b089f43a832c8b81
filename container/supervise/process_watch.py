"""All that looks after running processes, put together: who is stuck, stopped or leaking, and what they take.

Owner of the moment, which knows since when we have been looking without a gap.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.successors import Successors
from evenkeel.container.variables import ContainerSettings
from evenkeel.container.versions.deployer import Deployer
from evenkeel.container.watch.memory_kills import MemoryUse
from evenkeel.container.watch.memory_sampler import MemorySampler
from evenkeel.container.watch.stopped_processes import StoppedProcesses, parent_of
from evenkeel.container.watch.stuck import StuckLimits, StuckView
from evenkeel.container.watch.watcher import Watcher
from evenkeel.serve.contract.status_page import Front, Main, StatusPage


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """`leak_s` 0: nobody is replaced for a leak. `memory_bytes` 0: the limit is the cgroup's or the machine's."""

    stuck: StuckLimits = StuckLimits()  # noqa: RUF009  frozen
    leak_s: float = 0.0
    memory_bytes: int = 0

    @classmethod
    def of(cls, settings: ContainerSettings, memory_bytes: int) -> WatchLimits:
        stuck = StuckLimits(settings.stuck_factor, settings.stuck_s, settings.front_timeout_s)
        return cls(stuck, settings.leak_s, memory_bytes)


class ProcessWatch:
    def __init__(self, page: StatusPage, children: list[Child], limits: WatchLimits, versions: Deployer | None) -> None:
        self._page, self._children = page, children
        self.moment = StuckView(time.monotonic())
        self.successors = Successors(page, children, MemorySampler(limits.leak_s, limits.memory_bytes), versions)
        self.memory = MemoryUse()
        self._watcher = Watcher(page, children, self.successors, limits.stuck)
        self._stopped = StoppedProcesses()

    def look(self, now_s: float) -> None:
        """Always, while we leave too."""
        self.moment = self.moment.later(now_s)
        processes = self._processes()
        self._stopped.look(processes, self.moment)
        self.memory.look(processes, now_s)

    def watch(self) -> None:
        """While we serve: end what does not move, replace what leaks."""
        self._watcher.watch(self.moment)
        self.successors.watch(self.moment)

    def watch_engines(self) -> None:
        """While we leave and requests wait: behind an engine that hangs they would wait in vain."""
        self._watcher.watch_engines(self.moment)

    def _processes(self) -> dict[int, str]:
        """Names by pid: the children, and the workers of gunicorn's that say who they are."""
        names = {c.process.pid: c.label for c in self._children if c.process is not None}
        for i in range(self._page.main.count[Main.FRONTS]):
            pid = self._page.front(i).count[Front.PID]
            if pid and names.get(parent_of(pid), "").startswith("front"):
                names[pid] = f"front worker {i}"
        return names
