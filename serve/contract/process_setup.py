"""Small things every role does at its start: die with its parent, keep fixed places for descriptors."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4  # prctl(2)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGE_BYTES = 4 << 20  # from this size on a piece of memory is mapped by itself, and so given back as soon as it is freed


def keep_standard_descriptors() -> None:
    """Where 0, 1 or 2 are closed /dev/null is opened: otherwise the next file to be opened would get our output."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def begin_anywhere() -> None:
    """Anyone who starts us may have blocked signals, which outlives exec; and the working directory may have been removed, where
    gunicorn and others cannot begin."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.getcwd()
    except OSError:
        os.chdir("/")


def die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends; if it has ended already, end now.

    `parent` must be known from before this process began: once the parent has ended, getppid() tells of who took it in. The
    kernel forgets the wish with a fork, so each process asks for itself.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def role_command(module: str, settings: str) -> list[str]:
    """How the supervisor starts a role: it says who it is, so that the role can end with it. -P: a file of the working directory
    is no module of ours, nor of Python's."""
    return [sys.executable, "-P", "-m", module, str(os.getpid()), settings]


def begin_role() -> str:
    """The first thing that a role does: bind its life to its supervisor's. Returns its settings, as JSON."""
    begin_anywhere()
    _, supervisor, settings = sys.argv
    die_with_parent(int(supervisor))
    return settings


def hide_memory() -> None:
    """Keep this process's memory, descriptors and first environment from every process without CAP_SYS_PTRACE, those of our own
    user too. Nothing of it is dumped either; a process that we start is as any other again. What it still has of its own /proc
    is all but `environ` and writing to `oom_score_adj`, where we are not root."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def give_back_large_memory() -> None:
    """Large bodies leave nothing behind: glibc learns from the first large piece that is freed to keep up to 64 MB of others for
    itself (mallopt(3), "dynamic mmap threshold"); two fixed bounds end that. For processes without a model: large tensors are
    quicker where freed memory is kept. Without glibc nothing is changed."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES)


# Exit codes by which a role tells the supervisor that starting it again cannot help.
EXIT_BAD_MODEL = 64
EXIT_BUG = 70  # of a front worker that cannot be trusted any more; EX_SOFTWARE of sysexits.h
# Of an engine whose device is in a state that only a new process can leave.
EXIT_DEVICE = 66

# On this signal an engine writes the Python stacks of all its threads to descriptor 2, which the supervisor makes log lines.
DUMP_SIGNAL = signal.SIGUSR1
