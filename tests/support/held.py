"""A process held as a debugger holds it: it neither runs nor can be continued, until it is ended."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

_HOLD = """
import ctypes, os, sys
pid, libc, every_thread = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True), 0x40000000
for thread in map(int, os.listdir(f"/proc/{pid}/task")):
    if libc.ptrace(16, thread, 0, 0) != 0:  # PTRACE_ATTACH
        sys.exit(os.strerror(ctypes.get_errno()))
    os.waitpid(thread, every_thread)
print("held", flush=True)
try:
    while True:  # who is held and ended is seen by its own parent only after us
        os.waitpid(-1, every_thread)
except ChildProcessError:
    pass
"""


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """Until the process ends, or this does. Skips the test where a process may not hold another."""
    debugger = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(pid)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert debugger.stdout is not None and debugger.stderr is not None
    try:
        if debugger.stdout.readline() != "held\n":
            pytest.skip(f"ptrace is not allowed here: {debugger.stderr.read()[-200:]}")
        yield
    finally:
        debugger.kill()
        debugger.wait()
