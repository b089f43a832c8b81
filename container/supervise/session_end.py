"""The end of a process and of all that it has started, but for those that only tidy up after it.

Python's resource tracker removes the shared memory and semaphores of a script's pools as soon as every process that had them is
gone, and ends then. Killed along with them it would leave them in /dev/shm, with each engine that dies a little more, until
there is no room to start another.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

TRACKER = b"multiprocessing.resource_tracker import main"
LOOKS_MAX = 3  # a process may fork while it is looked for


def kill_session(leader: int) -> None:
    """Raises ProcessLookupError where there is none."""
    if not _spared_a_tracker(leader):
        os.killpg(leader, signal.SIGKILL)


def _spared_a_tracker(leader: int) -> bool:
    """Whether all others have been killed. False: there is none, or who is there cannot be told."""
    killed: set[int] = set()
    try:
        for _ in range(LOOKS_MAX):
            members = _members(leader)
            others = [pid for pid in members if not _tidies_up(pid)]
            if len(others) == len(members):
                return False
            if killed.issuperset(others):
                return True
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed.update(others)
    except OSError:  # no file descriptor is left
        return False
    return False


def _members(leader: int) -> list[int]:
    """Those alive in its process group."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _group_of(pid) == leader]


def _group_of(pid: int) -> int:
    """0: it has ended."""
    try:
        state, _, group = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:3]
    except (OSError, ValueError):
        return 0
    return 0 if state in b"ZX" else int(group)


def _tidies_up(pid: int) -> bool:
    try:
        return TRACKER in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
