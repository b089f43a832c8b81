"""What all models of one engine share. Nothing here belongs to one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evenkeel.serve.contract.status_page import StatusBlock
from evenkeel.serve.engine.cycle.run_stamp import RunStamp
from evenkeel.serve.engine.peers import Peers


@dataclass(frozen=True, slots=True)
class EngineContext:
    block: StatusBlock
    stamp: RunStamp
    peers: Peers
    clock: Callable[[], float]
