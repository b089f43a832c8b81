"""The environment, read once and nowhere else: variables -> validated settings, each with its origin.

VARIABLES is the one table of everything that can be set; docs/settings.md is drawn from it and a test compares them.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel.container import token_file
from evenkeel.container.plan.processes import QUEUE_BYTES_MAX
from evenkeel.serve.contract import fault_grammar
from evenkeel.serve.contract.status_page import ENGINES_MAX, FRONTS_MAX
from evenkeel.serve.errors import BadSetting
from evenkeel.serve.settings import MIB, Limits


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting. `also`: names of the platform's and the toolkits' that mean the same, in order after our own."""

    name: str
    kind: Callable[[str], Any]
    default: Any
    low: float
    high: float
    meaning: str
    also: tuple[str, ...] = ()
    secret: bool = False  # never shown, and kept from the processes that we start


def _text(value: str) -> str:
    return value


def _flag_text(value: str) -> str:
    if value not in ("json", "text", "auto"):
        raise ValueError("must be json, text or auto")
    return value


def _swap(value: str) -> str:
    if value not in ("auto", "beside", "in_place"):
        raise ValueError("must be auto, beside or in_place")
    return value


def _require(value: str) -> str:
    if value not in ("0", "1", "auto"):
        raise ValueError("must be 0, 1 or auto")
    return value


def _token(value: str) -> str:
    if not 16 <= len(value) <= 1024 or not all("!" <= c <= "~" for c in value):
        raise ValueError("must be 16 to 1024 printable ASCII characters without spaces")
    return value


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT")
    return value


def _host(value: str) -> str:
    """An IPv6 address may be written as URLs have it."""
    return value[1:-1] if value.startswith("[") and value.endswith("]") else value


def _faults(value: str) -> str:
    fault_grammar.parse(value)
    return value


BATCH_TIMEOUT_S = 600.0  # what the platform waits unless its job says otherwise
# In effect, none: it sends few requests at once, of as many lines as their bytes hold, so bytes and time bound them enough.
BATCH_QUEUE_ROWS = 1 << 30
FAREWELL_S = 2.0  # of the time for leaving, when what goes on is told so and ended; the processes need it too


def _file_name(value: str) -> str:
    if Path(value).is_absolute() or ".." in Path(value).parts or not value.endswith(".py"):
        raise ValueError("must be the name of a Python file in the model folder, such as inference.py")
    return value


def _truth(value: str) -> bool:
    """In any case, as the platform's own tools disagree."""
    if value.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("must be true or false")
    return value.lower() in ("true", "1", "yes")


VARIABLES: tuple[Variable, ...] = (
    Variable("EVENKEEL_MODEL_DIR", _text, "/opt/ml/model", 0, 0, "folder of the model, read only", ("SAGEMAKER_MODEL_PATH",)),
    Variable("EVENKEEL_MODEL_VERSION", _text, "", 0, 0, "what to serve first of a folder with NAME/VERSION/; empty: the highest"),
    Variable("EVENKEEL_ROLLBACK_WINDOW_S", float, 300.0, 0, 86400,
             "how long the version before stays warm after a swap; longer keeps its memory, 0 ends it at once"),
    Variable("EVENKEEL_SWAP", _swap, "auto", 0, 0,
             "where a new version loads: beside the old, in_place of it, or auto: by the measured memory"),
    Variable("SAGEMAKER_BIND_TO_PORT", int, 8080, 0, 65535, "data port; 0 lets the kernel choose"),
    Variable("EVENKEEL_HOST", _host, "0.0.0.0", 0, 0, "address of the data port; `::` is every address of both families"),
    Variable("EVENKEEL_SIDECAR_ADDRESS", _address, "127.0.0.1:9090", 0, 0, "where the sidecar serves /status; port 0: any"),
    Variable("EVENKEEL_ADMIN_TOKEN", _token, "", 0, 0,
             "secret for changing calls (POST /drain, /rollout …) to the sidecar over HTTP; empty: only over its Unix socket",
             secret=True),
    Variable("EVENKEEL_ADMIN_TOKEN_FILE", _text, "", 0, 0,
             "file that holds that secret, in place of the variable, which code of the same user may read; empty: none"),
    Variable("EVENKEEL_GRPC_HEALTH_PORT", int, 0, 0, 65535,
             "gRPC health checking at the sidecar's host; 0: off. Needs the extra `grpc`"),
    Variable("EVENKEEL_FRONTS", int, 0, 0, FRONTS_MAX, "HTTP workers; 0: one for every 4 CPUs"),
    Variable("EVENKEEL_REPLICAS", int, 0, 0, ENGINES_MAX,
             "copies of the model, each in its own process; where there are GPUs, on each of them; 0: one",
             ("SAGEMAKER_MODEL_SERVER_WORKERS",)),
    Variable("EVENKEEL_THREADS", int, 0, 0, 1024, "threads of one replica's framework; 0: CPUs shared among the replicas"),
    Variable("EVENKEEL_REQUIRE_GPU", _require, "0", 0, 0,
             "1: without a visible GPU, or when the model falls back to the CPU, the start fails; auto: if one is visible"),
    Variable("EVENKEEL_REQUEST_TIMEOUT_S", float, 60.0, 0.01, 3600, "deadline of a request, 504 beyond it",
             ("SAGEMAKER_MODEL_SERVER_TIMEOUT",)),
    Variable("EVENKEEL_STREAM_TIMEOUT_S", float, 480.0, 0.01, 86400,
             "a streamed answer from its first part to its end; the platform allows 8 minutes"),
    Variable("EVENKEEL_MAX_BODY_MB", float, 100.0, 0.001, 255,
             "largest request body in MiB, 413 beyond it, before it is read where its length is told. What it becomes may "
             "take 256"),
    Variable("EVENKEEL_BODY_TIMEOUT_S", float, 30.0, 0.1, 3600, "silence allowed in the middle of a request, 408 beyond it"),
    Variable("EVENKEEL_HEADER_TIMEOUT_S", float, 10.0, 0.1, 3600,
             "from the first byte of a request to the end of its head, 408 beyond it"),
    Variable("EVENKEEL_BODY_RATE", float, 1024.0, 0, 1e9,
             "bytes a second that a client must send of a body and take of an answer, after a grace of 10 s; 0: any"),
    Variable("EVENKEEL_MAX_CONNECTIONS", int, 4096, 1, 1_000_000,
             "connections open at once, per HTTP worker; at the limit the longest idle one makes room for the next, and where "
             "none is idle only /ping is answered, the rest gets 503"),
    Variable("EVENKEEL_KEEP_ALIVE_S", float, 75.0, 1, 86400, "idle time after which a connection is closed"),
    Variable("EVENKEEL_QUEUE_ROWS", int, 8192, 1, 8192, 
             "rows accepted and not yet answered, per HTTP worker; 429 beyond it. Of a request, whatever its size, one full "
             "batch counts. In a batch job no limit unless set"),
    Variable("EVENKEEL_QUEUE_WAIT_S", float, 2.0, 0.01, 86400,
             "wait that is accepted where many are waiting and the queue has not been empty for as long, and never more than 0.8 "
             "of the deadline; 429 beyond it. In a batch job no limit unless set"),
    Variable("EVENKEEL_QUEUE_MB", float, 0.0, 0, 4096,
             "MiB of requests held, per HTTP worker, 429 beyond it, and 413 for a body that is larger; and of answers not read "
             "yet. 0: up to 1024, and all workers together no more than a quarter of the memory that is left"),
    Variable("EVENKEEL_DRAIN_S", float, 25.0, 0.1, 3600, "from SIGTERM to exit at most; the platform kills after 30"),
    Variable("EVENKEEL_QUIET_S", float, 0.5, 0, 60, "from SIGTERM on: serve on this long while /ping already says 503"),
    Variable("EVENKEEL_RESTART_LIMIT", int, 5, 0, 1000, 
             "restarts of one process in a row, none of whose lives answered a request, before the container gives up"),
    Variable("EVENKEEL_STUCK_FACTOR", float, 10.0, 2, 1e6,
             "a batch that runs this many times longer than predicted is stuck, and its engine replaced"),
    Variable("EVENKEEL_STUCK_S", float, 5.0, 0.1, 86400, "but never sooner; lower finds a hang sooner, higher spares slow ones"),
    Variable("EVENKEEL_FRONT_TIMEOUT_S", int, 15, 2, 3600, "an HTTP worker whose event loop stands still so long is replaced"),
    Variable("EVENKEEL_SELF_CHECK_S", float, 20.0, 0, 86400,
             "an engine that has said nothing for so long is asked one of the model's samples; 0: never"),
    Variable("EVENKEEL_LEAK_S", float, 60.0, 0, 86400,
             "a replica whose memory would meet the limit within this time is replaced in good order; 0: never"),
    Variable("EVENKEEL_MEMORY_MB", int, 0, 0, 1 << 30,
             "MiB that all replicas together may take, for EVENKEEL_LEAK_S; 0: what cgroup and machine have left"),
    Variable("EVENKEEL_FAULTS", _faults, "", 0, 0,
             "faults on purpose, for trying a model, such as `crash:every=100;slow:rate=0.01,ms=200`; empty: none"),
    Variable("EVENKEEL_LOG", _flag_text, "auto", 0, 0, "json or text; auto: text on a terminal"),
    Variable("EVENKEEL_EMF", int, 0, 0, 1, "1: metrics as CloudWatch embedded metric format on stdout too"),
    Variable("EVENKEEL_EMF_PERIOD_S", float, 60.0, 1, 3600, "one such line a period; shorter alarms sooner and costs more"),
    Variable("EVENKEEL_EMF_NAMESPACE", _text, "evenkeel", 0, 0, "CloudWatch namespace of these metrics; one for each endpoint"),
    Variable("EVENKEEL_RUN_DIR", _text, "", 0, 0, "folder for sockets; empty: a new one under the temporary folder"),
    Variable("EVENKEEL_SHAPE_LOG", _text, "", 0, 0, "file of shapes met in service, warmed on at the next start; empty: none"),
    Variable("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", _text, "", 0, 0, "reply type unless the client says; empty: as asked"),
    Variable("EVENKEEL_INSTALL_REQUIREMENTS", int, 0, 0, 1,
             "1: install the model's code/requirements.txt at start, which needs a network; better done in the image"),
    Variable("EVENKEEL_INSTALL_TIMEOUT_S", float, 300.0, 0.1, 3600, "for that, at most; the platform gives a start 8 minutes"),
    Variable("SAGEMAKER_PROGRAM", _file_name, "", 0, 0,
             "the handler's file, in the model's code folder or in the model folder itself; empty: code/inference.py",
             ("CUSTOM_SCRIPT_FILENAME",)),
    Variable("SAGEMAKER_BATCH", _truth, False, 0, 0,
             "true in a batch transform job: answers of lines end with a newline, the deadline of a request is 600 s, "
             "any number of rows waits"),
    Variable("SAGEMAKER_SAFE_PORT_RANGE", _text, "", 0, 0,
             "LOW-HIGH: every other port of ours must be inside; the sidecar takes a free one there"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it came from: a variable's name, or `default`."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Environment:
    """All settings, validated."""

    settings: Mapping[str, Setting]
    inherited: Mapping[str, str]  # the whole environment but for secrets, for every process that we start

    def for_engines(self, scratch: Path, packages: Path | None = None) -> dict[str, str]:
        """The environment of processes that load models: nothing reports home, nothing is left behind elsewhere.

        `packages`: a folder to import from, in front of those that are there already.
        """
        ours = {"ORT_DISABLE_TELEMETRY": "1", "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor")}
        path = [str(packages)] if packages else []
        if self.inherited.get("PYTHONPATH"):
            path.append(self.inherited["PYTHONPATH"])
        return {**ours, **self.inherited, **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}

    @property
    def gpus(self) -> tuple[str | None, str | None]:
        """What CUDA, and what NVIDIA's container runtime, were told to show."""
        return self.inherited.get("CUDA_VISIBLE_DEVICES"), self.inherited.get("NVIDIA_VISIBLE_DEVICES")

    def on_device(self, environ: Mapping[str, str], device: str) -> dict[str, str]:
        """`environ` of a process that shall see this accelerator and no other; "": there is none here, and no need to say so."""
        return {**environ, "CUDA_VISIBLE_DEVICES": device} if device else dict(environ)

    @property
    def without_devices(self) -> dict[str, str]:
        """For processes that are to hold no CUDA context, whatever they or what they use may import. NVML does not heed it."""
        return {**self.inherited, "CUDA_VISIBLE_DEVICES": "-1"}

    def set_by_hand(self) -> dict[str, Any]:
        """What was set, as it may stand in the log."""
        secrets = {v.name for v in VARIABLES if v.secret}
        return {n: "(secret)" if n in secrets else s.value for n, s in self.settings.items() if s.origin != "default"}

    def __getitem__(self, name: str) -> Any:
        return self.settings[name].value

    @property
    def model_dir(self) -> Path:
        return Path(self["EVENKEEL_MODEL_DIR"])

    @property
    def sidecar(self) -> tuple[str, int]:
        host, _, port = self["EVENKEEL_SIDECAR_ADDRESS"].rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def sidecar_ports(self) -> Sequence[int]:
        """Ports to try in turn: the one that was set, else the default, or the platform's range where there is one."""
        text, chosen = self["SAGEMAKER_SAFE_PORT_RANGE"], self.settings["EVENKEEL_SIDECAR_ADDRESS"]
        if not text or (chosen.origin != "default" and self.sidecar[1] != 0):
            return [self.sidecar[1]]
        low, _, high = text.partition("-")
        return range(int(high), int(low) - 1, -1)  # from above: the data ports of the chain may lie in it, and begin below

    @property
    def emf_period_s(self) -> float:
        """0: no such lines."""
        return float(self["EVENKEEL_EMF_PERIOD_S"]) if self["EVENKEEL_EMF"] else 0.0

    def _but_in_batch(self, name: str, in_batch: float) -> float:
        """A setting, or what holds in its place in a batch transform job where it was not set."""
        setting = self.settings[name]
        return in_batch if self["SAGEMAKER_BATCH"] and setting.origin == "default" else float(setting.value)

    def limits(self, chosen_queue_bytes: int = QUEUE_BYTES_MAX) -> Limits:
        """`chosen_queue_bytes`: what a front may hold of requests where it was not set."""
        queue_bytes = int(self["EVENKEEL_QUEUE_MB"] * MIB) or chosen_queue_bytes
        left_s = self["EVENKEEL_DRAIN_S"] - self["EVENKEEL_QUIET_S"]
        return Limits(
            request_timeout_s=self._but_in_batch("EVENKEEL_REQUEST_TIMEOUT_S", BATCH_TIMEOUT_S),
            body_bytes_max=min(int(self["EVENKEEL_MAX_BODY_MB"] * MIB), queue_bytes),
            body_timeout_s=self["EVENKEEL_BODY_TIMEOUT_S"], keep_alive_s=self["EVENKEEL_KEEP_ALIVE_S"],
            header_timeout_s=self["EVENKEEL_HEADER_TIMEOUT_S"], body_rate=self["EVENKEEL_BODY_RATE"],
            connections_max=self["EVENKEEL_MAX_CONNECTIONS"],
            queue_rows_max=int(self._but_in_batch("EVENKEEL_QUEUE_ROWS", BATCH_QUEUE_ROWS)),
            queue_wait_s=self._but_in_batch("EVENKEEL_QUEUE_WAIT_S", math.inf),
            queue_bytes_max=queue_bytes,
            stream_timeout_s=self["EVENKEEL_STREAM_TIMEOUT_S"], batch=self["SAGEMAKER_BATCH"],
            finish_s=max(left_s / 2, left_s - FAREWELL_S))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """A value from the command line, and the option that it was given with. It goes before every variable."""

    option: str
    value: str


OURS = "EVENKEEL_"
UNKNOWN_MAX = 32  # of which is told
# What only looks like a setting: of the tests, and what Kubernetes sets for a Service called evenkeel.
NO_SETTING = re.compile(OURS + r"(TEST_.*|SERVICE_(HOST|PORT.*)|PORT(_.*)?)")


def unknown(environ: Mapping[str, str]) -> dict[str, str]:
    """Names that look like settings and are none, each with the nearest that is one, or ""."""
    known = [v.name for v in VARIABLES]
    odd = sorted(n for n in environ if n.startswith(OURS) and n not in known and not NO_SETTING.fullmatch(n))
    return {name: next(iter(difflib.get_close_matches(name, known, 1, 0.8)), "") for name in odd[:UNKNOWN_MAX]}


def named(name: str) -> str:
    """The variable that this name means; EVENKEEL_ in front and capitals may be left out. Raises BadSetting."""
    known = {v.name: v for v in VARIABLES}
    wanted = name.strip().upper()
    found = known.get(wanted) or known.get(OURS + wanted)
    if found is None:
        near = difflib.get_close_matches(wanted if wanted.startswith(OURS) else OURS + wanted, known, 1, 0.7)
        raise BadSetting(
            f"{name} is no setting" + (f"; did you mean {near[0]}?" if near else ": docs/settings.md has all of them")
        )
    if found.secret:
        raise BadSetting(f"{found.name} is a secret, and everybody on a machine may read command lines: set {found.name}_FILE")
    return found.name


def read(environ: Mapping[str, str], given: Mapping[str, Given] | None = None) -> Environment:
    """Validate every variable. `given`: options of the command line, by the variable that each stands for.
    Raises BadSetting, naming the variable or the option, its value and what is allowed."""
    found = {v.name: _one(v, environ, given or {}) for v in VARIABLES}
    found["EVENKEEL_ADMIN_TOKEN"] = _admin_token(found["EVENKEEL_ADMIN_TOKEN"], found["EVENKEEL_ADMIN_TOKEN_FILE"])
    secrets = {v.name for v in VARIABLES if v.secret}
    environment = Environment(found, {k: v for k, v in environ.items() if k not in secrets})
    _check_ports(environment)
    if environment["EVENKEEL_QUIET_S"] >= environment["EVENKEEL_DRAIN_S"]:
        quiet_s, drain_s = environment["EVENKEEL_QUIET_S"], environment["EVENKEEL_DRAIN_S"]
        raise BadSetting(f"EVENKEEL_QUIET_S={quiet_s:g} must be less than EVENKEEL_DRAIN_S={drain_s:g}")
    return environment


def _one(variable: Variable, environ: Mapping[str, str], given: Mapping[str, Given]) -> Setting:
    option = given.get(variable.name)
    sources = [(option.option, option.value)] if option else []
    for name, text in (*sources, *((name, environ.get(name, "")) for name in (variable.name, *variable.also))):
        raw = text.strip()
        if not raw:
            continue
        try:
            value = variable.kind(raw)
        except ValueError as e:
            what = str(e) if "must" in str(e) else f"must be {'a whole number' if variable.kind is int else 'a number'}"
            raise BadSetting(f"{name} {what}" if variable.secret else f"{name}={raw!r} {what}") from e
        if variable.kind in (int, float) and not (variable.low <= value <= variable.high and math.isfinite(value)):
            raise BadSetting(f"{name}={raw} must be between {variable.low:g} and {variable.high:g}")
        return Setting(value, name)
    return Setting(variable.default, "default")


def _admin_token(token: Setting, file: Setting) -> Setting:
    """From the variable or from the file, which count as one setting."""
    if not file.value:
        return token
    if token.value:
        raise BadSetting("EVENKEEL_ADMIN_TOKEN and EVENKEEL_ADMIN_TOKEN_FILE are both set: choose one")
    try:
        return Setting(_token(token_file.read(Path(file.value))), file.origin)
    except ValueError as e:
        raise BadSetting(f"EVENKEEL_ADMIN_TOKEN_FILE={file.value!r} {e}") from None


def _check_ports(environment: Environment) -> None:
    text = environment["SAGEMAKER_SAFE_PORT_RANGE"]
    if not text:
        return
    low, _, high = text.partition("-")
    if not (low.isdigit() and high.isdigit() and int(low) <= int(high) <= 65535):
        raise BadSetting(f"SAGEMAKER_SAFE_PORT_RANGE={text!r} must be LOW-HIGH")
    host, port = environment.sidecar
    grpc_port = environment["EVENKEEL_GRPC_HEALTH_PORT"]
    chosen = environment.settings["EVENKEEL_SIDECAR_ADDRESS"].origin != "default"
    for shown, wanted in (
        (f"EVENKEEL_SIDECAR_ADDRESS={host}:{port}", port if chosen else 0),
        (f"EVENKEEL_GRPC_HEALTH_PORT={grpc_port}", grpc_port),
    ):
        if wanted and not int(low) <= wanted <= int(high):
            raise BadSetting(f"{shown} is outside SAGEMAKER_SAFE_PORT_RANGE={text}: choose a port inside it")


def colours(environ: Mapping[str, str], is_terminal: bool) -> bool:
    """Whether to write in colours: only for a terminal, and not with NO_COLOR (no-color.org) set to anything."""
    return is_terminal and not environ.get("NO_COLOR")


def table() -> str:
    """The settings as a Markdown table, for docs/settings.md."""
    lines = ["| variable | default | range | meaning |", "|---|---|---|---|"]
    for v in VARIABLES:
        names = f"`{v.name}`" + "".join(f", `{n}`" for n in v.also)
        limits = f"{v.low:g} to {v.high:g}" if v.kind in (int, float) else ""
        lines.append(f"| {names} | `{v.default}` | {limits} | {v.meaning} |")
    return "\n".join(lines)
