"""`evenkeel serve`: environment -> plan -> sockets and page -> supervise. Leaves nothing behind."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from evenkeel.container import environment, token_file
from evenkeel.container.commands.start_progress import StartProgress
from evenkeel.container.environment import Environment, Given
from evenkeel.container.plan import machine, processes, thread_limit
from evenkeel.container.plan.processes import ProcessPlan
from evenkeel.container.run_record import RunRecord
from evenkeel.container.supervise import listeners, requirements
from evenkeel.container.supervise.child import Child, tell
from evenkeel.container.supervise.listener_drain import ListenerDrain
from evenkeel.container.supervise.run_dir import RunDir, UnixListener
from evenkeel.container.supervise.supervisor import Supervisor
from evenkeel.container.versions.deployer import Deployer, Lane, Rules
from evenkeel.container.watch.memory_sampler import MemorySampler
from evenkeel.container.watch.stuck import StuckLimits
from evenkeel.serve import settings as serve_settings
from evenkeel.serve.contract import catalogue as versioned
from evenkeel.serve.contract import cgroup, fingerprint
from evenkeel.serve.contract.library_lines import capture
from evenkeel.serve.contract.logline import log, say, setup, sink
from evenkeel.serve.contract.process_setup import hide_memory, role_command
from evenkeel.serve.contract.status_page import ENGINES_MAX, Main, StatusPage
from evenkeel.serve.errors import BadModel, BadSetting
from evenkeel.serve.settings import MIB, EngineSettings, FrontSettings
from evenkeel.sidecar import settings as sidecar_settings
from evenkeel.sidecar.settings import ADMIN_SOCKET, SUPERVISOR_SOCKET, SidecarSettings

FILES_MIN = 128  # that one process may have open: some 30 are its own, and a third is not for connections


def main(environ: Mapping[str, str], given: Mapping[str, Given] | None = None) -> int:
    """Serve until told to stop. Returns the exit code. `given`: options of the command line, by the variable each stands for."""
    try:
        return run(environ, given or {})
    except (BadModel, BadSetting) as e:
        chosen = given["EVENKEEL_LOG"].value if given and "EVENKEEL_LOG" in given else environ.get("EVENKEEL_LOG", "")
        tell_why(e.message, as_json=not writes_text(chosen.strip() or "auto"))
        return 1


def tell_why(message: str, *, as_json: bool) -> None:
    """Why it ends, in one line, as the log has lines; on stderr, where errors of a command are looked for."""
    if as_json:
        setup("evenkeel", text=False, fd=2)
        log("cannot_start", message, level="error")
    else:
        say(f"evenkeel: {message}")


def run(environ: Mapping[str, str], given: Mapping[str, Given]) -> int:
    """Raises BadSetting and BadModel."""
    env = environment.read(environ, given)
    text = writes_text(env["EVENKEEL_LOG"])
    setup("evenkeel", text=text)
    capture()
    protect_token(env)
    require_files()
    devices = gpus(env)
    cpus = machine.cpus()
    catalogue = versioned.read(env.model_dir)
    version = catalogue.choose(env["EVENKEEL_MODEL_VERSION"])
    the_plan = processes.make(cpus, env["EVENKEEL_FRONTS"], env["EVENKEEL_REPLICAS"], env["EVENKEEL_THREADS"],
                         lanes=2 if catalogue.name else 1, devices=devices)  # fmt: skip
    bound_engines(the_plan)
    more = {"name": catalogue.name, "version": version, "versions": list(catalogue.versions)} if catalogue.name else {}
    log("plan", the_plan.why(cpus), model_dir=str(env.model_dir), set=env.set_by_hand(), **more)
    for name, near in environment.unknown(environ).items():
        meant = f"; {near} is one" if near else "; docs/settings.md has all of them"
        log("unknown_setting", f"{name} is no setting and does nothing{meant}", level="warning", setting=name)
    if env["EVENKEEL_FAULTS"]:
        log("faults_on", "EVENKEEL_FAULTS is set: the model of this container fails on purpose; never so in production",
            level="warning", faults=env["EVENKEEL_FAULTS"])  # fmt: skip
    thread_limit.check(thread_limit.needed(the_plan))
    run_dir = RunDir(env["EVENKEEL_RUN_DIR"])
    reserved = None
    try:
        data = listeners.listen(env["EVENKEEL_HOST"], env["SAGEMAKER_BIND_TO_PORT"], "EVENKEEL_HOST", "SAGEMAKER_BIND_TO_PORT")
        listeners.warn_if_alone(data)
        side = listeners.listen_sidecar(env, data.getsockname()[1])
        reserved = listeners.reserve_grpc(env.sidecar[0], env["EVENKEEL_GRPC_HEALTH_PORT"])
        page = StatusPage.create()
        sink().count_in(page.main.count, Main.LINES_LOST)
        page.main.value[Main.STARTED_S] = time.monotonic()
        page.main.count[Main.FRONTS], page.main.count[Main.ENGINES] = the_plan.fronts, the_plan.places
        versions = Deployer(page, catalogue, version, swap_rules(env), {"fault_injection": env["EVENKEEL_FAULTS"]})
        packages = None
        if env["EVENKEEL_INSTALL_REQUIREMENTS"]:
            model_dir, bound_s = versions.serving.path, env["EVENKEEL_INSTALL_TIMEOUT_S"]
            packages = requirements.requirements(model_dir, run_dir.path / "packages", bound_s, env.inherited)
        started = env.for_engines(run_dir.path, packages)
        sockets = [run_dir.listen(f"engine-{place}.sock") for place in range(the_plan.places)]
        commands = run_dir.listen(SUPERVISOR_SOCKET)
        record = RunRecord(os.getpid(), data.getsockname()[1], listeners.page_url(side), str(env.model_dir.absolute()))
        observer = Sidecar(env, page, side, run_dir, commands, text, record)
        children = [
            *engines(env, the_plan, page, sockets, run_dir.path, text, versions, started),
            front(env, the_plan, page, data, sockets, text, files_bytes(versions.serving.path)),
            observer.child,
        ]
        sentinel = MemorySampler(env["EVENKEEL_LEAK_S"], env["EVENKEEL_MEMORY_MB"] * MIB)
        supervisor = Supervisor(page, children, env["EVENKEEL_RESTART_LIMIT"], env["EVENKEEL_DRAIN_S"], env["EVENKEEL_QUIET_S"],
                                watch_policy(env), sentinel, versions, ListenerDrain(data),
                                socket.socket(fileno=commands.fd))  # fmt: skip
        progress = StartProgress(page, data.getsockname()[1], versions.serving.path, text)

        def look() -> None:
            progress.look()
            observer.mend_socket()
            sink().tell_lost()

        supervisor.on_tick = look
        code = supervisor.run()
        log("stopped", "every process has ended", code=code)
        return code
    finally:
        run_dir.remove()
        if reserved is not None:
            reserved.close()


def writes_text(log_setting: str) -> bool:
    """Whether log lines are text for a person, and not JSON."""
    return log_setting == "text" or (log_setting == "auto" and os.isatty(1))


def files_bytes(folder: Path) -> int:
    """Of a model's files; 0 where they cannot be looked at: whoever loads them says so."""
    try:
        return sum(path.stat().st_size for _, path in fingerprint.files(folder))
    except OSError:
        return 0


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


def bound_engines(the_plan: ProcessPlan) -> None:
    """Raises BadSetting when there is no place on the status page for so many."""
    if the_plan.places <= ENGINES_MAX:
        return
    most, versions = ENGINES_MAX // the_plan.lanes, " for a folder with versions" if the_plan.lanes > 1 else ""
    if not the_plan.devices:
        raise BadSetting(f"EVENKEEL_REPLICAS={the_plan.engines} is too many{versions}: at most {most}")
    each = the_plan.engines // len(the_plan.devices)
    raise BadSetting(f"EVENKEEL_REPLICAS={each} on each of {len(the_plan.devices)} GPUs are too many engines{versions}: at most "
                     f"{most}; set a smaller number, or fewer GPUs in CUDA_VISIBLE_DEVICES")  # fmt: skip


def require_files() -> None:
    """Raises BadSetting where so few files may be open that nobody could be served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_MIN:
        raise BadSetting(f"{hard} open files are allowed (ulimit -n), at least {FILES_MIN} are needed: start the container with "
                         "--ulimit nofile=1024 or more")  # fmt: skip
    if soft != resource.RLIM_INFINITY and soft < FILES_MIN:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MIN, hard))


def watch_policy(env: Environment) -> StuckLimits:
    return StuckLimits(env["EVENKEEL_STUCK_FACTOR"], env["EVENKEEL_STUCK_S"], env["EVENKEEL_FRONT_TIMEOUT_S"])


def engines(
    env: Environment, the_plan: ProcessPlan, page: StatusPage, sockets: Sequence[UnixListener], run_dir: Path, text: bool,
    versions: Deployer, environ: Mapping[str, str],
) -> list[Child]:  # fmt: skip
    """One child per engine place, each with a listening socket that the supervisor keeps open across its restarts."""
    children = []
    log_fd = sink().fd  # an engine's own stdout is read line by line, so that user code cannot break our log
    for place in range(the_plan.places):
        lane = versions.lanes[place // the_plan.engines]
        fd = sockets[place].fd

        def command(epoch: int, place: int = place, fd: int = fd, lane: Lane = lane) -> list[str]:
            edition = lane.edition
            assert edition is not None, "nothing is started where nothing is to be loaded"
            return role_command("evenkeel.serve.engine.process", serve_settings.dump(EngineSettings(
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


def front(
    env: Environment, the_plan: ProcessPlan, page: StatusPage, data: socket.socket, sockets: Sequence[UnixListener], text: bool,
    model_bytes: int,
) -> Child:  # fmt: skip
    left_bytes = machine.memory_left(cgroup.ROOT)
    limits = env.limits(processes.queue_bytes(left_bytes, the_plan, model_bytes))
    limits = dataclasses.replace(limits, memory_bytes=left_bytes)
    queue_mib, wanted = limits.queue_bytes_max / MIB, env["EVENKEEL_MAX_BODY_MB"]
    if queue_mib < wanted:
        log("bodies_limited", f"bodies over {queue_mib:.4g} MiB are refused with 413: an HTTP worker may hold no more "
            f"(EVENKEEL_QUEUE_MB), {left_bytes // MIB} MiB of memory were left at the start", level="warning")  # fmt: skip
    argument = serve_settings.dump(FrontSettings(
        listen_fd=data.fileno(), status_fd=page.fd, fronts=the_plan.fronts, limits=limits,
        engine_sockets=tuple(s.address for s in sockets),
        default_accept=env["SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"] or None, drain_s=env["EVENKEEL_DRAIN_S"],
        log_text=text, log_fd=sink().fd, timeout_s=env["EVENKEEL_FRONT_TIMEOUT_S"],
        self_check_s=env["EVENKEEL_SELF_CHECK_S"]))  # fmt: skip
    fds = (data.fileno(), page.fd, sink().fd, *(s.node_fd for s in sockets))
    return Child(
        "front", 0, lambda epoch: role_command("evenkeel.serve.front.process", argument), fds, environ=env.without_devices,
                 captured=True)  # fmt: skip


def protect_token(env: Environment) -> None:
    """This process holds it, in its memory and perhaps in its first environment, and the model's code runs as the same user."""
    if not env["EVENKEEL_ADMIN_TOKEN"]:
        return
    hide_memory()
    file = env["EVENKEEL_ADMIN_TOKEN_FILE"]
    if file and token_file.is_open_to_others(Path(file)):
        log("admin_token_open", "every user here may read the file of EVENKEEL_ADMIN_TOKEN_FILE: mount it with mode 0440 or 0400",
            level="warning", file=file)  # fmt: skip


class Sidecar:
    """The sidecar's child, and the Unix socket for changing calls, which is made anew with the run directory."""

    def __init__(
        self, env: Environment, page: StatusPage, side: socket.socket, run_dir: RunDir, supervisor: UnixListener, text: bool,
        record: RunRecord,
    ) -> None:  # fmt: skip
        self._env, self._page, self._side, self._run_dir, self._text = env, page, side, run_dir, text
        self._supervisor, self._record = supervisor, record
        record.write(run_dir.path)
        # Goes down in a memfd: arguments can be read by everybody on the machine.
        self._token_fd = sidecar_settings.hold_token(env["EVENKEEL_ADMIN_TOKEN"])
        self._admin = run_dir.listen(ADMIN_SOCKET)
        self.child = Child("sidecar", 0, self._command, self._fds, environ=env.without_devices, captured=True)

    @property
    def _fds(self) -> tuple[int, ...]:
        return (self._side.fileno(), self._page.fd, self._admin.fd, self._supervisor.node_fd, self._token_fd, sink().fd)

    def _command(self, epoch: int) -> list[str]:
        env = self._env
        return role_command("evenkeel.sidecar.process", sidecar_settings.dump(SidecarSettings(
            listen_fd=self._side.fileno(), status_fd=self._page.fd, admin_fd=self._admin.fd, token_fd=self._token_fd,
            supervisor=self._supervisor.address, run_dir=str(self._run_dir.path), log_text=self._text, log_fd=sink().fd,
            emf_period_s=env.emf_period_s, emf_namespace=env["EVENKEEL_EMF_NAMESPACE"], host=env.sidecar[0],
            grpc_port=env["EVENKEEL_GRPC_HEALTH_PORT"], shape_log=env["EVENKEEL_SHAPE_LOG"])))  # fmt: skip

    def mend_socket(self) -> None:
        """Where somebody has removed it: another one, for the next sidecar. This one is told to leave; /ping does not mind."""
        if not self._page.main.count[Main.LEAVING]:
            self._run_dir.mend(ADMIN_SOCKET, time.monotonic(), self._listen_anew)

    def _listen_anew(self) -> None:
        before, self._admin = self._admin, self._run_dir.listen(ADMIN_SOCKET)
        before.close()
        self._record.write(self._run_dir.path)
        self.child.fds = self._fds
        if self.child.process is not None:
            tell(self.child, signal.SIGTERM)
