"""One window: a load of a few seconds on one contender, and what it cost the machine meanwhile."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import procs
from benchmarks.table.client import ClientPlan, ClientTally
from benchmarks.table.running import LOAD_CORE, REQUEST_S_MAX, ServerFailed
from benchmarks.table.workloads import Workload

HERE = Path(__file__).resolve().parent
OWN, FIXED = "own", "fixed"  # heads


@dataclass(frozen=True, slots=True)
class Target:
    """Where a workload is sent: a port, a path and a file of records."""

    port: int
    path: str
    records: Path


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What the thing that made the load said about one window."""

    seconds: float
    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    non2xx: int = 0
    errors: int = 0
    late_ms: float = 0.0  # of an open load, p99: how long after they were due requests were sent, by the client's own fault


@dataclass(frozen=True, slots=True)
class Window:
    """One turn of one contender. Times of the machine are in cores: CPU seconds a second."""

    workload: str
    contender: str
    round: int
    rps: float
    load: LoadResult
    cpu_us: float  # CPU of the whole tree for one request
    cpu_us_by_role: dict[str, float]
    server_cores: float
    load_cores: float
    steal_cores: float
    others_cores: float
    speed_ms: float

    @property
    def failed(self) -> int:
        return self.load.non2xx + self.load.errors

    @property
    def disturbance(self) -> float:
        """CPU that somebody else took meanwhile."""
        return self.steal_cores + self.others_cores

    def to_json(self) -> dict[str, Any]:
        return {"record": "window", **asdict(self), "disturbance": round(self.disturbance, 3)}


def observed(workload: str, contender: str, round_: int, root: int, make_load: Callable[[], LoadResult]) -> Window:
    """Run a load and read around it what it cost the tree under `root`, and what others took meanwhile."""
    children_before = _children_cpu_s()
    machine_before, cpu_before, began_s = procs.read_machine(), procs.read_cpu(root), time.monotonic()
    load = make_load()
    wall_s = time.monotonic() - began_s  # longer than the load: the client starts first
    cpu_after, machine_after = procs.read_cpu(root), procs.read_machine()
    load_s = _children_cpu_s() - children_before
    by_role = procs.cpu_between(cpu_before, cpu_after)
    server_s = sum(by_role.values())
    busy_s = machine_after.busy_s - machine_before.busy_s
    requests = max(1, load.requests)
    return Window(
        workload=workload,
        contender=contender,
        round=round_,
        rps=load.requests / load.seconds,
        load=load,
        cpu_us=1e6 * server_s / requests,
        cpu_us_by_role={role: 1e6 * cpu_s / requests for role, cpu_s in by_role.items()},
        server_cores=server_s / wall_s,
        load_cores=load_s / wall_s,
        steal_cores=(machine_after.steal_s - machine_before.steal_s) / wall_s,
        others_cores=max(0.0, busy_s - server_s - load_s) / wall_s,
        speed_ms=procs.machine_speed_ms(),
    )


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def wrk(workload: Workload, target: Target, seconds: float, *, heads: str, seed: int) -> LoadResult:
    """One wrk process with one thread: a closed loop on each connection."""
    pin = ["taskset", "-c", LOAD_CORE] if workload.pinned else []
    size = ["-t1", f"-c{workload.connections}", f"-d{max(1, round(seconds))}s"]
    options = ["--latency", f"--timeout={REQUEST_S_MAX}s", "-s", str(HERE / "wrk.lua"), f"http://127.0.0.1:{target.port}/"]
    environment = {
        **os.environ,
        "BENCH_RECORDS": str(target.records),
        "BENCH_PATH": target.path,
        "BENCH_HEADS": heads,
        "BENCH_PADS": str(workload.pads),
        "BENCH_FRESH": str(int(workload.fresh)),
        "BENCH_SEED": str(seed),
    }
    out = _child([*pin, "wrk", *size, *options], seconds, environment)
    line = next((line for line in out.splitlines() if line.startswith("WRK ")), None)
    if line is None:
        raise ServerFailed(f"wrk failed on {workload.name}: {out[-300:]}")
    told = json.loads(line[4:])
    return LoadResult(
        seconds=told["duration_us"] / 1e6,
        requests=told["requests"],
        p50_ms=told["p50_us"] / 1e3,
        p99_ms=told["p99_us"] / 1e3,
        max_ms=told["max_us"] / 1e3,
        non2xx=told["non2xx"],
        errors=told["errors"],
    )


def compared(workload: Workload, plan: ClientPlan) -> ClientTally:
    """The client that tells every different answer, as a process of its own."""
    pin = ["taskset", "-c", LOAD_CORE] if workload.pinned else []
    command = [*pin, sys.executable, "-m", "benchmarks.table.client", json.dumps(asdict(plan))]
    out = _child(command, plan.seconds, dict(os.environ))
    try:
        told = json.loads(out)
    except ValueError as e:
        raise ServerFailed(f"the client failed on {workload.name}: {out[-300:]}") from e
    return ClientTally(**{**told, "answers": [tuple(answer) for answer in told["answers"]]})


def told(tally: ClientTally) -> LoadResult:
    """An open load as the others are told."""
    latency, late = sorted(tally.latency_s) or [0.0], sorted(tally.late_s) or [0.0]
    return LoadResult(
        seconds=tally.seconds,
        requests=tally.requests,
        p50_ms=1e3 * quantile(latency, 0.5),
        p99_ms=1e3 * quantile(latency, 0.99),
        max_ms=1e3 * latency[-1],
        non2xx=tally.non2xx,
        errors=tally.errors + tally.unsent,
        late_ms=1e3 * quantile(late, 0.99),
    )


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _child(command: list[str], seconds: float, environment: dict[str, str]) -> str:
    limit_s = seconds + 40
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired as e:
        raise ServerFailed(f"the load did not end in {limit_s:.0f} s") from e
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr


ROOT = HERE.parents[1]
