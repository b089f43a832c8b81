"""Is the engine at a place ready, and may its version take traffic? Reads the status page, decides nothing else."""

from __future__ import annotations

from evenkeel.container.supervise.child import Child
from evenkeel.serve.contract import reach_cells
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import Engine, StatusPage

SHA256_S = 60.0  # a READY version waits so long for the sum of its files, which every reply names


def is_ready(page: StatusPage, child: Child) -> bool:
    count = page.engine(child.place).count
    return child.process is not None and count[Engine.STATE] == ReplicaState.READY and count[Engine.EPOCH] == child.epoch


def may_take_traffic(page: StatusPage, child: Child, now_s: float) -> bool:
    """READY, connected to every front, and known by the sum of its files, unless that takes too long."""
    if not is_ready(page, child) or not reach_cells.reached_by_all(page, child.place, now_s):
        return False
    sha256 = (page.read_text(child.place, looks=1).get("model") or {}).get("sha256")
    return bool(sha256) or now_s - page.engine(child.place).value[Engine.STATE_SINCE_S] > SHA256_S
