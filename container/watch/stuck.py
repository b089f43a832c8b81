"""Busy or stuck? The supervisor's decisions on processes that live but do not move, as pure functions.

Each takes what a process has stamped on the status page and a moment, and says why it should be ended, or "". A batch
is measured by what is known of it: the owner's word (`[batching] run_s_max`), else the learned cost of batches of its
shape and size, else its deadlines alone. Handlers have no learned cost: what a request takes them lies in its data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evenkeel.container.plan.gpu_memory import by_name
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import EngineView

GAP_S = 2.0  # a watcher that was away for so long has seen nothing meanwhile: every wait begins anew
GRACE_S = 1.0  # after the last deadline of a running batch: nobody waits for it any more
LATE_FACTOR = 2.0  # such a batch may still take this many times what others took: under overload it began late
AGAIN_FACTOR = 4.0  # more patience with a request that was ended before: a slow one, taken for stuck, gets its answer
SIDECAR_SILENT_S = 5.0  # it stamps every 0.05 s
START_S = 60.0  # until a process stamps for the first time, on a busy machine
FRONTS_SILENT_S = 10.0  # beyond the time in which gunicorn should have replaced its silent workers


@dataclass(frozen=True, slots=True)
class StuckLimits:
    """`factor` and `least_s`: EVENKEEL_STUCK_FACTOR and EVENKEEL_STUCK_S. `front_s`: EVENKEEL_FRONT_TIMEOUT_S."""

    factor: float = 10.0
    least_s: float = 5.0
    front_s: float = 15.0


@dataclass(frozen=True, slots=True)
class StuckView:
    """Now, and since when the watcher itself has been looking without a gap."""

    now_s: float
    awake_since_s: float = 0.0

    def later(self, now_s: float) -> StuckView:
        return StuckView(now_s, now_s if now_s - self.now_s > GAP_S else self.awake_since_s)

    def since(self, at_s: float) -> float:
        """How long ago that was, of the time that was watched."""
        return self.now_s - max(at_s, self.awake_since_s)


def stuck(view: EngineView, moment: StuckView, policy: StuckLimits, rows_waiting: int = 0) -> str:
    """Why this engine is stuck, for the log; "" while it is idle or merely busy."""
    if view.run_started_s <= 0:
        return _stands_still(view, moment, policy, rows_waiting)
    age_s = moment.since(view.run_started_s)
    limit_s = run_limit(view, policy)
    if limit_s is not None and age_s > limit_s:
        return f"has run one batch for {age_s:.1f} s, {_measure(view, limit_s)}"
    if view.run_limit_s == 0 and age_s > _late_limit(view, policy) and moment.since(view.run_deadline_s) > GRACE_S:
        return f"has run one batch for {age_s:.1f} s, beyond the deadlines of all its requests"
    return ""


def run_limit(view: EngineView, policy: StuckLimits) -> float | None:
    """Seconds that the running batch may take, None when nothing is known of such batches."""
    if view.run_limit_s > 0:
        return view.run_limit_s
    if view.run_predicted_s <= 0:
        return None
    expected_s = max(view.run_predicted_s, view.run_longest_s)
    return max(policy.factor * expected_s, policy.least_s) * (AGAIN_FACTOR if view.run_again else 1.0)


def _late_limit(view: EngineView, policy: StuckLimits) -> float:
    return max(LATE_FACTOR * max(view.run_predicted_s, view.run_longest_s), policy.least_s)


def _measure(view: EngineView, limit_s: float) -> str:
    if view.run_limit_s > 0:
        return f"the model's own limit is {limit_s:g} s ([batching] run_s_max)"
    return f"predicted were {view.run_predicted_s:.3g} s; the limit is {limit_s:.3g} s"


def _stands_still(view: EngineView, moment: StuckView, policy: StuckLimits, rows_waiting: int) -> str:
    """A ready engine stamps a beat twice a second while it is idle. Without waiting rows its silence harms nobody."""
    silent_s = moment.since(max(view.beat_s, view.state_since_s))
    if view.state != ReplicaState.READY or rows_waiting == 0 or silent_s <= policy.least_s:
        return ""
    return f"runs nothing and has not moved for {silent_s:.1f} s while {rows_waiting} rows wait"


def lost_devices(devices: Sequence[Mapping[str, Any]], counted: Mapping[str, int]) -> dict[str, int]:
    """Of what the sidecar tells of devices: those with more fatal errors than were known, by every name that
    CUDA_VISIBLE_DEVICES may have for them, with the number. A slice of a GPU (MIG) has a name of its own that NVML's events do
    not tell; its engine learns of the loss from its own calls."""
    faults = {name: int(device.get("fatal_xids") or 0) for name, device in by_name(devices).items()}
    return {name: count for name, count in faults.items() if count > counted.get(name, 0)}


def silent_sidecar(beat_s: float, started_s: float, moment: StuckView) -> str:
    """A sidecar that lives and gives no verdicts: /ping keeps the last one, so that it may well be replaced."""
    silent_s = moment.since(max(beat_s, started_s))
    limit_s = SIDECAR_SILENT_S if beat_s > started_s else START_S
    return f"has given no verdict for {silent_s:.1f} s" if silent_s > limit_s else ""


def silent_fronts(beats_s: list[float], started_s: float, moment: StuckView, policy: StuckLimits) -> str:
    """gunicorn replaces a silent worker. When all are silent for longer than that takes, it is silent itself."""
    last_s = max(beats_s, default=0.0)
    silent_s = moment.since(max(last_s, started_s))
    if silent_s <= (policy.front_s + FRONTS_SILENT_S if last_s > started_s else START_S):
        return ""
    return f"has no worker that moved in the last {silent_s:.1f} s, and has replaced none"
