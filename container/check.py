"""`evenkeel check MODEL_DIR`: would this model serve? The engine's own loader answers, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from container import environment, machine, plan


def run(model_dir: Path, environ: Mapping[str, str]) -> int:
    """Print what the model is and costs. Returns 0 when it would serve."""
    env = environment.read(environ)
    the_plan = plan.make(machine.cpus(), env["EVENKEEL_FRONTS"], env["EVENKEEL_REPLICAS"], env["EVENKEEL_THREADS"])
    command = [sys.executable, "-m", "serve.engine.check", str(model_dir.resolve()), str(the_plan.threads)]
    with tempfile.TemporaryDirectory(prefix="evenkeel-") as scratch:
        return subprocess.run(command, check=False, env=env.for_engines(Path(scratch))).returncode
