"""The run directory: private to our user, with the sockets of engines and of changing calls, and files that may be lost.

How it works. Anybody who clears the temporary folder takes it away: a tidy start script, a cleaner of old files. Then a name in
it leads nowhere, while the socket behind it lives on. So fronts reach engines by a descriptor of the socket's place in the file
system (O_PATH, through /proc/self/fd), which holds whatever becomes of the name. Commands of people go by the name, so the
directory and the socket for changing calls are made anew when they are missed.

Owner of the directory and of the listening sockets in it.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evenkeel.container.supervise import left_run_dirs
from evenkeel.serve.contract.logline import log
from evenkeel.serve.errors import BadSetting

LOOK_S = 1.0
BACKLOG = 64
NAME_CHARS_MAX = 16  # of a socket in it
ADDRESS_BYTES_MAX = 107  # of a Unix socket, see unix(7)


@dataclass(frozen=True, slots=True)
class UnixListener:
    """`fd` listens. `node_fd` is the socket's place in the file system, through which one connects."""

    fd: int
    node_fd: int

    @property
    def address(self) -> str:
        """Where a process connects that has inherited `node_fd`."""
        return f"/proc/self/fd/{self.node_fd}"

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.node_fd)


class RunDir:
    """Unix socket paths are short, so it must not lie deep."""

    def __init__(self, wanted: str) -> None:
        """Raises BadSetting where there can be none."""
        self.path = _made_in(wanted)
        left_run_dirs.remove(self.path)
        self._due_s = 0.0
        self._failed = False

    def listen(self, name: str) -> UnixListener:
        """A listening Unix socket that only our own user can open. Its descriptors live as long as we do."""
        path = self.path / name
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind(str(path))
            path.chmod(0o600)
            sock.listen(BACKLOG)
            return UnixListener(os.dup(sock.fileno()), os.open(path, os.O_PATH | os.O_CLOEXEC))

    def mend(self, name: str, now_s: float, listen_anew: Callable[[], None]) -> None:
        """Once in LOOK_S: make the directory anew if the socket `name` in it has gone, and call."""
        if now_s < self._due_s:
            return
        self._due_s = now_s + LOOK_S
        if (self.path / name).is_socket():
            return
        try:
            if not self.path.is_dir():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.mkdir(mode=0o700)  # never one that somebody else has put there
            listen_anew()
        except OSError as e:
            if not self._failed:
                log("run_dir_lost", f"{self.path} has gone and cannot be made anew: {e.strerror}; serving goes on, but "
                    "`evenkeel use` and `evenkeel drain` do not find this container", level="warning")  # fmt: skip
            self._failed = True
            return
        self._failed = False
        log(
            "run_dir_made_anew",
            f"somebody has removed {self.path} or what was in it; nothing that serves needs it",
            level="warning",
        )

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _made_in(wanted: str) -> Path:
    try:
        if wanted:
            Path(wanted).mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix="evenkeel-", dir=wanted or None))
    except OSError as e:  # no folder, no rights, no space, nothing but read-only disks
        where = f"in {wanted!r}" if wanted else "in the folder for temporary files"
        raise BadSetting(f"no run directory can be made {where}: {e.strerror}; EVENKEEL_RUN_DIR names another folder") from e
    if len(os.fsencode(path)) + 1 + NAME_CHARS_MAX > ADDRESS_BYTES_MAX:
        path.rmdir()
        raise BadSetting(f"the run directory {path} lies too deep for Unix sockets: set EVENKEEL_RUN_DIR to a shorter path")
    return path
