"""What a start will do, from its settings, its model folder and its machine; told in the first lines of the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evenkeel.container import environment
from evenkeel.container.environment import Environment
from evenkeel.container.plan import machine, processes, start_checks, thread_limit
from evenkeel.container.plan.processes import ProcessPlan
from evenkeel.container.plan.user_program import is_elsewhere
from evenkeel.serve.contract import catalogue as catalogues
from evenkeel.serve.contract.catalogue import Catalogue
from evenkeel.serve.contract.logline import log
from evenkeel.serve.errors import BadModel


@dataclass(frozen=True, slots=True)
class StartPlan:
    catalogue: Catalogue
    version: str  # that serves first
    processes: ProcessPlan


def make(env: Environment, environ: Mapping[str, str]) -> StartPlan:
    """Raises BadSetting and BadModel."""
    start_checks.protect_token(env)
    start_checks.require_files()
    devices = start_checks.gpus(env)
    cpus, wanted = machine.cpus(), env.settings
    catalogue = catalogues.read(env.model_dir, env.program)
    version = catalogue.choose(wanted.model_version)
    plan = processes.make(cpus, wanted.fronts, wanted.replicas, wanted.threads, slots=2 if catalogue.name else 1,
                          devices=devices)  # fmt: skip
    start_checks.bound_engines(plan)
    more = {"name": catalogue.name, "version": version, "versions": list(catalogue.versions)} if catalogue.name else {}
    log("plan", plan.why(cpus), model_dir=str(env.model_dir), set=env.set_by_hand(), **more)
    _warn(env, environ)
    thread_limit.check(thread_limit.needed(plan))
    return StartPlan(catalogue, version, plan)


def make_of_many(env: Environment, environ: Mapping[str, str]) -> ProcessPlan:
    """Where there are many models: the engines share them. Raises BadSetting and BadModel."""
    start_checks.protect_token(env)
    start_checks.require_files()
    devices, cpus, wanted = start_checks.gpus(env), machine.cpus(), env.settings
    if wanted.models_dir and not env.models_dir.is_dir():
        raise BadModel(f"EVENKEEL_MODELS_DIR={wanted.models_dir} is no folder")
    plan = processes.make(cpus, wanted.fronts, wanted.replicas, wanted.threads or 1, devices=devices)
    start_checks.bound_engines(plan)
    log("plan", plan.why(cpus), models_dir=str(env.models_dir), set=env.set_by_hand())
    _warn(env, environ)
    thread_limit.check(thread_limit.needed(plan))
    return plan


def _warn(env: Environment, environ: Mapping[str, str]) -> None:
    """Of settings that are none, and of one that is for trying things."""
    for name, near in environment.unknown(environ).items():
        meant = f"; {near} is one" if near else "; docs/settings.md has all of them"
        log("unknown_setting", f"{name} is no setting and does nothing{meant}", level="warning", setting=name)
    if is_elsewhere(env.settings.submit_directory):
        log("not_fetched", "SAGEMAKER_SUBMIT_DIRECTORY is an address, which is not fetched: scripts are the model folder's",
            level="warning", address=env.settings.submit_directory)  # fmt: skip
    if env.settings.faults:
        log("faults_on", "EVENKEEL_FAULTS is set: the model of this container fails on purpose; never so in production",
            level="warning", faults=env.settings.faults)  # fmt: skip
