"""The processes of a container of many models, which share its engines."""

from __future__ import annotations

import socket
from dataclasses import replace

from evenkeel.container.environment import Environment
from evenkeel.container.models import loads_at_start
from evenkeel.container.models.placement import Placement
from evenkeel.container.plan.processes import ProcessPlan
from evenkeel.container.supervise import engine_children, front_child, process_tree
from evenkeel.container.supervise.process_tree import ProcessTree
from evenkeel.container.supervise.process_watch import WatchLimits
from evenkeel.container.supervise.run_dir import RunDir
from evenkeel.container.supervise.sidecar_child import SidecarChild
from evenkeel.serve.contract.model_table import ModelTable
from evenkeel.serve.contract.status_page import PLAN_TEXT, StatusPage

MANY_RESTARTS = 1000  # of one process in a row: a model that ends its engine is not the container's end


def make(
    env: Environment, plan: ProcessPlan, page: StatusPage, run_dir: RunDir, data: socket.socket, side: socket.socket, text: bool
) -> ProcessTree:
    """As of one model, see one_model_tree.py. At the start there is none, or those of EVENKEEL_MODELS_DIR."""
    wanted, table = env.settings, ModelTable.create()
    page.write_text(PLAN_TEXT, {"model": {"name": "", "version": ""}, "model_dir": str(env.models_dir)})
    sockets = [run_dir.listen(f"engine-{place}.sock") for place in range(plan.places)]
    sidecar = SidecarChild(env, page, side, run_dir, text, data.getsockname()[1])
    engines = engine_children.of_many(env, plan, page, sockets, run_dir.path, text)
    many = front_child.ManyModels(table, sidecar.commands, str(env.models_dir))
    children = [*engines, front_child.front(env, plan, page, data, sockets, text, 0, many), sidecar.child]
    models = Placement(page, table, engines)
    if not wanted.multi_model:
        loads_at_start.load_all(models, env.models_dir)
    limits = replace(WatchLimits.of(wanted, env.memory_bytes), leak_s=0.0)  # a successor would have none of the models
    return process_tree.put_together(
        env, page, children, sidecar, data, env.models_dir, restart_limit=max(wanted.restart_limit, MANY_RESTARTS),
        limits=limits, models=models)  # fmt: skip
