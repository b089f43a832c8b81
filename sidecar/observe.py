"""Reads the status page into one plain snapshot. No decision, no clock of its own, no writing."""

from __future__ import annotations

import os
from typing import Any

from serve.contract.lifecycle import CLEARS, Reason, ReplicaView
from serve.contract.status import (
    ROLES,
    ROW_CELLS,
    TIME_CELLS,
    Engine,
    EngineView,
    Front,
    Main,
    StatusPage,
    read_engine,
    restarts,
    time_edge,
)  # fmt: skip
from serve.errors import FAMILIES

OVERDUE_S = 1.0  # a batch that runs this long after its last deadline is answered by nobody any more


def engines(page: StatusPage) -> list[EngineView]:
    return [read_engine(page, i) for i in range(page.main.count[Main.ENGINES])]


def replica_view(engine: EngineView, now_s: float) -> ReplicaView:
    overdue = engine.run_started_s > 0 and now_s > engine.run_deadline_s + OVERDUE_S
    return ReplicaView(engine.state, alive(engine.pid), engine.was_ready, overdue)


def alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def leaving(page: StatusPage) -> Reason | None:
    """Why the container is stopping, if it is."""
    return Reason(page.main.count[Main.LEAVING]) if page.main.count[Main.LEAVING] else None


def status(page: StatusPage, now_s: float) -> dict[str, Any]:
    """The whole truth as JSON."""
    count, value = page.main.count, page.main.value
    reason = Reason(count[Main.VERDICT_REASON])
    return {
        "ready": bool(count[Main.VERDICT_READY]),
        "reason": reason.code,
        "for_s": round(now_s - value[Main.VERDICT_SINCE_S], 3),
        "clears_when": CLEARS[reason],
        "uptime_s": round(now_s - value[Main.STARTED_S], 3),
        "restarts": {role: sum(n for (of, _), n in restarts(page).items() if of == role) for role in ROLES},
        "replicas": [_replica(page, e) for e in engines(page)],
        "fronts": [_front(page, i) for i in range(count[Main.FRONTS])],
    }


def _replica(page: StatusPage, e: EngineView) -> dict[str, Any]:
    block = page.engine(e.place)
    return {
        "place": e.place, "pid": e.pid, "epoch": e.epoch, "state": e.state.name, "warm": f"{e.warm_done} of {e.warm_total}",
        "queue_rows": e.queue_rows, "batches": e.batches, "rows": e.rows,
        "batch_rows": _row_histogram(block.count, Engine.BATCH_ROWS), "run_us": _time_histogram(block.count, Engine.RUN_TIME),
        "queue_us": _time_histogram(block.count, Engine.QUEUE_TIME), "faults": _errors(block.count, Engine.ERRORS),
        **page.read_text(e.place),
    }  # fmt: skip


def _front(page: StatusPage, place: int) -> dict[str, Any]:
    n = page.front(place).count
    return {
        "place": place, "pid": n[Front.PID], "connections": n[Front.CONNECTIONS], "in_flight": n[Front.IN_FLIGHT],
        "queue_rows": n[Front.QUEUE_ROWS], "slot_bytes": n[Front.SLOT_BYTES], "ok": n[Front.OK],
        "resubmitted": n[Front.RESUBMITTED], "abandoned": n[Front.ABANDONED], "errors": _errors(n, Front.ERRORS),
        "latency_us": _time_histogram(n, Front.LATENCY),
    }  # fmt: skip


def _errors(cells: memoryview, base: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for i, family in enumerate(FAMILIES):
        if cells[base + i]:
            found[family.code] = found.get(family.code, 0) + cells[base + i]  # families may share a code
    return found


def _row_histogram(cells: memoryview, base: int) -> dict[str, int]:
    """Counts by upper bound, empty buckets left out."""
    return {f"<{2**i}": cells[base + i] for i in range(ROW_CELLS) if cells[base + i]}


def _time_histogram(cells: memoryview, base: int) -> dict[str, int]:
    return {f"<{time_edge(i) * 1e6:.4g}": cells[base + i] for i in range(TIME_CELLS) if cells[base + i]}
