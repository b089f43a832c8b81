"""The servers under test: how each is found, started, asked, and understood. One class a server, one seam for all.

Every peer has its best known settings: one worker, an ONNX Runtime that does not spin, one thread (two for M when both
cores are free), batches of up to 64 rows (8 for M), and as short a wait for more rows as it can do with. evenkeel has
none: it is started the way a user starts it.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from benchmarks import uncounted
from benchmarks.models import Array, digits, instances

HERE = Path(__file__).resolve().parent
JSON, NPY = "json", "npy"
MIME = {JSON: "application/json", NPY: "application/x-npy"}
HEAVY = "M"


@dataclass(frozen=True, slots=True)
class Job:
    """What a server is asked to serve, and where."""

    model: str
    folder: Path
    pinned: bool
    port: int
    port_aside: int
    scratch: Path  # a folder for its own files, gone when it ends


@dataclass(frozen=True, slots=True)
class Command:
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Server(Protocol):
    name: str
    stop_s_max: float  # how long it may take to end by itself

    def missing(self) -> str | None:
        """Why it cannot be started here, or None."""

    def versions(self) -> str: ...

    def serves(self, model: str) -> bool: ...

    def command(self, job: Job) -> Command: ...

    def ready(self, job: Job) -> Request:
        """Answered with 200 as soon as it can work."""

    def request(self, wire: str, rows: Array) -> Request: ...

    def answer(self, wire: str, headers: Mapping[str, str], body: bytes) -> Array: ...


class Plain:
    """The request and answer that evenkeel and Mosec share: {"instances": ...} or an NPY file."""

    paths: ClassVar[dict[str, str]]

    def request(self, wire: str, rows: Array) -> Request:
        body = instances(rows) if wire == JSON else npy(rows)
        return Request("POST", self.paths[wire], {"Content-Type": MIME[wire]}, body)

    def answer(self, wire: str, headers: Mapping[str, str], body: bytes) -> Array:
        if wire == JSON:
            return np.array(json.loads(body)["predictions"])
        rows: Array = np.load(io.BytesIO(body), allow_pickle=False)
        return rows


@dataclass(frozen=True, slots=True)
class Evenkeel(Plain):
    program: Path
    name = "evenkeel"
    stop_s_max = 30.0  # it may drain for 25 s
    paths: ClassVar[dict[str, str]] = {JSON: "/invocations", NPY: "/invocations"}

    def missing(self) -> str | None:
        return None if self.program.is_file() else f"{self.program} does not exist: run `make` first"

    def versions(self) -> str:
        return versions_in(Path(sys.executable), "evenkeel", "onnxruntime", "torch", "numpy", "uvicorn", "gunicorn", "orjson")

    def serves(self, model: str) -> bool:
        return True

    def command(self, job: Job) -> Command:
        return Command(
            [str(self.program), "serve"],
            {
                "EVENKEEL_MODEL_DIR": str(job.folder),
                "SAGEMAKER_BIND_TO_PORT": str(job.port),
                "EVENKEEL_SIDECAR_ADDRESS": f"127.0.0.1:{job.port_aside}",
            },
        )

    def ready(self, job: Job) -> Request:
        return Request("GET", "/ping")


@dataclass(frozen=True, slots=True)
class Uncounted(Evenkeel):
    """evenkeel without its counters: a copy made for the run. Beside the real one it shows what counting costs."""

    name = "uncounted"

    def serves(self, model: str) -> bool:
        return model == "T"  # where a request costs least, counting is the largest share of it

    def command(self, job: Job) -> Command:
        copy = uncounted.make(job.scratch / "copy")
        real = Evenkeel.command(self, job)
        # From inside the copy, and first on the path: each process of the tree imports from where it runs.
        run = ["env", "-C", str(copy), sys.executable, "-m", "evenkeel.container", "serve"]
        return Command(run, {**real.environment, "PYTHONPATH": str(copy)})


def peer_environment(job: Job) -> dict[str, str]:
    heavy = job.model == HEAVY
    return {
        "BENCH_MODEL_DIR": str(job.folder),
        "BENCH_PORT": str(job.port),
        "BENCH_SCRATCH": str(job.scratch),
        "TMPDIR": str(job.scratch),  # what a peer leaves there goes with it
        "BENCH_THREADS": "2" if heavy and not job.pinned else "1",
        "BENCH_ROWS_MAX": "8" if heavy else "64",
        "BENCH_WAIT_MS": "5" if heavy else "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


@dataclass(frozen=True, slots=True)
class Mosec(Plain):
    peers: Path
    name = "mosec"
    stop_s_max = 3.0
    paths: ClassVar[dict[str, str]] = {JSON: "/json", NPY: "/npy"}

    @property
    def python(self) -> Path:
        return self.peers / "mosec" / "bin" / "python"

    def missing(self) -> str | None:
        return None if self.python.is_file() else f"no {self.python}: run benchmarks/peers/install.sh"

    def versions(self) -> str:
        return versions_in(self.python, "mosec", "onnxruntime", "numpy", "msgspec")

    def serves(self, model: str) -> bool:
        return model != "echo"

    def command(self, job: Job) -> Command:
        script = str(HERE / "peers" / "mosec_server.py")
        options = ["--address", "127.0.0.1", "--port", str(job.port), "--timeout", "60000", "--log-level", "warning"]
        return Command([str(self.python), script, *options], peer_environment(job))

    def ready(self, job: Job) -> Request:
        return self.request(NPY, np.load(job.folder / "body.npy"))


@dataclass(frozen=True, slots=True)
class Triton:
    """Speaks the v2 protocol: tensors as JSON, or as bytes behind a JSON header (here in NPY's place)."""

    peers: Path
    name = "triton"
    stop_s_max = 3.0

    @property
    def python(self) -> Path:
        return self.peers / "pytritond" / "bin" / "python"

    def missing(self) -> str | None:
        return None if self.python.is_file() else f"no {self.python}: run benchmarks/peers/install.sh"

    def versions(self) -> str:
        return versions_in(self.python, "nvidia-pytriton", "onnxruntime", "numpy")

    def serves(self, model: str) -> bool:
        return model != "echo"

    def command(self, job: Job) -> Command:
        return Command([str(self.python), str(HERE / "peers" / "triton_start.py")], peer_environment(job))

    def ready(self, job: Job) -> Request:
        return self.request(NPY, np.load(job.folder / "body.npy"))

    def request(self, wire: str, rows: Array) -> Request:
        tensor: dict[str, object] = {"name": "x", "shape": list(rows.shape), "datatype": "FP32"}
        path = "/v2/models/m/infer"
        if wire == JSON:
            tensor["data"] = digits(rows.reshape(-1))
            return Request("POST", path, {"Content-Type": MIME[JSON]}, json.dumps({"inputs": [tensor]}).encode())
        tensor["parameters"] = {"binary_data_size": rows.nbytes}
        outputs = [{"name": "y", "parameters": {"binary_data": True}}]
        head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return Request("POST", path, headers, head + rows.tobytes())

    def answer(self, wire: str, headers: Mapping[str, str], body: bytes) -> Array:
        if wire == JSON:
            output = json.loads(body)["outputs"][0]
            return np.array(output["data"]).reshape(output["shape"])
        head = int(headers["inference-header-content-length"])
        output = json.loads(body[:head])["outputs"][0]
        return np.frombuffer(body[head:], np.float32).reshape(output["shape"])


def npy(rows: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


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
