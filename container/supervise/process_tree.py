"""The supervisor with its children, put together; none of them runs yet."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from evenkeel.container.environment import Environment
from evenkeel.container.plan.processes import ProcessPlan
from evenkeel.container.supervise import engine_children, front_child
from evenkeel.container.supervise.departure import Departure
from evenkeel.container.supervise.listener_drain import ListenerDrain
from evenkeel.container.supervise.process_watch import WatchLimits
from evenkeel.container.supervise.run_dir import RunDir
from evenkeel.container.supervise.sidecar_child import SidecarChild
from evenkeel.container.supervise.supervisor import Supervisor
from evenkeel.container.versions.deployer import Deployer
from evenkeel.serve.contract.status_page import StatusPage


@dataclass(frozen=True, slots=True)
class ProcessTree:
    supervisor: Supervisor
    sidecar: SidecarChild


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
