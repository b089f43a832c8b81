"""The supervisor with its children, put together; none of them runs yet.

Which children there are is decided in one_model_tree.py and many_models_tree.py.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from evenkeel.container.environment import Environment
from evenkeel.container.models.placement import Placement
from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.departure import Departure
from evenkeel.container.supervise.listener_drain import ListenerDrain
from evenkeel.container.supervise.process_watch import WatchLimits
from evenkeel.container.supervise.sidecar_child import SidecarChild
from evenkeel.container.supervise.supervisor import Supervisor
from evenkeel.container.versions.deployer import Deployer
from evenkeel.serve.contract.status_page import StatusPage


@dataclass(frozen=True, slots=True)
class ProcessTree:
    supervisor: Supervisor
    sidecar: SidecarChild
    folder: Path  # of the version that serves first, or the one in which many models lie


def put_together(
    env: Environment, page: StatusPage, children: list[Child], sidecar: SidecarChild, data: socket.socket, folder: Path, *,
    restart_limit: int, limits: WatchLimits, versions: Deployer | None = None, models: Placement | None = None,
) -> ProcessTree:  # fmt: skip
    """`children`: all of them, the sidecar's among them. `data`: the listening socket of requests. `restart_limit`: of one
    process in a row. `versions`: of the one model; `models`: which are loaded where, if there are many."""
    departure = Departure(page, children, env.settings.drain_s, env.settings.quiet_s, ListenerDrain(data))
    commands = socket.socket(fileno=sidecar.commands.fd)
    supervisor = Supervisor(page, children, restart_limit, departure, limits, versions, commands, models)
    return ProcessTree(supervisor, sidecar, folder)
