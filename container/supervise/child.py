"""One process place: what is started there, what has happened to it, and how to tell it something."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evenkeel.container.supervise.child_output import ChildOutput
from evenkeel.container.supervise.command_link import AskedCommand, CommandLink
from evenkeel.container.supervise.life_records import Mark
from evenkeel.container.supervise.restart import History, Post
from evenkeel.container.supervise.session_end import kill_session
from evenkeel.serve.contract.model_order import ModelOrder


@dataclass(slots=True)
class Child:
    role: str  # front, engine or sidecar
    place: int
    command: Callable[[int], list[str]]  # epoch -> argv
    fds: tuple[int, ...]
    environ: Mapping[str, str] | None = None  # None: as the supervisor's
    device: str = ""  # the accelerator that it uses; "": none
    order: Callable[[], ModelOrder] | None = None  # what an engine is told to load at its start; None: nothing
    commanded: bool = False  # it is started with a socket for commands
    captured: bool = False  # what it writes on stdout and stderr becomes log lines of ours
    output: ChildOutput | None = None
    link: CommandLink | None = None  # to this life of it
    load_asked: AskedCommand | None = None  # to load its model; None: it was not, or it has answered
    leave_asked: AskedCommand | None = None  # to leave; None: it was not, or it has answered
    process: subprocess.Popen[bytes] | None = None
    epoch: int = 0
    history: History = History()  # noqa: RUF009  frozen
    began: Mark = Mark()  # noqa: RUF009  frozen; what the counters said when this life began
    failed_starts: int = 0  # of a version that has not served yet
    ending: str = ""  # why we ended it ourselves, one of RESTART_REASONS
    due_s: float | None = 0.0  # when to start it next; None while it runs, or while nothing is to run there
    started_s: float = 0.0
    condemned_s: float = 0.0  # when it was found stuck, or told to leave for its memory; 0: neither
    beside: Child | None = None  # of a standby, and of one that leaves for its successor: whose place it is, or was

    @property
    def label(self) -> str:
        return f"{self.role} {self.place}"

    @property
    def post(self) -> Post:
        if self.beside is None:
            return Post.OWN
        return Post.PREDECESSOR if self.ending == "leak" else Post.SUCCESSOR

    def end(self, reason: str) -> None:
        self.ending = reason
        tell(self, signal.SIGKILL)


def tell(child: Child, signum: int) -> None:
    """TERM goes to the role's first process, which knows its own order; KILL to its whole session,
    see session_end.py."""
    assert child.process is not None, "only the living are signalled"
    try:
        if signum == signal.SIGKILL:
            kill_session(child.process.pid)
        else:
            os.kill(child.process.pid, signum)
    except ProcessLookupError:
        pass  # it ended meanwhile; the next reap sees it


def how_it_ended(code: int) -> str:
    """The exit code as Popen has it, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # one of those without a name of their own
        return f"signal {-code}"
