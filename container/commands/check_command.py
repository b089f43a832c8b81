"""`evenkeel check MODEL_DIR`: would this model serve? The engine's own loader answers, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from evenkeel.container import environment
from evenkeel.container.plan import machine, processes
from evenkeel.serve.contract import catalogue


def run(model_dir: Path, environ: Mapping[str, str]) -> int:
    """Print what the model is and costs. Returns 0 when it would serve. Of a folder with versions: the one that would."""
    env = environment.read(environ)
    visible, given = env.gpus
    the_plan = processes.make(machine.cpus(), env["EVENKEEL_FRONTS"], env["EVENKEEL_REPLICAS"], env["EVENKEEL_THREADS"],
                         devices=machine.gpus(Path("/dev"), visible, given))  # fmt: skip
    found = catalogue.read(model_dir)
    version = found.choose(env["EVENKEEL_MODEL_VERSION"]) if found.name else ""
    if version:
        print(f"version {version} of {', '.join(found.versions)}", flush=True)
    device = the_plan.device(0)
    folder = str(found.path(version).resolve())
    command = [sys.executable, "-P", "-m", "evenkeel.serve.engine.model_check", folder, str(the_plan.threads), device,
               env["EVENKEEL_REQUIRE_GPU"]]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="evenkeel-") as scratch:
        return subprocess.run(command, check=False, env=env.on_device(env.for_engines(Path(scratch)), device)).returncode
