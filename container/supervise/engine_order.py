"""Tell an engine which model to load, as soon as it is started, and again until it has heard that.

The command lies in the engine's socket before the engine runs, so that it waits for nothing. One that found it too late (the
machine stood still meanwhile) is told again. What comes of the loading itself is seen elsewhere: on the status page, and by
how the engine ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from evenkeel.container.supervise.child import Child
from evenkeel.serve.contract.commands import Refusal, Verb
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Engine, StatusPage

HEARD_S = 60.0  # for an engine to be started and to read; how long it loads is not bounded by that


def ask_to_load(child: Child, now_s: float) -> None:
    """With the bound on batches that its last life has left."""
    if child.order is None or child.link is None:
        return
    order = dataclasses.replace(child.order(), rows_max=child.history.rows_max)
    child.load_asked = child.link.ask(Verb.LOAD, now_s, HEARD_S, order.to_arguments())


def insist(page: StatusPage, children: Iterable[Child], now_s: float) -> None:
    """Once more, with those that have not begun to load."""
    for child in children:
        asked = child.load_asked
        if asked is None or asked.answer is None:
            continue
        child.load_asked = None
        if not asked.failed or child.process is None or page.engine(child.place).count[Engine.STATE] != ReplicaState.NEW:
            continue
        assert asked.answer.error is not None, "it failed"
        if child.link is None or child.link.closed or asked.answer.error.refusal == Refusal.TOO_LONG:
            log("not_told", f"{child.label} cannot be told what to load: {asked.answer.error.message}", level="error")
            child.end("stuck")
        else:
            ask_to_load(child, now_s)
