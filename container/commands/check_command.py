"""`evenkeel check MODEL_DIR`: would this model serve? The engine's own loader answers, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from evenkeel.container import environment
from evenkeel.container.commands import model_folder
from evenkeel.container.environment import Given
from evenkeel.container.plan import machine, processes
from evenkeel.container.supervise.engine_children import installed
from evenkeel.serve.contract import catalogue
from evenkeel.serve.contract.model_order import ModelOrder
from evenkeel.serve.settings import EngineSettings, dump


def check(
    folder: Annotated[Path, Parameter(help="the model's folder; of one with versions, the version that would serve is checked")],
    /,
    *,
    environ: Annotated[Mapping[str, str], Parameter(parse=False)],
) -> int:
    """Load a model, run its samples and say whether it would serve: inputs, outputs, what it costs, what is wrong.

    Example:

        evenkeel check my-model

    Exit codes: 0 it would serve, 1 it would not, and why.
    """
    model_folder.existing(folder)
    env = environment.read(environ, {"EVENKEEL_MODEL_DIR": Given("FOLDER", str(folder))})
    visible, given = env.gpus
    the_plan = processes.make(machine.cpus(), env.settings.fronts, env.settings.replicas, env.settings.threads,
                         devices=machine.gpus(Path("/dev"), visible, given))  # fmt: skip
    found = catalogue.read(folder, env.program)
    version = found.choose(env.settings.model_version) if found.name else ""
    if version:
        print(f"version {version} of {', '.join(found.versions)}", flush=True)
    device, path = the_plan.device(0), found.path(version).resolve()
    settings = EngineSettings(
        place=0, epoch=1, listen_fd=-1, status_fd=-1, threads=the_plan.threads, log_text=True, log_fd=1,
        hugging_face=bool(env.settings.hf_task), device=device, require_gpu=env.settings.require_gpu != "0")  # fmt: skip
    order = ModelOrder(str(path), number=0, generation=0, name=found.name, version=version, program=env.program)
    command = [sys.executable, "-P", "-m", "evenkeel.serve.engine.model_check", dump(settings), json.dumps(order.to_arguments())]
    with tempfile.TemporaryDirectory(prefix="evenkeel-") as scratch:
        environment_of_engine = env.for_engines(Path(scratch), installed(env, path, Path(scratch)))
        return subprocess.run(command, check=False, env=env.on_device(environment_of_engine, device)).returncode
