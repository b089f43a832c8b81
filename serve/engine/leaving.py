"""The end of a process that has run user code: its work is done, so nothing that a script has left behind may keep it.

How it works. At its end Python waits for every thread that is no daemon, then calls what was registered with atexit, the
last first. Ours is registered before any script is imported, so it comes last, and ends the process there and then. A thread
sees to it that all this takes LEAVE_S_MAX at most: then it says what is still there, and ends the process itself.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from evenkeel.serve.contract.logline import leave, log
from evenkeel.serve.engine.foreign import text_of

LEAVE_S_MAX = 1.0  # for threads, executors and atexit functions of the script; a stop should take some two seconds
NAMES_MAX = 8  # of threads and processes in the log
FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


class Leaving:
    """Made before user code is imported. `begin` is called once, when the process has nothing left to do."""

    def __init__(self) -> None:
        self._pid, self._code, self._begun = os.getpid(), 0, False
        self._streams = (sys.stdout, sys.stderr)
        atexit.register(self._last)

    def begin(self, code: int = 0, first: Callable[[], None] = lambda: None) -> None:
        """From here on the process has LEAVE_S_MAX. `first` is called for the script. The caller returns from main."""
        self._code, self._begun = code, True
        try:
            threading.Thread(target=self._end_in_time, name="leaving", daemon=True).start()
        except RuntimeError:  # as many threads as there may be
            self._end()
        flush_files()
        first()

    def _end_in_time(self) -> None:
        threading.Event().wait(LEAVE_S_MAX)
        try:
            left = ", ".join(left_behind())
            log("left_behind", f"the process ends; after {LEAVE_S_MAX:g} s there was still {left}", level="warning")
        finally:
            self._end()

    def _last(self) -> None:
        if self._begun and os.getpid() == self._pid:  # not in a child that the script forked, and not on another way out
            flush_files()
            with suppress(Exception):
                ctypes.CDLL(None).fflush(None)  # what libraries in C have printed
            self._end()

    def _end(self) -> NoReturn:
        for stream in self._streams:
            with suppress(Exception):
                stream.flush()
        end_children()
        leave(self._code)


def left_behind() -> list[str]:
    """What keeps the process, by names that its author knows."""
    main = threading.main_thread()
    leftovers = [f"thread {text_of(t.name)!r}" for t in threading.enumerate() if not t.daemon and t is not main]
    pool = sys.modules.get("multiprocessing.process")  # at its end Python waits for these, too
    if pool is not None and not leftovers:
        leftovers = [f"process {text_of(p.name)!r}" for p in pool.active_children()]
    if len(leftovers) > NAMES_MAX:
        leftovers[NAMES_MAX:] = [f"{len(leftovers) - NAMES_MAX} more"]
    return leftovers or [_running_in(main)]


def _running_in(main: threading.Thread) -> str:
    """Of the main thread, that function which Python itself has called: one that was registered with atexit."""
    frame = sys._current_frames().get(main.ident or 0)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    if frame is None:
        return "something that was registered with atexit"
    return f"{frame.f_code.co_name}() of {Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"


def flush_files() -> None:
    """Files that the script has left open: Python would do so, but later than our end."""
    gc.unfreeze()
    for file in [o for o in gc.get_objects() if issubclass(type(o), FILES)]:
        with suppress(Exception):
            file.flush()


def end_children() -> None:
    """Processes that the script has started and that are still of our group, if that is ours alone."""
    group = os.getpid()
    if os.getpgrp() != group:
        return
    for pid in [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]:
        with suppress(OSError):
            if pid != group and os.getpgid(pid) == group:
                os.kill(pid, signal.SIGTERM)
