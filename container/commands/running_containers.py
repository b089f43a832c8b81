"""The containers that run on this machine: found by their run directories, in each of which a socket answers.

One rule for every command: none is said so, with how to start one; one is taken; of several a table is shown.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evenkeel.container import run_record
from evenkeel.container.commands.sidecar_client import NoAnswer
from evenkeel.container.environment import Environment
from evenkeel.container.run_record import RunRecord
from evenkeel.sidecar.settings import ADMIN_SOCKET

KNOCK_S = 2.0


@dataclass(frozen=True, slots=True)
class RunningContainer:
    socket: Path
    record: RunRecord | None  # None: it left none, or somebody removed it

    @property
    def port(self) -> int | None:
        return self.record.port if self.record else None

    @property
    def name(self) -> str:
        """For a person."""
        told = self.record
        return f"port {told.port}, page {told.page}, model {told.model_dir}" if told else str(self.socket)


def find(env: Environment) -> list[RunningContainer]:
    """Those with this run directory whose owner we are. Root may ask all of them."""
    sockets = sorted(path for path in folder(env).glob(f"evenkeel-*/{ADMIN_SOCKET}") if _is_ours(path.parent) and _answers(path))
    found = [RunningContainer(path, run_record.read(path.parent)) for path in sockets]
    return sorted(found, key=lambda c: (c.port or 0, c.socket))


def folder(env: Environment) -> Path:
    return Path(env.settings.run_dir or tempfile.gettempdir())


def _is_ours(run_dir: Path) -> bool:
    """Anybody may make a folder of this name under /tmp."""
    try:
        return os.geteuid() in (0, run_dir.stat().st_uid)
    except OSError:
        return False


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(KNOCK_S)
            sock.connect(str(path))
    except OSError:
        return False
    return True


def only(
    found: Sequence[RunningContainer],
    port: int | None,
    env: Environment,
    or_else: str = "--socket",
    elsewhere: str = "--url http://HOST:PORT",
) -> RunningContainer:
    """The one that is meant. Raises NoAnswer, with a table where there are several to choose from. `elsewhere`: the option that
    names one of another machine, `or_else`: one of this."""
    if not found:
        raise NoAnswer(f"no container of yours runs here (no socket answers in {folder(env)}/evenkeel-*): start one with "
                       f"`evenkeel serve FOLDER`, or say where one is with {elsewhere}")  # fmt: skip
    meant = [c for c in found if port is None or c.port == port]
    if len(meant) == 1:
        return meant[0]
    if not meant:
        raise NoAnswer(f"no container of yours has port {port}; of those that run here choose one with --port:\n{table(found)}")
    raise NoAnswer(f"{len(meant)} containers run here: choose one with --port, or with {or_else}:\n{table(meant)}")


def table(found: Sequence[RunningContainer]) -> str:
    """In plain columns, whole in whatever width, since a socket's path is there to be copied."""
    rows = [("port", "pid", "page", "model", "socket"), *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(container: RunningContainer) -> tuple[str, ...]:
    told = container.record
    known = (str(told.port), str(told.pid), told.page, told.model_dir) if told else ("?",) * 4
    return (*known, str(container.socket))
