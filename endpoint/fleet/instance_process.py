"""One instance as a tree of processes: started, looked at and ended by its pid, also by one who took it over.

How it is told from anybody else's. A pid comes again; a pid together with the moment at which its process began does not. And
an instance's address, one of 127.0.0.0/8 that no other instance of this home gets, is believed only while the socket that
listens there is held by that process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OUTPUT_BYTES_MAX = 8 << 20  # of an instance's output; what is before is dropped
TAIL_BYTES = 4096
LINE_CHARS_MAX = 300
PORT, SIDE_PORT = 8080, 9090  # HOST: the contract's port
SERVE = (sys.executable, "-P", "-m", "evenkeel.container", "serve")
LISTENING = "0A"  # proc(5): state in /proc/net/tcp


@dataclass(frozen=True, slots=True)
class RunningProcess:
    pid: int
    began: int  # clock ticks after boot


@dataclass(frozen=True, slots=True)
class InstancePlace:
    """Where an instance lives: its folder has its output and its temporary files."""

    folder: Path
    address: str
    port: int
    side_port: int

    @property
    def output(self) -> Path:
        return self.folder / "output.log"


def start(place: InstancePlace, model: Path, environment: Mapping[str, str], path: str) -> RunningProcess:
    """`environment` is the model's. Raises OSError."""
    temporary = place.folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    settings = {
        "PATH": path, "HOME": str(place.folder), "TMPDIR": str(temporary), "LANG": "C.UTF-8",
        **environment,
        "EVENKEEL_MODEL_DIR": str(model), "EVENKEEL_HOST": place.address, "SAGEMAKER_BIND_TO_PORT": str(place.port),
        "EVENKEEL_SIDECAR_ADDRESS": f"{place.address}:{place.side_port}", "EVENKEEL_LOG": "json",
    }  # fmt: skip
    with place.output.open("ab") as output:
        child = subprocess.Popen(
            SERVE, env=settings, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=place.folder, start_new_session=True
        )
    return RunningProcess(child.pid, _began(child.pid) or 0)


def lives(running: RunningProcess) -> bool:
    return _began(running.pid) == running.began


def exit_words(running: RunningProcess) -> str:
    """How a child of ours ended, once it has; of one that was taken over nobody can tell."""
    try:
        pid, status = os.waitpid(running.pid, os.WNOHANG)
    except ChildProcessError:
        return "ended"
    if not pid:
        return "ended"
    code = os.waitstatus_to_exitcode(status)
    return f"exited {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"


def ask_to_end(running: RunningProcess) -> None:
    _signal(running, signal.SIGTERM)


def kill(running: RunningProcess) -> None:
    """With everything of its session; what has left that ends with its parent, as the tree sees to."""
    if lives(running):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.pid, signal.SIGKILL)


def listens(running: RunningProcess, place: InstancePlace) -> bool:
    """Whether it is this process that listens at the instance's address."""
    packed = socket.inet_aton(place.address)[::-1].hex().upper()
    wanted = f"{packed}:{place.port:04X}"
    sockets = {f"socket:[{line[9]}]" for line in _table() if line[1] == wanted and line[3] == LISTENING}
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{running.pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path) in sockets:
                    return True
    return False


def bound_output(place: InstancePlace) -> None:
    with contextlib.suppress(OSError):
        if place.output.stat().st_size > OUTPUT_BYTES_MAX:
            os.truncate(place.output, 0)


def last_line(place: InstancePlace) -> str:
    """Of its output, for people."""
    try:
        with place.output.open("rb") as file:
            file.seek(max(0, place.output.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:LINE_CHARS_MAX] for line in reversed(lines) if line.strip()), "")


def _table() -> list[list[str]]:
    with contextlib.suppress(OSError):
        return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return []


def _signal(running: RunningProcess, number: signal.Signals) -> None:
    if lives(running):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(running.pid, number)


def _began(pid: int) -> int | None:
    """None where there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
