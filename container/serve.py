"""`evenkeel serve`: environment -> plan -> sockets and page -> supervise. Leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from container import environment, machine, plan
from container.environment import Environment
from container.progress import Progress
from container.supervise import Child, Supervisor
from serve import settings as serve_settings
from serve.contract.logline import log, setup
from serve.contract.status import Main, StatusPage
from serve.errors import BadSetting
from serve.settings import EngineSettings, FrontSettings
from sidecar import settings as sidecar_settings
from sidecar.settings import SidecarSettings

BACKLOG = 2048  # SageMaker gives a connect 250 ms; what the kernel holds for us is never refused


def run(environ: Mapping[str, str]) -> int:
    """Serve until told to stop. Returns the exit code. Raises BadSetting."""
    env = environment.read(environ)
    text = env["EVENKEEL_LOG"] == "text" or (env["EVENKEEL_LOG"] == "auto" and sys.stdout.isatty())
    setup("evenkeel", text=text)
    cpus = machine.cpus()
    the_plan = plan.make(cpus, env["EVENKEEL_FRONTS"], env["EVENKEEL_REPLICAS"], env["EVENKEEL_THREADS"])
    set_by_hand = {n: s.value for n, s in env.settings.items() if s.origin != "default"}
    log("plan", the_plan.why(cpus), model_dir=str(env.model_dir), set=set_by_hand)
    run_dir = make_run_dir(env["EVENKEEL_RUN_DIR"])
    try:
        data = listen(env["EVENKEEL_HOST"], env["SAGEMAKER_BIND_TO_PORT"], "SAGEMAKER_BIND_TO_PORT")
        side = listen(*env.sidecar, "EVENKEEL_SIDECAR_ADDRESS")
        page = StatusPage.create()
        page.main.value[Main.STARTED_S] = time.monotonic()
        page.main.count[Main.FRONTS], page.main.count[Main.ENGINES] = the_plan.fronts, the_plan.engines
        children = [*engines(env, the_plan, page, run_dir, text), front(env, the_plan, page, data, run_dir, text)]
        children.append(sidecar(env, page, side, text))
        supervisor = Supervisor(page, children, env["EVENKEEL_RESTART_LIMIT"], env["EVENKEEL_DRAIN_S"], env["EVENKEEL_QUIET_S"])
        supervisor.on_tick = Progress(page, data.getsockname()[1], env.model_dir, text).look
        code = supervisor.run()
        log("stopped", "every process has ended", code=code)
        return code
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


def make_run_dir(wanted: str) -> Path:
    """A private folder for the sockets. Unix socket paths are short, so it must not lie deep."""
    if wanted:
        Path(wanted).mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="evenkeel-", dir=wanted or None))


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A bound, listening TCP socket. Raises BadSetting that names the setting to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as e:
        raise BadSetting(f"cannot listen on {host}:{port}: {e.strerror}; set {setting} to another port") from e
    return sock


def _module(name: str, argument: str) -> list[str]:
    return [sys.executable, "-m", name, argument]


def engines(env: Environment, the_plan: plan.Plan, page: StatusPage, run_dir: Path, text: bool) -> list[Child]:
    """One child per engine, each with a listening socket that the supervisor keeps open across its restarts."""
    children = []
    log_fd = os.dup(1)  # an engine's own stdout is read line by line, so that user code cannot break our log
    for place in range(the_plan.engines):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(run_dir / f"engine-{place}.sock"))
        sock.listen(64)
        fd = os.dup(sock.fileno())
        sock.close()

        def command(epoch: int, place: int = place, fd: int = fd) -> list[str]:
            return _module("serve.engine.process", serve_settings.dump(EngineSettings(
                place=place, epoch=epoch, listen_fd=fd, status_fd=page.fd, model_dir=str(env.model_dir.resolve()),
                threads=the_plan.threads, request_timeout_s=env["EVENKEEL_REQUEST_TIMEOUT_S"],
                log_text=text, log_fd=log_fd, shape_log=env["EVENKEEL_SHAPE_LOG"])))  # fmt: skip

        fds = (fd, page.fd, log_fd)
        children.append(Child("engine", place, command, fds, environ=env.for_engines(run_dir), captured=True))
    return children


def front(env: Environment, the_plan: plan.Plan, page: StatusPage, data: socket.socket, run_dir: Path, text: bool) -> Child:
    argument = serve_settings.dump(FrontSettings(
        listen_fd=data.fileno(), status_fd=page.fd, fronts=the_plan.fronts, limits=env.limits(),
        engine_sockets=tuple(str(run_dir / f"engine-{i}.sock") for i in range(the_plan.engines)),
        default_accept=env["SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"] or None, drain_s=env["EVENKEEL_DRAIN_S"],
        log_text=text))  # fmt: skip
    return Child("front", 0, lambda epoch: _module("serve.front.process", argument), (data.fileno(), page.fd))


def sidecar(env: Environment, page: StatusPage, side: socket.socket, text: bool) -> Child:
    argument = sidecar_settings.dump(SidecarSettings(side.fileno(), page.fd, text, env["EVENKEEL_SHAPE_LOG"]))
    return Child("sidecar", 0, lambda epoch: _module("sidecar.process", argument), (side.fileno(), page.fd))
