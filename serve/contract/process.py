"""Small things every role does at its start: die with its parent, keep fixed places for descriptors."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4  # prctl(2)


def die_with_parent(parent: int, sig: int = signal.SIGKILL) -> None:
    """Ask the kernel to end this process when its parent ends; if it has ended already, end now."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, sig, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), sig)


def hide_memory() -> None:
    """Keep this process's memory, descriptors and first environment from every process without CAP_SYS_PTRACE, those of our own
    user too. Nothing of it is dumped either; a process that we start is as any other again. What it still has of its own /proc
    is all but `environ` and writing to `oom_score_adj`, where we are not root."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


# Exit codes by which a role tells the supervisor that starting it again cannot help.
EXIT_BAD_MODEL = 64
EXIT_BAD_SETTING = 65
# Of an engine whose device is in a state that only a new process can leave.
EXIT_DEVICE = 66

# On this signal an engine writes the Python stacks of all its threads to descriptor 2, which the supervisor makes log lines.
DUMP_SIGNAL = signal.SIGUSR1
