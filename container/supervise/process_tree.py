"""The supervisor with its children, put together; none of them runs yet."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from evenkeel.container.environment import Environment
from evenkeel.container.models.placement import Placement
from evenkeel.container.plan.processes import ProcessPlan
from evenkeel.container.supervise import engine_children, front_child
from evenkeel.container.supervise.departure import Departure
from evenkeel.container.supervise.listener_drain import ListenerDrain
from evenkeel.container.supervise.process_watch import WatchLimits
from evenkeel.container.supervise.run_dir import RunDir
from evenkeel.container.supervise.sidecar_child import SidecarChild
from evenkeel.container.supervise.supervisor import Supervisor
from evenkeel.container.versions.deployer import Deployer
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.model_table import URL_BYTES_MAX, ModelTable
from evenkeel.serve.contract.status_page import StatusPage

MANY_RESTARTS = 1000  # of one process in a row: a model that ends its engine is not the container's end


@dataclass(frozen=True, slots=True)
class ProcessTree:
    supervisor: Supervisor
    sidecar: SidecarChild


def of_many(
    env: Environment, plan: ProcessPlan, page: StatusPage, run_dir: RunDir, data: socket.socket, side: socket.socket, text: bool
) -> ProcessTree:
    """As `make`, where there are many models, and none at the start."""
    wanted, table = env.settings, ModelTable.create()
    sockets = [run_dir.listen(f"engine-{place}.sock") for place in range(plan.places)]
    sidecar = SidecarChild(env, page, side, run_dir, text, data.getsockname()[1])
    engines = engine_children.of_many(env, plan, page, sockets, run_dir.path, text)
    many = front_child.ManyModels(table, sidecar.commands, str(env.models_dir))
    children = [*engines, front_child.front(env, plan, page, data, sockets, text, 0, many), sidecar.child]
    departure = Departure(page, children, wanted.drain_s, wanted.quiet_s, ListenerDrain(data))
    models = Placement(page, table, engines)
    if not wanted.multi_model:
        _load_all(models, env.models_dir)
    limits = replace(WatchLimits.of(wanted, env.memory_bytes), leak_s=0.0)  # a successor would have none of the models
    supervisor = Supervisor(page, children, max(wanted.restart_limit, MANY_RESTARTS), departure, limits, None,
                            socket.socket(fileno=sidecar.commands.fd), models)  # fmt: skip
    return ProcessTree(supervisor, sidecar)


def _load_all(models: Placement, folder: Path) -> None:
    """Each folder there under its name. One that is no model is told of in the log, and harms nobody."""
    for each in sorted(path for path in folder.resolve().iterdir() if path.is_dir() and not path.name.startswith(".")):
        if len(os.fsencode(each)) <= URL_BYTES_MAX:
            models.add(each.name, str(each), str(each))
        else:
            log("model_not_loaded", f"the path of {each} is longer than {URL_BYTES_MAX} bytes", level="warning")


def make(
    env: Environment, plan: ProcessPlan, page: StatusPage, versions: Deployer, run_dir: RunDir, data: socket.socket,
    side: socket.socket, text: bool,
) -> ProcessTree:  # fmt: skip
    """`data`, `side`: the listening sockets of requests and of the sidecar. `text`: log lines are for a person."""
    wanted = env.settings
    sockets = [run_dir.listen(f"engine-{place}.sock") for place in range(plan.places)]
    sidecar = SidecarChild(env, page, side, run_dir, text, data.getsockname()[1])
    children = [
        *engine_children.engines(env, plan, page, sockets, run_dir.path, text, versions),
        front_child.front(env, plan, page, data, sockets, text, front_child.files_bytes(versions.serving.path)),
        sidecar.child,
    ]
    departure = Departure(page, children, wanted.drain_s, wanted.quiet_s, ListenerDrain(data))
    supervisor = Supervisor(page, children, wanted.restart_limit, departure, WatchLimits.of(wanted, env.memory_bytes),
                            versions, socket.socket(fileno=sidecar.commands.fd))  # fmt: skip
    return ProcessTree(supervisor, sidecar)
