"""Start every child whose time has come. One that the system does not let us start is tried again."""

from __future__ import annotations

from collections.abc import Iterable

from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.spawn import spawn
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import StatusPage

START_AGAIN_S = 1.0  # after the system would not let us start a process


def start_due(page: StatusPage, children: Iterable[Child], now_s: float) -> None:
    for child in children:
        if child.process is None and child.due_s is not None and child.due_s <= now_s:
            try:
                spawn(page, child)
            except OSError as e:  # no file descriptor, process or memory is left: those that run go on
                log("start_failed", f"{child.label} cannot be started: {e.strerror}; it is tried again", level="warning")
                child.due_s = now_s + START_AGAIN_S
