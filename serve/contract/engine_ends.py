"""How an engine ended: the supervisor knows it, and fronts ask it before they blame the request that ran then.

How it works. The supervisor writes two cells of the engine's block before it starts the next: how, and then which epoch that was.
A front that has lost its channel sooner than that finds an older epoch there, and asks again a little later.
"""

from __future__ import annotations

import signal
from enum import IntEnum

from evenkeel.serve.contract.status_page import Engine, StatusBlock

_KILLED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGQUIT)


class Ended(IntEnum):
    UNKNOWN = 0
    BY_ITSELF = 1  # it exited, or crashed: what it ran may be the cause
    STUCK = 2  # we ended it, because what it ran did not end
    OUT_OF_MEMORY = 3  # the kernel did, for the container's limit
    ASKED = 4  # it left for a successor
    KILLED = 5  # by a signal from outside, or by us for a reason that no request gave


def how(code: int, reason: str) -> Ended:
    """`reason`: one of RESTART_REASONS. `code`: as of the process, a signal's number negated."""
    cause = {"stuck": Ended.STUCK, "out_of_memory": Ended.OUT_OF_MEMORY, "leak": Ended.ASKED}.get(reason)
    if cause is not None:
        return cause
    return Ended.KILLED if code in _KILLED else Ended.BY_ITSELF


def write(block: StatusBlock, epoch: int, ended: Ended) -> None:
    """By the supervisor, before it starts another engine there."""
    block.count[Engine.ENDED_HOW] = ended
    block.count[Engine.ENDED_EPOCH] = epoch


def read(block: StatusBlock, epoch: int) -> Ended | None:
    """How the engine of that epoch ended; None: nobody has said so yet. UNKNOWN: a later one has ended since."""
    epoch_told = block.count[Engine.ENDED_EPOCH]
    if epoch_told < epoch:
        return None
    return Ended(block.count[Engine.ENDED_HOW]) if epoch_told == epoch else Ended.UNKNOWN
