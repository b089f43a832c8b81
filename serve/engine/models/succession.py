"""A replica that is warm before it has a place: what it waits for, and how it takes the place of its predecessor.

How it works. The supervisor starts the successor beside the replica that is to go, with the same listening socket, and a
spare block of the status page to say there how far it is. Once it is warm the supervisor writes the successor's epoch
into the place's own block and tells the predecessor to leave. From then on the block is the successor's, but for the
counters of what the predecessor still finishes; no front reaches the successor before the predecessor has closed its
channels, so they are never both counting. Fronts then connect again, and are greeted at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import Engine, StatusPage
from evenkeel.serve.engine.models.explain import Explanation
from evenkeel.serve.engine.models.replica_life import ReplicaLife
from evenkeel.serve.settings import EngineSettings

LOOK_S = 0.005


def holds_place(page: StatusPage, settings: EngineSettings) -> bool:
    """Whether the block of its place is this process's to write, and not its successor's, or its predecessor's still."""
    return bool(page.engine(settings.place).count[Engine.EPOCH] == settings.epoch)


def wait_for_place(
    page: StatusPage,
    settings: EngineSettings,
    life: ReplicaLife,
    explanation: Explanation,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Say in the spare block that this replica is warm, wait for the place, and go there."""
    life.become(ReplicaState.READY)
    while not holds_place(page, settings):
        sleep(LOOK_S)
    life.move(page.engine(settings.place))
    explanation.move(settings.place)
