"""The engines as children of the supervisor: what each is told at its start, and what it inherits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evenkeel.container.environment import Environment
from evenkeel.container.plan.processes import ProcessPlan
from evenkeel.container.supervise import requirements
from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.run_dir import UnixListener
from evenkeel.container.versions.blue_green import BlueGreenSlot
from evenkeel.container.versions.deployer import Deployer
from evenkeel.serve import settings as serve_settings
from evenkeel.serve.contract.logline import sink
from evenkeel.serve.contract.model_order import ModelOrder
from evenkeel.serve.contract.process_setup import role_command
from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.settings import EngineSettings


def engines(
    env: Environment, plan: ProcessPlan, page: StatusPage, sockets: Sequence[UnixListener], run_dir: Path, text: bool,
    versions: Deployer,
) -> list[Child]:  # fmt: skip
    """One child per engine place, each with a listening socket that the supervisor keeps open across its restarts."""
    children = []
    environ = env.for_engines(run_dir, installed(env, versions.serving.path, run_dir))
    log_fd = sink().fd  # an engine's own stdout is read line by line, so that user code cannot break our log
    for place in range(plan.places):
        slot = versions.places.slots[place // plan.engines]
        fd = sockets[place].fd

        def command(epoch: int, place: int = place, fd: int = fd) -> list[str]:
            return role_command("evenkeel.serve.engine.process", serve_settings.dump(EngineSettings(
                place=place, epoch=epoch, listen_fd=fd, status_fd=page.fd, threads=plan.threads, log_text=text, log_fd=log_fd,
                device=plan.device(place), sharers=plan.sharers, cache_dir=str(run_dir.absolute() / f"cache-{place}"),
                hugging_face=bool(env.settings.hf_task),
                require_gpu=env.settings.require_gpu != "0")))  # fmt: skip

        fds = (fd, page.fd, log_fd)
        device = plan.device(place)
        children.append(Child("engine", place, command, fds, env.on_device(environ, device), device,
                              order=partial(order_of, slot, versions.name, env), commanded=True,
                              captured=True))  # fmt: skip
        versions.place(slot, children[-1])
    return children


def of_many(
    env: Environment, plan: ProcessPlan, page: StatusPage, sockets: Sequence[UnixListener], run_dir: Path, text: bool
) -> list[Child]:
    """Engines that begin with no model."""
    children, environ, log_fd = [], env.for_engines(run_dir), sink().fd
    for place in range(plan.places):
        fd, device = sockets[place].fd, plan.device(place)

        def command(epoch: int, place: int = place, fd: int = fd, device: str = device) -> list[str]:
            return role_command("evenkeel.serve.engine.process", serve_settings.dump(EngineSettings(
                place=place, epoch=epoch, listen_fd=fd, status_fd=page.fd, threads=plan.threads, log_text=text, log_fd=log_fd,
                device=device, many=True, sharers=plan.sharers, cache_dir=str(run_dir.absolute() / f"cache-{place}"),
                require_gpu=env.settings.require_gpu != "0")))  # fmt: skip

        children.append(Child("engine", place, command, (fd, page.fd, log_fd), env.on_device(environ, device), device,
                              commanded=True, captured=True))  # fmt: skip
    return children


def order_of(slot: BlueGreenSlot, name: str, env: Environment) -> ModelOrder:
    """What an engine of this slot is to load now. `name`: of the model, where folders are called by it."""
    revision = slot.revision
    assert revision is not None, "nothing is started where nothing is to be loaded"
    wanted = env.settings
    shape_log = str(Path(wanted.shape_log).absolute()) if wanted.shape_log else ""  # a script's folder is another
    return ModelOrder(
        str(revision.path.resolve()), number=0, generation=revision.number, name=name, version=revision.version,
        program=env.program, counters=revision.counters, shape_log=shape_log, faults=wanted.faults)  # fmt: skip


def installed(env: Environment, model_dir: Path, run_dir: Path) -> Path | None:
    """Where what the model's requirements.txt names was installed just now. None: there is none, or that was not asked for."""
    file = requirements.file_of(model_dir, env.program)
    if file is None:
        return None
    if not env.settings.install_requirements:
        requirements.tell_not_installed(file)
        return None
    return requirements.requirements(file, run_dir / "packages", env.settings.install_timeout_s, env.inherited)
