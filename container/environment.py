"""The environment, read once and nowhere else: variables -> validated settings, each with its origin.

variables.py is the table of everything that can be set.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel.container import setting_kinds, token_file
from evenkeel.container.plan.processes import QUEUE_BYTES_MAX
from evenkeel.container.plan.user_program import user_program
from evenkeel.container.variables import FIELDS, VARIABLES, ContainerSettings, Variable
from evenkeel.serve.errors import BadSetting
from evenkeel.serve.settings import MIB, Limits

BATCH_TIMEOUT_S = 600.0  # what the platform waits unless its job says otherwise
# In effect, none: it sends few requests at once, of as many lines as their bytes hold, so bytes and time bound them enough.
BATCH_QUEUE_ROWS = 1 << 30
MODELS_DIR = "/opt/ml/models"  # where the platform puts those of a multi-model endpoint
FAREWELL_S = 2.0  # of the time for leaving, when what goes on is told so and ended; the processes need it too


@dataclass(frozen=True, slots=True)
class Environment:
    """All settings, validated."""

    settings: ContainerSettings
    origins: Mapping[str, str]  # of what was set by hand: the variable's name -> the name or option that it was set by
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

    def is_set(self, variable: str) -> bool:
        """By hand, and not by default."""
        return variable in self.origins

    def set_by_hand(self) -> dict[str, object]:
        """What was set, as it may stand in the log."""
        return {v.name: "(secret)" if v.secret else getattr(self.settings, field)
                for field, v in FIELDS.items() if v.name in self.origins}  # fmt: skip

    @property
    def has_many_models(self) -> bool:
        return self.settings.multi_model or bool(self.settings.models_dir)

    @property
    def models_dir(self) -> Path:
        """Where there are many: what lies there may be loaded."""
        return Path(self.settings.models_dir or MODELS_DIR)

    @property
    def model_dir(self) -> Path:
        return Path(self.settings.model_dir)

    @property
    def program(self) -> str:
        """The handler's file in the model folder; "": the usual one. Raises BadSetting."""
        return user_program(self.settings.program, self.settings.submit_directory, self.model_dir)

    @property
    def sidecar(self) -> tuple[str, int]:
        host, _, port = self.settings.sidecar_address.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def sidecar_ports(self) -> Sequence[int]:
        """Ports to try in turn: the one that was set, else the default, or the platform's range where there is one."""
        text = self.settings.safe_port_range
        if not text or (self.is_set("EVENKEEL_SIDECAR_ADDRESS") and self.sidecar[1] != 0):
            return [self.sidecar[1]]
        low, _, high = text.partition("-")
        return range(int(high), int(low) - 1, -1)  # from above: the data ports of the chain may lie in it, and begin below

    @property
    def emf_period_s(self) -> float:
        """0: no such lines."""
        return self.settings.emf_period_s if self.settings.emf else 0.0

    @property
    def memory_bytes(self) -> int:
        """That all replicas together may take; 0: what is left."""
        return self.settings.memory_mb * MIB

    def _but_in_batch(self, variable: str, value: float, in_batch: float) -> float:
        """A setting's value, or what holds in its place in a batch transform job where it was not set."""
        return in_batch if self.settings.batch and not self.is_set(variable) else value

    def limits(self, chosen_queue_bytes: int = QUEUE_BYTES_MAX) -> Limits:
        """`chosen_queue_bytes`: what a front may hold of requests where it was not set."""
        settings = self.settings
        queue_bytes = int(settings.queue_mb * MIB) or chosen_queue_bytes
        left_s = settings.drain_s - settings.quiet_s
        return Limits(
            request_timeout_s=self._but_in_batch("EVENKEEL_REQUEST_TIMEOUT_S", settings.request_timeout_s, BATCH_TIMEOUT_S),
            body_bytes_max=min(int(settings.max_body_mb * MIB), queue_bytes),
            body_timeout_s=settings.body_timeout_s, keep_alive_s=settings.keep_alive_s,
            header_timeout_s=settings.header_timeout_s, body_rate=settings.body_rate,
            connections_max=settings.max_connections,
            queue_rows_max=int(self._but_in_batch("EVENKEEL_QUEUE_ROWS", settings.queue_rows, BATCH_QUEUE_ROWS)),
            queue_wait_s=self._but_in_batch("EVENKEEL_QUEUE_WAIT_S", settings.queue_wait_s, math.inf),
            queue_bytes_max=queue_bytes,
            stream_timeout_s=settings.stream_timeout_s, batch=settings.batch,
            finish_s=max(left_s / 2, left_s - FAREWELL_S))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """A value from the command line, and the option that it was given with. It goes before every variable."""

    option: str
    value: str


OURS = "EVENKEEL_"
UNKNOWN_MAX = 32  # of which is told
NEAR = 0.7  # how alike two names are, by difflib: one letter in three may differ
PREFIX_NEAR = 0.85  # two letters of nine
# What only looks like a setting: of the tests, and what Kubernetes sets for a Service called evenkeel.
NO_SETTING = re.compile(OURS + r"(TEST_.*|SERVICE_(HOST|PORT.*)|PORT(_.*)?)")


def unknown(environ: Mapping[str, str]) -> dict[str, str]:
    """Names that look like settings and are none, each with the nearest that is one, or ""."""
    known = {v.name for v in VARIABLES}
    odd = sorted(
        n for n in environ if _begins_like_ours(n) and n not in known and not NO_SETTING.fullmatch(OURS + n.partition("_")[2])
    )
    return {name: nearest(name) for name in odd[:UNKNOWN_MAX]}


def _begins_like_ours(name: str) -> bool:
    """As every setting does, or with a letter or two of that left out, doubled or mistaken."""
    head, bar, rest = name.partition("_")
    if name.startswith(OURS) or not (bar and rest):
        return name.startswith(OURS)
    return difflib.SequenceMatcher(None, head.upper() + bar, OURS).ratio() >= PREFIX_NEAR


def nearest(name: str) -> str:
    """The setting that was meant, by what follows EVENKEEL_; "" where nothing is near."""
    ours = {v.name.removeprefix(OURS): v.name for v in VARIABLES}
    wanted = name.partition("_")[2] if _begins_like_ours(name) else name
    return next((ours[near] for near in difflib.get_close_matches(wanted.upper(), ours, 1, NEAR)), "")


def named(name: str) -> str:
    """The variable that this name means; EVENKEEL_ in front and capitals may be left out. Raises BadSetting."""
    known = {v.name: v for v in VARIABLES}
    wanted = name.strip().upper()
    found = known.get(wanted) or known.get(OURS + wanted)
    if found is None:
        near = nearest(wanted)
        raise BadSetting(f"{name} is no setting" + (f"; did you mean {near}?" if near else ": docs/settings.md has all of them"))
    if found.secret:
        raise BadSetting(f"{found.name} is a secret, and everybody on a machine may read command lines: set {found.name}_FILE")
    return found.name


def read(environ: Mapping[str, str], given: Mapping[str, Given] | None = None) -> Environment:
    """Validate every variable. `given`: options of the command line, by the variable that each stands for.
    Raises BadSetting, naming the variable or the option, its value and what is allowed."""
    found = {field: _one(v, environ, given or {}) for field, v in FIELDS.items()}
    set_here = {field: setting for field, setting in found.items() if setting is not None}
    token = _token_of_file(set_here.get("admin_token"), set_here.get("admin_token_file"))
    if token is not None:
        set_here["admin_token"] = token
    settings = dataclasses.replace(ContainerSettings(), **{field: setting.value for field, setting in set_here.items()})
    origins = {FIELDS[field].name: setting.origin for field, setting in set_here.items()}
    secrets = {v.name for v in VARIABLES if v.secret}
    environment = Environment(settings, origins, {k: v for k, v in environ.items() if k not in secrets})
    _check_ports(environment)
    if settings.quiet_s >= settings.drain_s:
        raise BadSetting(f"EVENKEEL_QUIET_S={settings.quiet_s:g} must be less than EVENKEEL_DRAIN_S={settings.drain_s:g}")
    return environment


@dataclass(frozen=True, slots=True)
class _Set:
    value: Any  # of the type that the variable's kind makes, which is that of its field
    origin: str  # the name or the option that it was set by


def _one(variable: Variable, environ: Mapping[str, str], given: Mapping[str, Given]) -> _Set | None:
    option = given.get(variable.name)
    sources = [(option.option, option.value)] if option else []
    sources += [(name, environ.get(name, "")) for name in (variable.name, *variable.also)]
    origin, text = next(((name, raw) for name, value in sources if (raw := value.strip())), ("", ""))
    return _Set(_valid(variable, origin, text), origin) if origin else None


def _valid(variable: Variable, origin: str, text: str) -> Any:
    try:
        value = variable.kind(text)
    except ValueError as e:
        what = str(e) if "must" in str(e) else f"must be {'a whole number' if variable.kind is int else 'a number'}"
        raise BadSetting(f"{origin} {what}" if variable.secret else f"{origin}={text!r} {what}") from e
    if isinstance(value, (int, float)) and variable.is_number and not variable.allows(value):
        raise BadSetting(f"{origin}={text} must be between {variable.low:g} and {variable.high:g}")
    return value


def _token_of_file(token: _Set | None, file: _Set | None) -> _Set | None:
    """The token from its file; it and the variable count as one setting. None: there is no file."""
    if file is None:
        return None
    if token is not None:
        raise BadSetting("EVENKEEL_ADMIN_TOKEN and EVENKEEL_ADMIN_TOKEN_FILE are both set: choose one")
    try:
        return _Set(setting_kinds.token(token_file.read(Path(file.value))), file.origin)
    except ValueError as e:
        raise BadSetting(f"EVENKEEL_ADMIN_TOKEN_FILE={file.value!r} {e}") from None


def _check_ports(environment: Environment) -> None:
    text = environment.settings.safe_port_range
    if not text:
        return
    low, _, high = text.partition("-")
    if not (low.isdigit() and high.isdigit() and int(low) <= int(high) <= 65535):
        raise BadSetting(f"SAGEMAKER_SAFE_PORT_RANGE={text!r} must be LOW-HIGH")
    host, port = environment.sidecar
    grpc_port = environment.settings.grpc_health_port
    chosen = environment.is_set("EVENKEEL_SIDECAR_ADDRESS")
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
        limits = f"{v.low:g} to {v.high:g}" if v.is_number else ""
        lines.append(f"| {names} | `{v.default}` | {limits} | {v.meaning} |")
    return "\n".join(lines)
