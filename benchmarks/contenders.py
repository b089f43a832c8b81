"""What takes turns within a cell: a running server under wrk, or raw ONNX Runtime as the limit. Owns their processes.

Every process is ended by its id, and every wait has a bound.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks import procs
from benchmarks.models import Array
from benchmarks.servers import Job, Request, Server, clean_environment

START_S_MAX = 90.0
LINGER_S_MAX = 2.0
REQUEST_S_MAX = 60
SERVER_CORE, LOAD_CORE = "0", "1"


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison: a model, a wire format, a placement and a number of connections."""

    model: str
    wire: str
    pinned: bool
    connections: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.wire}-{'pin' if self.pinned else 'free'}-{self.connections}"

    @staticmethod
    def parse(name: str) -> Cell:
        model, wire, place, connections = name.split("-")
        if wire not in ("json", "npy") or place not in ("pin", "free"):
            raise ValueError(f"{name!r} is no cell: MODEL-json|npy-pin|free-CONNECTIONS")
        return Cell(model, wire, place == "pin", int(connections))


@dataclass(frozen=True, slots=True)
class Run:
    """One turn of one contender. Times of the machine are in cores: CPU seconds a second."""

    cell: str
    server: str
    seconds: float
    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    non2xx: int
    errors: int
    cpu_us: float  # CPU of the whole tree for one request
    cpu_us_by_role: dict[str, float]
    server_cores: float
    load_cores: float
    steal_cores: float
    others_cores: float
    speed_ms: float
    kept: bool = True

    @property
    def disturbance(self) -> float:
        """CPU that somebody else took during the run. The only thing by which runs may be chosen."""
        return self.steal_cores + self.others_cores

    def to_json(self) -> dict[str, Any]:
        return {"record": "run", **asdict(self), "disturbance": round(self.disturbance, 3)}


class Contender(Protocol):
    name: str

    def turn(self, cell: Cell, seconds: float) -> Run: ...


class ServerFailed(Exception):
    """A server did not start, answered wrongly, or went away. The benchmark goes on without it."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the thing that made the load said about one turn."""

    seconds: float
    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    non2xx: int = 0
    errors: int = 0


def observed(cell: Cell, name: str, root: int, make_load: Callable[[], Load]) -> Run:
    """Run a load and read around it what it cost the tree under `root`, and what others took meanwhile."""
    children_before = children_cpu_s()
    machine_before, cpu_before = procs.read_machine(), procs.read_cpu(root)
    load = make_load()
    cpu_after, machine_after = procs.read_cpu(root), procs.read_machine()
    load_s = children_cpu_s() - children_before
    by_role = procs.cpu_between(cpu_before, cpu_after)
    server_s = sum(by_role.values())
    busy_s = machine_after.busy_s - machine_before.busy_s
    requests = max(1, load.requests)
    return Run(
        cell=cell.name,
        server=name,
        seconds=load.seconds,
        requests=load.requests,
        rps=load.requests / load.seconds,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        max_ms=load.max_ms,
        non2xx=load.non2xx,
        errors=load.errors,
        cpu_us=1e6 * server_s / requests,
        cpu_us_by_role={role: 1e6 * cpu_s / requests for role, cpu_s in by_role.items()},
        server_cores=server_s / load.seconds,
        load_cores=load_s / load.seconds,
        steal_cores=(machine_after.steal_s - machine_before.steal_s) / load.seconds,
        others_cores=max(0.0, busy_s - server_s - load_s) / load.seconds,
        speed_ms=procs.machine_speed_ms(),
    )


def children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(slots=True, eq=False)
class RunningServer:
    """A server process tree, from start to stop. Idle between its turns."""

    name: str
    server: Server
    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    started_s: float
    start_s: float = 0.0  # from process start to the first 200
    idle_cores: float = 0.0

    @classmethod
    def start(cls, server: Server, model: str, folder: Path, *, pinned: bool) -> RunningServer:
        """Start it and wait until it answers. Raises ServerFailed, and leaves nothing behind then."""
        scratch = Path(tempfile.mkdtemp(prefix=f"bench-{server.name}-"))
        job = Job(model, folder, pinned, free_port(), free_port(), scratch)
        command = server.command(job)
        pin = ["taskset", "-c", SERVER_CORE] if pinned else []
        log = scratch / "server.log"
        with log.open("wb") as out:
            started_s = time.monotonic()
            process = subprocess.Popen(
                pin + command.arguments,
                env={**clean_environment(), **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        running = cls(server.name, server, job, process, log, started_s)
        try:
            running.wait_until_ready()
        except BaseException:
            running.stop()
            raise
        return running

    def wait_until_ready(self) -> None:
        request, last = self.server.ready(self.job), "no answer"
        while time.monotonic() < self.started_s + START_S_MAX:
            if self.process.poll() is not None:
                raise ServerFailed(f"{self.name} ended with {self.process.returncode}: {self.log_tail()}")
            try:
                status, _, body = ask(self.job.port, request, timeout_s=5)
                if status == 200:
                    self.start_s = time.monotonic() - self.started_s
                    return
                last = f"{status} {body[:200]!r}"
            except (OSError, http.client.HTTPException) as e:
                last = repr(e)
            time.sleep(0.02)
        raise ServerFailed(f"{self.name} is not ready after {START_S_MAX:.0f} s ({last}): {self.log_tail()}")

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-600:].strip().replace("\n", " | ") or "(empty log)"

    def check(self, wire: str, rows: Array, answers: Array) -> None:
        """Different rows at once, each compared with its reference: right alone and right in a batch."""

        def one(i: int) -> str | None:
            status, headers, body = ask(self.job.port, self.server.request(wire, rows[i : i + 1]))
            if status != 200:
                return f"row {i}: status {status} {body[:200]!r}"
            got, want = self.server.answer(wire, headers, body), answers[i : i + 1]
            if got.shape != want.shape:
                return f"row {i}: shape {got.shape}, not {want.shape}"
            off = np.abs(got - want).max()
            return None if np.allclose(got, want, rtol=1e-3, atol=1e-3) else f"row {i}: off by {off}"

        with ThreadPoolExecutor(16) as pool:
            try:
                wrong = [problem for problem in pool.map(one, range(len(rows))) if problem]
            except (OSError, http.client.HTTPException, KeyError, ValueError) as e:
                raise ServerFailed(f"{self.name} {wire}: {e!r}; {self.log_tail()}") from e
        if wrong:
            raise ServerFailed(f"{self.name} {wire}: {len(wrong)} of {len(rows)} answers are wrong: {wrong[0]}")

    def measure_idle(self, seconds: float = 1.0) -> None:
        before = procs.read_cpu(self.process.pid)
        time.sleep(seconds)
        self.idle_cores = sum(procs.cpu_between(before, procs.read_cpu(self.process.pid)).values()) / seconds

    def turn(self, cell: Cell, seconds: float) -> Run:
        if self.process.poll() is not None:
            raise ServerFailed(f"{self.name} went away with {self.process.returncode}: {self.log_tail()}")
        request = self.server.request(cell.wire, np.load(self.job.folder / "body.npy"))
        body = self.job.scratch / f"body.{cell.wire}"
        if not body.exists():
            body.write_bytes(request.body)
        return observed(cell, self.name, self.process.pid, lambda: wrk(cell, self.job.port, request, body, seconds))

    def stop(self) -> None:
        """Ask it to end, then insist, then end what is left of its tree."""
        members = procs.tree(self.process.pid)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.server.stop_s_max)
        self.process.kill()
        self.process.wait()
        rest = {p.pid: p for p in [*members, *procs.tree(self.process.pid)]}.values()
        # Python's resource tracker ignores this, and removes semaphores once the others are gone: let it.
        for member in rest:
            tell(member, signal.SIGTERM)
        end_s = time.monotonic() + LINGER_S_MAX
        while time.monotonic() < end_s and any(procs.is_there(member) for member in rest):
            time.sleep(0.05)
        for member in rest:
            tell(member, signal.SIGKILL)
        shutil.rmtree(self.job.scratch, ignore_errors=True)


def tell(process: procs.Process, what: signal.Signals) -> None:
    """Signal this very process, not another that got its number since."""
    if procs.is_there(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, what)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def ask(port: int, request: Request, timeout_s: float = REQUEST_S_MAX) -> tuple[int, dict[str, str], bytes]:
    """One request over a new connection: status, headers (names in lower case), body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(request.method, request.path, request.body or None, request.headers)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def wrk(cell: Cell, port: int, request: Request, body: Path, seconds: float) -> Load:
    """One wrk process with one thread: a closed loop of `connections`, each sending again once it has its answer."""
    pin = ["taskset", "-c", LOAD_CORE] if cell.pinned else []
    size = ["-t1", f"-c{cell.connections}", f"-d{max(1, round(seconds))}s"]
    options = [
        "--latency",
        f"--timeout={REQUEST_S_MAX}s",
        "-s",
        str(Path(__file__).with_name("wrk_post.lua")),
        f"http://127.0.0.1:{port}{request.path}",
    ]
    command, limit_s = [*pin, "wrk", *size, *options], seconds + 30
    headers = "\n".join(f"{k}: {v}" for k, v in request.headers.items())
    environment = {**os.environ, "BENCH_BODY": str(body), "BENCH_HEADERS": headers}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as e:
        raise ServerFailed(f"wrk did not end in {limit_s:.0f} s on {cell.name}") from e
    line = next((line for line in done.stdout.splitlines() if line.startswith("WRK ")), None)
    if line is None:
        raise ServerFailed(f"wrk failed on {cell.name}: {(done.stdout + done.stderr)[-300:]}")
    r = json.loads(line[4:])
    return Load(
        seconds=r["duration_us"] / 1e6,
        requests=r["requests"],
        p50_ms=r["p50_us"] / 1e3,
        p99_ms=r["p99_us"] / 1e3,
        max_ms=r["max_us"] / 1e3,
        non2xx=r["non2xx"],
        errors=r["errors"],
    )


@dataclass(frozen=True, slots=True)
class RawCall:
    """How ONNX Runtime is called without any server."""

    rows: int
    threads: int
    spin: bool

    def describe(self) -> str:
        return f"batch {self.rows}, {self.threads} thread{'s' * (self.threads > 1)}{', spinning' * self.spin}"


@dataclass(frozen=True, slots=True)
class RawResult:
    call: RawCall
    seconds: float
    calls: int
    rows_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    def to_json(self) -> dict[str, Any]:
        return {"record": "raw", **asdict(self)}


RAW = "raw onnxruntime"


class RawRuntime:
    """Raw ONNX Runtime in a process of its own, so that it can take its turn between the servers' turns.

    The limit must be measured at the same minute as what is held against it: this machine's speed drifts.
    """

    name = RAW

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.raw_runtime", str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        self.best = self.fastest = RawCall(1, 1, False)
        self.sweep_results: list[RawResult] = []

    def call(self, call: RawCall, seconds: float) -> RawResult:
        """Blocks until the child has measured; the child bounds its own time."""
        assert self._process.stdin and self._process.stdout, "opened with pipes"
        print(json.dumps({**asdict(call), "seconds": seconds}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise ServerFailed("the raw onnxruntime process went away")
        return RawResult(call=call, **json.loads(line))

    def sweep(self, rows: tuple[int, ...], seconds: float) -> None:
        """Find the calls with the most rows a second and with the least latency for one row."""
        calls = [RawCall(n, threads, spin) for threads, spin in ((1, False), (2, False), (2, True)) for n in rows]
        self.sweep_results = [self.call(call, seconds) for call in calls]
        self.best = max(self.sweep_results, key=lambda r: r.rows_s).call
        singles = [r for r in self.sweep_results if r.call.rows == 1]
        self.fastest = min(singles, key=lambda r: r.p50_ms).call

    def turn(self, cell: Cell, seconds: float) -> Run:
        """One connection: the fastest call of one row. More: the call with the most rows a second."""
        call = self.fastest if cell.connections == 1 else self.best

        def load() -> Load:
            r = self.call(call, seconds)
            return Load(r.seconds, round(r.rows_s * r.seconds), r.p50_ms, r.p99_ms, r.max_ms)

        return observed(cell, self.name, self._process.pid, load)

    def stop(self) -> None:
        assert self._process.stdin, "opened with pipes"
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def stop_all(things: Sequence[RunningServer | RawRuntime]) -> None:
    """Stop them one after another; one that fails to stop must not keep the others running."""
    failed: list[BaseException] = []
    for thing in things:
        try:
            thing.stop()
        except Exception as e:
            failed.append(e)
    if failed:
        raise failed[0]
