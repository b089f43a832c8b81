"""Finds processes of ours that were stopped (SIGSTOP, a terminal's signal) and not continued, and lets them go on.

To continue a process costs nothing, and nobody's connection, memory or warm model; to replace it costs some of them. One
that a debugger holds is another state, and is left to the watcher. Owner of since when each has been seen stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Mapping

from evenkeel.container.watch.stuck import StuckView
from evenkeel.serve.contract.cgroup import small_file
from evenkeel.serve.contract.logline import log

STOPPED_S = 2.0  # who stops a process on purpose continues it sooner, or has a debugger's reasons
LOOK_S = 0.25


class StoppedProcesses:
    def __init__(self) -> None:
        self._since_s: dict[int, float] = {}
        self._looked_s = 0.0

    def look(self, processes: Mapping[int, str], moment: StuckView) -> None:
        """`processes`: names by pid."""
        if moment.now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = moment.now_s
        self._since_s, due = stopped_too_long(self._since_s, [pid for pid in processes if is_stopped(pid)], moment)
        for pid in due:
            log("woken", f"{processes[pid]} was stopped for {STOPPED_S:g} s; it goes on now", pid=pid)
            with contextlib.suppress(ProcessLookupError):  # a worker of gunicorn's, ended and reaped there meanwhile
                os.kill(pid, signal.SIGCONT)


def stopped_too_long(
    since_s: Mapping[int, float], stopped: Iterable[int], moment: StuckView
) -> tuple[dict[int, float], list[int]]:
    """Since when each is stopped, and who is to go on now; one that is stopped again gets its time anew. Pure."""
    since_of = {pid: since_s.get(pid, moment.now_s) for pid in stopped}
    due = [pid for pid, at_s in since_of.items() if moment.since(at_s) >= STOPPED_S]
    return {pid: at_s for pid, at_s in since_of.items() if pid not in due}, due


def is_stopped(pid: int) -> bool:
    return _state_and_parent(pid)[0] == "T"


def parent_of(pid: int) -> int:
    """0 when there is no such process."""
    return _state_and_parent(pid)[1]


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        fields = small_file(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the name before it may hold anything
    except OSError:
        return "", 0
    return fields[0], int(fields[1])
