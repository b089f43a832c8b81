"""What a start needs of the machine, and refuses to begin without. Each raises BadSetting, saying what to change."""

from __future__ import annotations

import resource
from pathlib import Path

from evenkeel.container import token_file
from evenkeel.container.environment import Environment
from evenkeel.container.plan import machine
from evenkeel.container.plan.processes import ProcessPlan
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.process_setup import hide_memory
from evenkeel.serve.contract.status_page import ENGINES_MAX
from evenkeel.serve.errors import BadSetting

FILES_MIN = 128  # that one process may have open: some 30 are its own, and a third is not for connections


def gpus(env: Environment, dev: Path = Path("/dev")) -> tuple[str, ...]:
    """Those that engines may use. Raises BadSetting when one is asked for and none can be seen."""
    visible, given = env.gpus
    visible_gpus = machine.gpus(dev, visible, given)
    if visible_gpus or env.settings.require_gpu != "1":
        return visible_gpus
    why = f"there is no {dev}/nvidia0"
    if machine.gpus(dev, None):
        why = f"CUDA_VISIBLE_DEVICES={visible!r} hides them" if visible is not None else f"NVIDIA_VISIBLE_DEVICES={given!r}"
    raise BadSetting(f"EVENKEEL_REQUIRE_GPU=1, but no GPU is visible here: {why}; start the container with its GPUs "
                     "(docker run --gpus all, a GPU instance type), or set EVENKEEL_REQUIRE_GPU=0")  # fmt: skip


def bound_engines(plan: ProcessPlan) -> None:
    """Raises BadSetting when there is no place on the status page for so many."""
    if plan.places <= ENGINES_MAX:
        return
    most, versions = ENGINES_MAX // plan.slots, " for a folder with versions" if plan.slots > 1 else ""
    if not plan.devices:
        raise BadSetting(f"EVENKEEL_REPLICAS={plan.engines} is too many{versions}: at most {most}")
    each = plan.engines // len(plan.devices)
    raise BadSetting(f"EVENKEEL_REPLICAS={each} on each of {len(plan.devices)} GPUs are too many engines{versions}: at most "
                     f"{most}; set a smaller number, or fewer GPUs in CUDA_VISIBLE_DEVICES")  # fmt: skip


def require_files() -> None:
    """Raises BadSetting where so few files may be open that nobody could be served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_MIN:
        raise BadSetting(f"{hard} open files are allowed (ulimit -n), at least {FILES_MIN} are needed: start the container with "
                         "--ulimit nofile=1024 or more")  # fmt: skip
    if soft != resource.RLIM_INFINITY and soft < FILES_MIN:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MIN, hard))


def protect_token(env: Environment) -> None:
    """This process holds it, in its memory and perhaps in its first environment, and the model's code runs as the same user."""
    if not env.settings.admin_token:
        return
    hide_memory()
    file = env.settings.admin_token_file
    if file and token_file.is_open_to_others(Path(file)):
        log("admin_token_open", "every user here may read the file of EVENKEEL_ADMIN_TOKEN_FILE: mount it with mode 0440 or 0400",
            level="warning", file=file)  # fmt: skip
