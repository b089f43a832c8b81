"""Run directories of containers that were killed and could not remove them: the next start beside them does.

Only where nobody can be in one: it is our own, its record names a process that is gone, and nobody listens on a socket in it.
Somebody does where a container of another PID namespace shares the folder; and one that begins has no record yet.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from evenkeel.container import run_record

KNOCK_S = 0.1


def remove(beside: Path) -> None:
    """Those that lie in the same folder as `beside`."""
    for run_dir in beside.parent.glob("evenkeel-*"):
        if run_dir != beside and _is_left(run_dir):
            shutil.rmtree(run_dir, ignore_errors=True)


def _is_left(run_dir: Path) -> bool:
    try:
        if run_dir.is_symlink() or run_dir.stat().st_uid != os.geteuid():
            return False
        record = run_record.read(run_dir)
        return record is not None and _is_gone(record.pid) and all(_is_deaf(path) for path in run_dir.glob("*.sock"))
    except OSError:
        return False


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _is_deaf(path: Path) -> bool:
    """Whether the kernel says that nobody listens there; one that is too busy to take a call listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(KNOCK_S)
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
