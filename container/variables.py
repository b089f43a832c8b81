"""The one table of everything that can be set, and the record that it is read into.

docs/settings.md is drawn from it, and a test compares them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from evenkeel.container import setting_kinds as kinds
from evenkeel.serve.contract.status_page import ENGINES_MAX, FRONTS_MAX

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting. `also`: names of the platform's and the toolkits' that mean the same, in order after our own."""

    name: str
    kind: Callable[[str], object]
    default: object
    low: float
    high: float
    meaning: str
    also: tuple[str, ...] = ()
    secret: bool = False  # never shown, and kept from the processes that we start

    @property
    def is_number(self) -> bool:
        return self.kind in (int, float)

    def allows(self, number: float) -> bool:
        return math.isfinite(number) and self.low <= number <= self.high


def variable(
    name: str, kind: Callable[[str], T], default: T, low: float, high: float, meaning: str, also: tuple[str, ...] = (),
    secret: bool = False,
) -> T:  # fmt: skip
    """A field of ContainerSettings, of the type that its kind gives."""
    entry = Variable(name, kind, default, low, high, meaning, also, secret)
    return field(default=default, metadata={"variable": entry})


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSettings:
    """Every setting by its type. Made without arguments it has the defaults."""

    # fmt: off
    model_dir: str = variable("EVENKEEL_MODEL_DIR", kinds.text, "/opt/ml/model", 0, 0,
        "folder of the model, read only", ("SAGEMAKER_MODEL_PATH",))
    model_version: str = variable("EVENKEEL_MODEL_VERSION", kinds.text, "", 0, 0,
        "what to serve first of a folder with NAME/VERSION/; empty: the highest")
    rollback_window_s: float = variable("EVENKEEL_ROLLBACK_WINDOW_S", float, 300.0, 0, 86400,
        "how long the version before stays warm after a swap; longer keeps its memory, 0 ends it at once")
    swap: str = variable("EVENKEEL_SWAP", kinds.swap_place, "auto", 0, 0,
        "where a new version loads: beside the old, in_place of it, or auto: by the measured memory")
    port: int = variable("SAGEMAKER_BIND_TO_PORT", int, 8080, 0, 65535, "data port; 0 lets the kernel choose")
    host: str = variable("EVENKEEL_HOST", kinds.host, "0.0.0.0", 0, 0,
        "address of the data port; `::` is every address of both families")
    sidecar_address: str = variable("EVENKEEL_SIDECAR_ADDRESS", kinds.address, "127.0.0.1:9090", 0, 0,
        "where the sidecar serves /status; port 0: any")
    admin_token: str = variable("EVENKEEL_ADMIN_TOKEN", kinds.token, "", 0, 0,
        "secret for changing calls (POST /drain, /rollout …) to the sidecar over HTTP; empty: only over its Unix socket",
        secret=True)
    admin_token_file: str = variable("EVENKEEL_ADMIN_TOKEN_FILE", kinds.text, "", 0, 0,
        "file that holds that secret, in place of the variable, which code of the same user may read; empty: none")
    grpc_health_port: int = variable("EVENKEEL_GRPC_HEALTH_PORT", int, 0, 0, 65535,
        "gRPC health checking at the sidecar's host; 0: off. Needs the extra `grpc`")
    fronts: int = variable("EVENKEEL_FRONTS", int, 0, 0, FRONTS_MAX, "HTTP workers; 0: one for every 4 CPUs")
    replicas: int = variable("EVENKEEL_REPLICAS", int, 0, 0, ENGINES_MAX,
        "copies of the model, each in its own process; where there are GPUs, on each of them; 0: one",
        ("SAGEMAKER_MODEL_SERVER_WORKERS",))
    threads: int = variable("EVENKEEL_THREADS", int, 0, 0, 1024,
        "threads of one replica's framework; 0: CPUs shared among the replicas")
    require_gpu: str = variable("EVENKEEL_REQUIRE_GPU", kinds.gpu_rule, "0", 0, 0,
        "1: without a visible GPU, or when the model falls back to the CPU, the start fails; auto: if one is visible")
    request_timeout_s: float = variable("EVENKEEL_REQUEST_TIMEOUT_S", float, 60.0, 0.01, 3600,
        "deadline of a request, 504 beyond it", ("SAGEMAKER_MODEL_SERVER_TIMEOUT",))
    stream_timeout_s: float = variable("EVENKEEL_STREAM_TIMEOUT_S", float, 480.0, 0.01, 86400,
        "a streamed answer from its first part to its end; the platform allows 8 minutes")
    max_body_mb: float = variable("EVENKEEL_MAX_BODY_MB", float, 100.0, 0.001, 255,
        "largest request body in MiB, 413 beyond it, before it is read where its length is told. What it becomes may "
        "take 256")
    body_timeout_s: float = variable("EVENKEEL_BODY_TIMEOUT_S", float, 30.0, 0.1, 3600,
        "silence allowed in the middle of a request, 408 beyond it")
    header_timeout_s: float = variable("EVENKEEL_HEADER_TIMEOUT_S", float, 10.0, 0.1, 3600,
        "from the first byte of a request to the end of its head, 408 beyond it")
    body_rate: float = variable("EVENKEEL_BODY_RATE", float, 1024.0, 0, 1e9,
        "bytes a second that a client must send of a body and take of an answer, after a grace of 10 s; 0: any")
    max_connections: int = variable("EVENKEEL_MAX_CONNECTIONS", int, 4096, 1, 1_000_000,
        "connections open at once, per HTTP worker; at the limit the longest idle one makes room for the next, and where "
        "none is idle only /ping is answered, the rest gets 503")
    keep_alive_s: float = variable("EVENKEEL_KEEP_ALIVE_S", float, 75.0, 1, 86400,
        "idle time after which a connection is closed")
    queue_rows: int = variable("EVENKEEL_QUEUE_ROWS", int, 8192, 1, 8192,
        "rows accepted and not yet answered, per HTTP worker; 429 beyond it. Of a request, whatever its size, one full "
        "batch counts. In a batch job no limit unless set")
    queue_wait_s: float = variable("EVENKEEL_QUEUE_WAIT_S", float, 2.0, 0.01, 86400,
        "wait that is accepted where many are waiting and the queue has not been empty for as long, and never more than 0.8 "
        "of the deadline; 429 beyond it. In a batch job no limit unless set")
    queue_mb: float = variable("EVENKEEL_QUEUE_MB", float, 0.0, 0, 4096,
        "MiB of requests held, per HTTP worker, 429 beyond it, and 413 for a body that is larger; and of answers not read "
        "yet. 0: up to 1024, and all workers together no more than a quarter of the memory that is left")
    drain_s: float = variable("EVENKEEL_DRAIN_S", float, 25.0, 0.1, 3600,
        "from SIGTERM to exit at most; the platform kills after 30")
    quiet_s: float = variable("EVENKEEL_QUIET_S", float, 0.5, 0, 60,
        "from SIGTERM on: serve on this long while /ping already says 503")
    restart_limit: int = variable("EVENKEEL_RESTART_LIMIT", int, 5, 0, 1000,
        "restarts of one process in a row, none of whose lives answered a request, before the container gives up")
    stuck_factor: float = variable("EVENKEEL_STUCK_FACTOR", float, 10.0, 2, 1e6,
        "a batch that runs this many times longer than predicted is stuck, and its engine replaced")
    stuck_s: float = variable("EVENKEEL_STUCK_S", float, 5.0, 0.1, 86400,
        "but never sooner; lower finds a hang sooner, higher spares slow ones")
    front_timeout_s: int = variable("EVENKEEL_FRONT_TIMEOUT_S", int, 15, 2, 3600,
        "an HTTP worker whose event loop stands still so long is replaced")
    self_check_s: float = variable("EVENKEEL_SELF_CHECK_S", float, 20.0, 0, 86400,
        "an engine that has said nothing for so long is asked one of the model's samples; 0: never")
    leak_s: float = variable("EVENKEEL_LEAK_S", float, 60.0, 0, 86400,
        "a replica whose memory would meet the limit within this time is replaced in good order; 0: never")
    memory_mb: int = variable("EVENKEEL_MEMORY_MB", int, 0, 0, 1 << 30,
        "MiB that all replicas together may take, for EVENKEEL_LEAK_S; 0: what cgroup and machine have left")
    faults: str = variable("EVENKEEL_FAULTS", kinds.faults, "", 0, 0,
        "faults on purpose, for trying a model, such as `crash:every=100;slow:rate=0.01,ms=200`; empty: none")
    log: str = variable("EVENKEEL_LOG", kinds.log_form, "auto", 0, 0, "json or text; auto: a short view on a terminal, else json")
    access_log: float = variable("EVENKEEL_ACCESS_LOG", float, 0.0, 0, 1,
        "share of the requests that get a log line `access`: id, model, version, status, milliseconds, rows, trace; 0: none")
    emf: int = variable("EVENKEEL_EMF", int, 0, 0, 1, "1: metrics as CloudWatch embedded metric format on stdout too")
    emf_period_s: float = variable("EVENKEEL_EMF_PERIOD_S", float, 60.0, 1, 3600,
        "one such line a period; shorter alarms sooner and costs more")
    emf_namespace: str = variable("EVENKEEL_EMF_NAMESPACE", kinds.text, "evenkeel", 0, 0,
        "CloudWatch namespace of these metrics; one for each endpoint")
    run_dir: str = variable("EVENKEEL_RUN_DIR", kinds.text, "", 0, 0,
        "folder for sockets; empty: a new one under the temporary folder")
    shape_log: str = variable("EVENKEEL_SHAPE_LOG", kinds.text, "", 0, 0,
        "file of shapes met in service, warmed on at the next start; empty: none")
    default_accept: str = variable("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", kinds.text, "", 0, 0,
        "reply type unless the client says; empty: as asked")
    install_requirements: int = variable("EVENKEEL_INSTALL_REQUIREMENTS", int, 0, 0, 1,
        "1: install the model's code/requirements.txt at start, which needs a network; better done in the image")
    install_timeout_s: float = variable("EVENKEEL_INSTALL_TIMEOUT_S", float, 300.0, 0.1, 3600,
        "for that, at most; the platform gives a start 8 minutes")
    program: str = variable("SAGEMAKER_PROGRAM", kinds.file_name, "", 0, 0,
        "the handler's file, in the model's code folder or in the model folder itself; empty: code/inference.py",
        ("CUSTOM_SCRIPT_FILENAME",))
    submit_directory: str = variable("SAGEMAKER_SUBMIT_DIRECTORY", kinds.text, "", 0, 0,
        "folder of that file, inside the model folder. An address in S3 is not fetched")
    hf_task: str = variable("HF_TASK", kinds.text, "", 0, 0,
        "set, as for AWS's Hugging Face containers: a script without an input_fn gets what that toolkit's scripts get; "
        "which task is the script's own affair")
    batch: bool = variable("SAGEMAKER_BATCH", kinds.truth, False, 0, 0,
        "true in a batch transform job: answers of lines end with a newline, the deadline of a request is 600 s, "
        "any number of rows waits")
    multi_model: bool = variable("SAGEMAKER_MULTI_MODEL", kinds.truth, False, 0, 0,
        "true: no model at the start; the platform loads and unloads many by POST and DELETE /models")
    models_dir: str = variable("EVENKEEL_MODELS_DIR", kinds.text, "", 0, 0,
        "folder of many models, each of its folders one that is loaded at the start under its name; with "
        "SAGEMAKER_MULTI_MODEL those that may be loaded lie there, and empty means /opt/ml/models")
    safe_port_range: str = variable("SAGEMAKER_SAFE_PORT_RANGE", kinds.text, "", 0, 0,
        "LOW-HIGH: every other port of ours must be inside; the sidecar takes a free one there")
    # fmt: on


FIELDS: dict[str, Variable] = {f.name: f.metadata["variable"] for f in dataclasses.fields(ContainerSettings)}
VARIABLES: tuple[Variable, ...] = tuple(FIELDS.values())
