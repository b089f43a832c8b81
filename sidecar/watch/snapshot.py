"""Reads the status page into plain snapshots: what the watch loop compares, and /status, the whole truth as JSON.

No clock of its own, no writing. What is remembered over time is handed in: see transitions.py, rates.py and engine_load.py.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evenkeel.serve.contract import inference_protocol, poison_page, reach_cells
from evenkeel.serve.contract.lifecycle import CLEARS, Reason, ReplicaState, ReplicaView, conditions, container_state
from evenkeel.serve.contract.reach_cells import Worker, alive
from evenkeel.serve.contract.status_page import (  # fmt: skip
    DEVICE_TEXT,
    FRONTS_MAX,
    PLAN_TEXT,
    ROLES,
    ROW_CELLS,
    TIME_CELLS,
    Engine,
    EngineView,
    Front,
    Main,
    StatusPage,
    places,
    read_engine,
    serves,
    summed,
    time_edge,
    version_counters,
)
from evenkeel.serve.contract.status_page import restarts as replaced
from evenkeel.serve.errors import FAMILIES
from evenkeel.sidecar.watch import versions_view as versioned
from evenkeel.sidecar.watch.engine_load import Load
from evenkeel.sidecar.watch.rates import RatePoint, Rates
from evenkeel.sidecar.watch.ready_eta import ReadyEta, WarmupProgress, ready_in_s, replica_ready_in_s
from evenkeel.sidecar.watch.transitions import Seen, SeenReplica, TransitionLog

STATUS_OF = {family.code: family.status for family in FAMILIES}
POINT_FIELDS = tuple(f.name for f in dataclasses.fields(RatePoint))
POISONS_SHOWN = 8
AT_S = POINT_FIELDS.index("at_s")


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the sidecar keeps over time, each owned by the watch loop."""

    memory: TransitionLog = field(default_factory=TransitionLog)
    measures: Rates = field(default_factory=Rates)
    load: Load = field(default_factory=Load)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment on both clocks: CLOCK_MONOTONIC, as on the page, and Unix time, as people tell it."""

    monotonic_s: float
    unix_s: float

    def unix(self, monotonic_s: float) -> float:
        return round(self.unix_s - (self.monotonic_s - monotonic_s), 3)


def engines(page: StatusPage) -> list[EngineView]:
    """Of every place in use."""
    return [read_engine(page, i) for i in places(page)]


def replica_view(engine: EngineView) -> ReplicaView:
    unmet = engine.state == ReplicaState.WARMING and engine.awaits_s > 0
    return ReplicaView(engine.state, alive(engine.pid), engine.was_ready, engine.stuck, unmet)


def replica_views(page: StatusPage) -> list[ReplicaView]:
    """Of those that take traffic: a version that loads beside them, or stands by, makes nobody ready or failed."""
    return [replica_view(e) for e in engines(page) if serves(page, e.place)]


def leaving(page: StatusPage) -> Reason | None:
    """Why the container is stopping, if it is."""
    return Reason(page.main.count[Main.LEAVING]) if page.main.count[Main.LEAVING] else None


# ---- what the watch loop compares --------------------------------------------------------------------------------------


def seen(page: StatusPage, now: Snapshot) -> Seen:
    """One moment. The restarts are the same before and after the replicas are read: a restart is counted after the
    process is gone and before the next one has its epoch, so each shows together with the replica that it was."""
    while True:
        before = restarts(page)
        replicas = tuple(_seen_replica(page, e, now) for e in engines(page))
        if restarts(page) == before:
            return Seen(now.unix_s, page.verdict().reason.code, replicas, before)


def restarts(page: StatusPage) -> dict[str, int]:
    return {f"{role}/{why}": n for (role, why), n in replaced(page).items()}


def _seen_replica(page: StatusPage, e: EngineView, now: Snapshot) -> SeenReplica:
    block, is_alive = page.engine(e.place), alive(e.pid)
    since_s = block.value[Engine.STATE_SINCE_S]
    failure = {} if is_alive else page.read_text(e.place).get("failure")
    message = str(failure.get("message", "")) if isinstance(failure, dict) else ""
    since_unix_s = 0.0 if e.state == ReplicaState.NEW or since_s == 0 else now.unix(since_s)
    return SeenReplica(e.place, e.epoch, e.state, since_unix_s, is_alive, _own_faults(block.count), message)


# ---- /status -----------------------------------------------------------------------------------------------------------


def status(page: StatusPage, now: Snapshot, remembered: Remembered, points_after_s: float = 0.0) -> dict[str, Any]:
    """The whole truth as JSON; of the measures only the points after that moment of CLOCK_MONOTONIC."""
    count, value = page.main.count, page.main.value
    memory, latest = remembered.memory, remembered.measures.now()
    reason, views, stopping = Reason(count[Main.VERDICT_REASON]), replica_views(page), leaving(page)
    fronts = reach_cells.front_views(page, now.monotonic_s)
    replicas = [_replica(page, e, now, remembered) for e in engines(page)]
    is_ready = bool(count[Main.VERDICT_READY])
    due = [ReadyEta(r["ready_in_s"] if r["alive"] else None, r["proven"]) for r in replicas if r["serves"]]
    estimate_s = ready_in_s(is_ready, stopping, due)
    return {
        "state": container_state(views, stopping).name, "ready": is_ready, "reason": reason.code,
        "since": now.unix(value[Main.VERDICT_SINCE_S]),
        "for_s": round(now.monotonic_s - value[Main.VERDICT_SINCE_S], 3), "clears_when": CLEARS[reason],
        "ready_in_s": estimate_s, "conditions": [dataclasses.asdict(c) for c in conditions(views, stopping, fronts)],
        "now": round(now.unix_s, 3), "now_s": round(now.monotonic_s, 3),
        "uptime_s": round(now.monotonic_s - value[Main.STARTED_S], 3),
        "fault_injection": page.read_text(PLAN_TEXT).get("fault_injection", ""),
        "models": models(page), "versions": versioned.shown(page, now.unix_s - now.monotonic_s),
        "queue_rows": latest.queue_rows, "in_flight": latest.in_flight, "saturation": latest.saturation,
        "headroom_requests_per_s": remembered.measures.headroom_rps,
        "restarts": {role: sum(n for (of, _), n in replaced(page).items() if of == role) for role in ROLES},
        "restart_reasons": {key: n for key, n in restarts(page).items() if n},
        "replicas": replicas, "devices": page.read_text(DEVICE_TEXT).get("devices", []),
        "fronts": [_front(page, w) for w in reach_cells.workers(page)],
        "poisoned": poisoned(page, now),
        "faults": [dataclasses.asdict(f) for f in reversed(memory.faults)],
        "transitions": [dataclasses.asdict(t) for t in reversed(memory.transitions)],
        "sidecar": {"pid": os.getpid(), "restarted": memory.life > 1, "life": memory.life},
        "measures": _measures(remembered.measures, latest, points_after_s),
    }  # fmt: skip


def poisoned(page: StatusPage, now: Snapshot) -> dict[str, Any]:
    """The requests that ended engines of the version that serves, and are refused for it. None of their bytes is told."""
    poisons = poison_page.remembered(page, range(FRONTS_MAX), page.main.count[Main.SERVING], now.monotonic_s)
    newest = [{"id": p.fingerprint.digest[:4].hex(), "at": now.unix(p.found_s)} for p in poisons[:POISONS_SHOWN]]
    return {"remembered": len(poisons), "for_s": poison_page.REMEMBERED_S, "newest": newest}


def models(page: StatusPage) -> list[dict[str, Any]]:
    """Each model and version once, with the replicas that serve it. Ready as `/v2/models/{name}/ready` says it."""
    by_name: dict[tuple[str, str], dict[str, Any]] = {}
    for one in inference_protocol.served(page):
        entry = by_name.setdefault((one.name, one.version), {**one.model, "ready": False, "replicas": []})
        entry["replicas"].append(one.place)
        entry["ready"] = entry["ready"] or (page.verdict().ready and one.ready)
    return list(by_name.values())


def _replica(page: StatusPage, e: EngineView, now: Snapshot, remembered: Remembered) -> dict[str, Any]:
    block = page.engine(e.place)
    since_s = block.value[Engine.STATE_SINCE_S]
    in_state_s = max(0.0, now.monotonic_s - since_s)
    started = e.state != ReplicaState.NEW and since_s > 0  # NEW is written by the supervisor, which does not know of times
    took_s, saturation = remembered.memory.took_s, remembered.load.saturation
    return {
        **page.read_text(e.place),
        "place": e.place, "serves": serves(page, e.place), "memory_bytes": block.count[Engine.MEMORY_BYTES],
        "pid": e.pid, "alive": alive(e.pid), "proven": replica_view(e).proven, "epoch": e.epoch, "state": e.state.name,
        "since": now.unix(since_s) if started else None, "for_s": round(in_state_s, 3) if started else None,
        "progress": _progress(e), "warm": f"{e.warm_done} of {e.warm_total}",
        "warm_done": e.warm_done, "warm_total": e.warm_total,
        "ready_in_s": replica_ready_in_s(WarmupProgress(e.state, in_state_s, e.warm_done, e.warm_total), took_s),
        "queue_rows": e.queue_rows, "saturation": saturation[e.place] if e.place < len(saturation) else None,
        "restarts": max(0, e.epoch - 1), "batches": e.batches, "rows": e.rows,
        "batch_rows": _row_histogram(block.count, Engine.BATCH_ROWS), "run_us": _time_histogram(block.count, Engine.RUN_TIME),
        "queue_us": _time_histogram(block.count, Engine.QUEUE_TIME), "faults": _errors(block.count, Engine.ERRORS),
    }  # fmt: skip


def _progress(e: EngineView) -> str:
    """One phrase for people."""
    if e.state == ReplicaState.WARMING:
        return f"warming {e.warm_done} of {e.warm_total}"
    return {ReplicaState.NEW: "starting", ReplicaState.LOADING: "loading the model"}.get(e.state, e.state.name.lower())


def _measures(measures: Rates, latest: RatePoint, after_s: float) -> dict[str, Any]:
    """Points as rows under one heading: ten minutes of them are 600, and the names need not travel with each."""
    # Compared as they are told, rounded: else who asks for what came after the last point gets that one again.
    points = [point for p in measures.points() if (point := _point(p))[AT_S] > after_s]
    return {"now": dataclasses.asdict(latest), "fields": list(POINT_FIELDS), "points": points}


def _point(point: RatePoint) -> list[Any]:
    values = (getattr(point, name) for name in POINT_FIELDS)
    return [round(v, 6) if isinstance(v, float) else v for v in values]


def _front(page: StatusPage, worker: Worker) -> dict[str, Any]:
    place = worker.place
    n = page.front(place).count
    cells = summed([b.count for b in version_counters(page, place)])
    reached = [e for e in engines(page) if worker.reaches(e)]
    return {
        "place": place, "engines": [e.place for e in reached],
        "rehearsed_with": [e.place for e in reached if worker.answered_by[e.place] == e.epoch],
        "pid": n[Front.PID], "connections": n[Front.CONNECTIONS], "in_flight": n[Front.IN_FLIGHT],
        "queue_rows": n[Front.QUEUE_ROWS], "slot_bytes": n[Front.SLOT_BYTES], "ok": cells[Front.OK],
        "resubmitted": n[Front.RESUBMITTED], "abandoned": cells[Front.ABANDONED], "errors": _errors(cells, Front.ERRORS),
        "latency_us": _time_histogram(cells, Front.LATENCY), "revision": n[Front.FOLLOWS],
    }  # fmt: skip


def _errors(cells: Sequence[int], base: int) -> dict[str, int]:
    by_code: dict[str, int] = {}
    for i, family in enumerate(FAMILIES):
        if cells[base + i]:
            by_code[family.code] = by_code.get(family.code, 0) + cells[base + i]  # families may share a code
    return by_code


def _own_faults(cells: Sequence[int]) -> dict[str, int]:
    """An engine's errors without those that are the client's."""
    return {code: n for code, n in _errors(cells, Engine.ERRORS).items() if STATUS_OF[code] >= 500}


def _row_histogram(cells: Sequence[int], base: int) -> dict[str, int]:
    """Counts by upper bound, empty buckets left out."""
    return {f"<{2**i}": cells[base + i] for i in range(ROW_CELLS) if cells[base + i]}


def _time_histogram(cells: Sequence[int], base: int) -> dict[str, int]:
    return {f"<{time_edge(i) * 1e6:.4g}": cells[base + i] for i in range(TIME_CELLS) if cells[base + i]}
