"""`evenkeel serve`: environment -> plan -> sockets and page -> supervise. Leaves nothing behind."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from container import environment, install, machine, plan, secret
from container.child import Child
from container.door import Door
from container.environment import Environment
from container.progress import Progress
from container.sentinel import Sentinel
from container.supervise import CGROUP, Supervisor
from container.versions import Lane, Rules, Versions
from container.watch import Policy
from serve import settings as serve_settings
from serve.contract import versions as versioned
from serve.contract.logline import log, setup
from serve.contract.process import hide_memory
from serve.contract.status import ENGINES_MAX, Main, StatusPage
from serve.errors import BadSetting
from serve.settings import MIB, EngineSettings, FrontSettings
from sidecar import settings as sidecar_settings
from sidecar.settings import ADMIN_SOCKET, SidecarSettings

BACKLOG = 2048  # SageMaker gives a connect 250 ms; what the kernel holds for us is never refused


def run(environ: Mapping[str, str]) -> int:
    """Serve until told to stop. Returns the exit code. Raises BadSetting."""
    env = environment.read(environ)
    text = env["EVENKEEL_LOG"] == "text" or (env["EVENKEEL_LOG"] == "auto" and sys.stdout.isatty())
    setup("evenkeel", text=text)
    protect_token(env)
    devices = gpus(env)
    cpus = machine.cpus()
    catalogue = versioned.read(env.model_dir)
    version = catalogue.choose(env["EVENKEEL_MODEL_VERSION"])
    the_plan = plan.make(cpus, env["EVENKEEL_FRONTS"], env["EVENKEEL_REPLICAS"], env["EVENKEEL_THREADS"],
                         lanes=2 if catalogue.name else 1, devices=devices)  # fmt: skip
    bound_engines(the_plan)
    more = {"name": catalogue.name, "version": version, "versions": list(catalogue.versions)} if catalogue.name else {}
    log("plan", the_plan.why(cpus), model_dir=str(env.model_dir), set=env.set_by_hand(), **more)
    if env["EVENKEEL_FAULTS"]:
        log("faults_on", "EVENKEEL_FAULTS is set: the model of this container fails on purpose; never so in production",
            level="warning", faults=env["EVENKEEL_FAULTS"])  # fmt: skip
    run_dir = make_run_dir(env["EVENKEEL_RUN_DIR"])
    reserved = None
    try:
        data = listen(env["EVENKEEL_HOST"], env["SAGEMAKER_BIND_TO_PORT"], "SAGEMAKER_BIND_TO_PORT")
        side = listen_sidecar(env, data.getsockname()[1])
        reserved = reserve_grpc(env.sidecar[0], env["EVENKEEL_GRPC_HEALTH_PORT"])
        page = StatusPage.create()
        page.main.value[Main.STARTED_S] = time.monotonic()
        page.main.count[Main.FRONTS], page.main.count[Main.ENGINES] = the_plan.fronts, the_plan.places
        versions = Versions(page, catalogue, version, swap_rules(env), {"fault_injection": env["EVENKEEL_FAULTS"]})
        packages = None
        if env["EVENKEEL_INSTALL_REQUIREMENTS"]:
            model_dir, bound_s = versions.serving.path, env["EVENKEEL_INSTALL_TIMEOUT_S"]
            packages = install.requirements(model_dir, run_dir / "packages", bound_s, env.inherited)
        started = env.for_engines(run_dir, packages)
        children = [
            *engines(env, the_plan, page, run_dir, text, versions, started),
            front(env, the_plan, page, data, run_dir, text),
        ]
        children.append(sidecar(env, page, side, run_dir, text))
        sentinel = Sentinel(env["EVENKEEL_LEAK_S"], env["EVENKEEL_MEMORY_MB"] * MIB)
        supervisor = Supervisor(page, children, env["EVENKEEL_RESTART_LIMIT"], env["EVENKEEL_DRAIN_S"], env["EVENKEEL_QUIET_S"],
                                watch_policy(env), sentinel, versions, Door(data))  # fmt: skip
        supervisor.on_tick = Progress(page, data.getsockname()[1], versions.serving.path, text).look
        code = supervisor.run()
        log("stopped", "every process has ended", code=code)
        return code
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)
        if reserved is not None:
            reserved.close()


def swap_rules(env: Environment) -> Rules:
    return Rules(
        env["EVENKEEL_ROLLBACK_WINDOW_S"], env["EVENKEEL_SWAP"], env["EVENKEEL_MEMORY_MB"] * MIB, env["SAGEMAKER_PROGRAM"]
    )


def gpus(env: Environment, dev: Path = Path("/dev")) -> tuple[str, ...]:
    """Those that engines may use. Raises BadSetting when one is asked for and none can be seen."""
    visible, given = env.gpus
    found = machine.gpus(dev, visible, given)
    if found or env["EVENKEEL_REQUIRE_GPU"] != "1":
        return found
    why = f"there is no {dev}/nvidia0"
    if machine.gpus(dev, None):
        why = f"CUDA_VISIBLE_DEVICES={visible!r} hides them" if visible is not None else f"NVIDIA_VISIBLE_DEVICES={given!r}"
    raise BadSetting(f"EVENKEEL_REQUIRE_GPU=1, but no GPU is visible here: {why}; start the container with its GPUs "
                     "(docker run --gpus all, a GPU instance type), or set EVENKEEL_REQUIRE_GPU=0")  # fmt: skip


def bound_engines(the_plan: plan.Plan) -> None:
    """Raises BadSetting when there is no place on the status page for so many."""
    if the_plan.places <= ENGINES_MAX:
        return
    most, versions = ENGINES_MAX // the_plan.lanes, " for a folder with versions" if the_plan.lanes > 1 else ""
    if not the_plan.devices:
        raise BadSetting(f"EVENKEEL_REPLICAS={the_plan.engines} is too many{versions}: at most {most}")
    each = the_plan.engines // len(the_plan.devices)
    raise BadSetting(f"EVENKEEL_REPLICAS={each} on each of {len(the_plan.devices)} GPUs are too many engines{versions}: at most "
                     f"{most}; set a smaller number, or fewer GPUs in CUDA_VISIBLE_DEVICES")  # fmt: skip


def watch_policy(env: Environment) -> Policy:
    return Policy(env["EVENKEEL_STUCK_FACTOR"], env["EVENKEEL_STUCK_S"], env["EVENKEEL_FRONT_TIMEOUT_S"])


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


def listen_sidecar(env: Environment, data_port: int) -> socket.socket:
    """Where the settings say; else, in a pipeline's range of ports, the highest that nobody has. Raises BadSetting."""
    host, _ = env.sidecar
    for port in env.sidecar_ports:
        if port == data_port or port == env["EVENKEEL_GRPC_HEALTH_PORT"] != 0:
            continue
        try:
            found = listen(host, port, "EVENKEEL_SIDECAR_ADDRESS")
        except BadSetting:
            if len(env.sidecar_ports) == 1:
                raise
            continue
        if len(env.sidecar_ports) > 1:
            log("sidecar_port", f"the sidecar listens on {host}:{port}, the highest free port of SAGEMAKER_SAFE_PORT_RANGE")
        return found
    raise BadSetting(f"no port of SAGEMAKER_SAFE_PORT_RANGE={env['SAGEMAKER_SAFE_PORT_RANGE']} is free for the sidecar")


def listen_unix(path: Path) -> int:
    """A listening Unix socket that only our own user can open, as a file descriptor that lives as long as we do."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(64)
        return os.dup(sock.fileno())


def reserve_grpc(host: str, port: int) -> socket.socket | None:
    """Hold the port of gRPC health for every sidecar to come, by a socket that is bound and never listens. Raises
    BadSetting when the port or the package cannot be had."""
    if not port:
        return None
    if importlib.util.find_spec("grpc_health") is None:
        raise BadSetting(f"EVENKEEL_GRPC_HEALTH_PORT={port} needs a package that is missing: pip install 'evenkeel[grpc]'")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as e:
        sock.close()
        raise BadSetting(f"cannot bind {host}:{port}: {e.strerror}; set EVENKEEL_GRPC_HEALTH_PORT to another port") from e
    return sock


def _module(name: str, argument: str) -> list[str]:
    return [sys.executable, "-m", name, argument]


def engines(
    env: Environment,
    the_plan: plan.Plan,
    page: StatusPage,
    run_dir: Path,
    text: bool,
    versions: Versions,
    environ: Mapping[str, str],
) -> list[Child]:
    """One child per engine place, each with a listening socket that the supervisor keeps open across its restarts."""
    children = []
    log_fd = os.dup(1)  # an engine's own stdout is read line by line, so that user code cannot break our log
    for place in range(the_plan.places):
        lane = versions.lanes[place // the_plan.engines]
        fd = listen_unix(run_dir / f"engine-{place}.sock")

        def command(epoch: int, place: int = place, fd: int = fd, lane: Lane = lane) -> list[str]:
            edition = lane.edition
            assert edition is not None, "nothing is started where nothing is to be loaded"
            return _module("serve.engine.process", serve_settings.dump(EngineSettings(
                place=place, epoch=epoch, listen_fd=fd, status_fd=page.fd, model_dir=str(edition.path.resolve()),
                threads=the_plan.threads, log_text=text, log_fd=log_fd, shape_log=env["EVENKEEL_SHAPE_LOG"],
                faults=env["EVENKEEL_FAULTS"], program=env["SAGEMAKER_PROGRAM"], name=versions.name,
                version=edition.version, edition=edition.number, tally=edition.tally,
                device=the_plan.device(place), sharers=the_plan.sharers, cache_dir=str(run_dir / f"cache-{place}"),
                require_gpu=env["EVENKEEL_REQUIRE_GPU"] != "0")))  # fmt: skip

        fds = (fd, page.fd, log_fd)
        device = the_plan.device(place)
        children.append(Child("engine", place, command, fds, env.on_device(environ, device), device, captured=True))
        versions.place(lane, children[-1])
    return children


def front(env: Environment, the_plan: plan.Plan, page: StatusPage, data: socket.socket, run_dir: Path, text: bool) -> Child:
    limits = dataclasses.replace(env.limits(), memory_bytes=machine.memory_left(CGROUP))
    argument = serve_settings.dump(FrontSettings(
        listen_fd=data.fileno(), status_fd=page.fd, fronts=the_plan.fronts, limits=limits,
        engine_sockets=tuple(str(run_dir / f"engine-{i}.sock") for i in range(the_plan.places)),
        default_accept=env["SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"] or None, drain_s=env["EVENKEEL_DRAIN_S"],
        log_text=text, timeout_s=env["EVENKEEL_FRONT_TIMEOUT_S"]))  # fmt: skip
    fds = (data.fileno(), page.fd)
    return Child("front", 0, lambda epoch: _module("serve.front.process", argument), fds, environ=env.without_devices)


def protect_token(env: Environment) -> None:
    """This process holds it, in its memory and perhaps in its first environment, and the model's code runs as the same user."""
    if not env["EVENKEEL_ADMIN_TOKEN"]:
        return
    hide_memory()
    file = env["EVENKEEL_ADMIN_TOKEN_FILE"]
    if file and secret.is_open_to_others(Path(file)):
        log("admin_token_open", "every user here may read the file of EVENKEEL_ADMIN_TOKEN_FILE: mount it with mode 0440 or 0400",
            level="warning", file=file)  # fmt: skip


def sidecar(env: Environment, page: StatusPage, side: socket.socket, run_dir: Path, text: bool) -> Child:
    """The token goes down in a memfd: arguments can be read by everybody on the machine."""
    admin_fd = listen_unix(run_dir / ADMIN_SOCKET)
    token_fd = sidecar_settings.hold_token(env["EVENKEEL_ADMIN_TOKEN"])
    argument = sidecar_settings.dump(SidecarSettings(
        listen_fd=side.fileno(), status_fd=page.fd, admin_fd=admin_fd, token_fd=token_fd,
        run_dir=str(run_dir), log_text=text,
        emf_period_s=env.emf_period_s, emf_namespace=env["EVENKEEL_EMF_NAMESPACE"], host=env.sidecar[0],
        grpc_port=env["EVENKEEL_GRPC_HEALTH_PORT"], shape_log=env["EVENKEEL_SHAPE_LOG"]))  # fmt: skip
    fds = (side.fileno(), page.fd, admin_fd, token_fd)
    return Child("sidecar", 0, lambda epoch: _module("sidecar.process", argument), fds, environ=env.without_devices)
