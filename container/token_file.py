"""The admin token from a file, as platforms mount secrets: a variable is read by all who read the environment, a file by
those who may. Errors never hold a word of what is in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

BYTES_MAX = 4096
OTHERS = stat.S_IRWXO  # a group is no stranger: Kubernetes gives a volume to one, so that a user without rights can read it


def read(path: Path) -> str:
    """What the file holds, without the blanks around it. Raises ValueError that says why not."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to must not hold the start
    except OSError as e:
        raise ValueError(f"cannot be read: {e.strerror}") from e
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("must be a file")
        data = os.read(fd, BYTES_MAX + 1)
    finally:
        os.close(fd)
    if len(data) > BYTES_MAX:
        raise ValueError(f"must be a file of at most {BYTES_MAX} bytes")
    return data.decode("latin-1").strip()


def is_open_to_others(path: Path) -> bool:
    """Whether everybody on the machine, or in the container, may read it."""
    return bool(path.stat().st_mode & OTHERS)
