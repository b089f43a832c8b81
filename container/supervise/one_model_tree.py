"""The processes of a container of one model, of which there may be versions."""

from __future__ import annotations

import socket

from evenkeel.container.environment import Environment
from evenkeel.container.plan.start_plan import StartPlan
from evenkeel.container.supervise import engine_children, front_child, process_tree
from evenkeel.container.supervise.process_tree import ProcessTree
from evenkeel.container.supervise.process_watch import WatchLimits
from evenkeel.container.supervise.run_dir import RunDir
from evenkeel.container.supervise.sidecar_child import SidecarChild
from evenkeel.container.versions.deployer import Deployer, SwapRules
from evenkeel.serve.contract.status_page import StatusPage


def make(
    env: Environment, start: StartPlan, page: StatusPage, run_dir: RunDir, data: socket.socket, side: socket.socket, text: bool
) -> ProcessTree:
    """`data`, `side`: the listening sockets of requests and of the sidecar. `text`: log lines are for a person."""
    plan = start.processes
    versions = Deployer(page, start.catalogue, start.version, swap_rules(env), {"fault_injection": env.settings.faults})
    sockets = [run_dir.listen(f"engine-{place}.sock") for place in range(plan.places)]
    sidecar = SidecarChild(env, page, side, run_dir, text, data.getsockname()[1])
    children = [
        *engine_children.engines(env, plan, page, sockets, run_dir.path, text, versions),
        front_child.front(env, plan, page, data, sockets, text, front_child.files_bytes(versions.serving.path)),
        sidecar.child,
    ]
    return process_tree.put_together(
        env, page, children, sidecar, data, versions.serving.path, restart_limit=env.settings.restart_limit,
        limits=WatchLimits.of(env.settings, env.memory_bytes), versions=versions)  # fmt: skip


def swap_rules(env: Environment) -> SwapRules:
    return SwapRules(env.settings.rollback_window_s, env.settings.swap, env.memory_bytes, env.program)
