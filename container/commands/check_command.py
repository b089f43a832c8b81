"""`evenkeel check MODEL_DIR`: would this model serve? The engine's own loader answers, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from evenkeel.container import environment
from evenkeel.container.commands import model_folder
from evenkeel.container.plan import machine, processes
from evenkeel.serve.contract import catalogue


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
    env = environment.read(environ)
    model_folder.existing(folder)
    visible, given = env.gpus
    the_plan = processes.make(machine.cpus(), env.settings.fronts, env.settings.replicas, env.settings.threads,
                         devices=machine.gpus(Path("/dev"), visible, given))  # fmt: skip
    found = catalogue.read(folder)
    version = found.choose(env.settings.model_version) if found.name else ""
    if version:
        print(f"version {version} of {', '.join(found.versions)}", flush=True)
    device = the_plan.device(0)
    model_dir = str(found.path(version).resolve())
    command = [sys.executable, "-P", "-m", "evenkeel.serve.engine.model_check", model_dir, str(the_plan.threads), device,
               env.settings.require_gpu]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="evenkeel-") as scratch:
        return subprocess.run(command, check=False, env=env.on_device(env.for_engines(Path(scratch)), device)).returncode
