"""Runs the real Supervisor on tiny shell children, as a process of its own: it reaps whatever ends, so it must not
share a process with the tests. One JSON argument; one JSON line on stdout at the end."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.departure import Departure
from evenkeel.container.supervise.supervisor import Supervisor
from evenkeel.serve.contract import logline
from evenkeel.serve.contract.status_page import DEVICE_TEXT, RESTART_REASONS, ROLES, Engine, Main, StatusPage, restart_cell


def main() -> None:
    told: dict[str, Any] = json.loads(sys.argv[1])
    logline.setup("supervisor", text=False, fd=2)
    page = StatusPage.create()
    page.main.count[Main.ENGINES] = 1
    children = [_child(role, place, script, told.get("devices", [])) for role, place, script in told["children"]]
    departure = Departure(page, children, told.get("drain_s", 5.0), told.get("quiet_s", 0.0))
    supervisor = Supervisor(page, children, told.get("limit", 5), departure)
    if "stuck_after_s" in told:
        supervisor.on_tick = lambda: _pretend_stuck(page)
    if "device_lost" in told:
        supervisor.on_tick = lambda: _tell_of_a_lost_device(page, told["device_lost"])
    if told.get("was_ready"):
        page.engine(0).count[Engine.WAS_READY] = 1
    code = supervisor.run()
    count = page.main.count
    print(json.dumps({
        "code": code, "draining": bool(count[Main.LEAVING]), "verdict": page.verdict().reason.code,
        "restarts": [sum(count[restart_cell(role, why)] for why in RESTART_REASONS) for role in ROLES],
        "epochs": [c.epoch for c in children], "engine_epoch": page.engine(0).count[Engine.EPOCH],
    }))  # fmt: skip


def _child(role: str, place: int, script: str, devices: list[str]) -> Child:
    seen = {**os.environ, "CUDA_VISIBLE_DEVICES": devices[place]} if role == "engine" and devices else None
    device = devices[place] if seen is not None else ""
    return Child(role, place, lambda epoch: ["/bin/sh", "-c", f"EPOCH={epoch}; {script}"], (), seen, device)


def _tell_of_a_lost_device(page: StatusPage, place: int) -> None:
    """As the sidecar does, once both engines run."""
    if page.main.count[Main.DEVICE_FAULTS] == 0 and all(page.engine(i).count[Engine.EPOCH] for i in (0, 1)):
        told = [{"place": i, "uuid": f"GPU-{i}", "fatal_xids": int(i == place)} for i in (0, 1)]
        page.write_text(DEVICE_TEXT, {"devices": told})
        page.main.count[Main.DEVICE_FAULTS] = 1


def _pretend_stuck(page: StatusPage) -> None:
    """The first engine says that it began a batch whose deadline was long ago."""
    if page.engine(0).count[Engine.EPOCH] == 1:
        page.engine(0).value[Engine.RUN_DEADLINE_S] = 1.0
        page.engine(0).value[Engine.RUN_STARTED_S] = 0.5


if __name__ == "__main__":
    main()
    os._exit(0)
