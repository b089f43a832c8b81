"""What a model gives without any server. A child of the benchmark: reads calls from stdin, answers on stdout.

One JSON line in, a Call and the seconds, one out. It waits on stdin in between and uses no CPU then.

usage: python -m benchmarks.table.raw_model MODEL MODEL_FOLDER
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import Array
from benchmarks.peers import work
from benchmarks.table.running import SERVER_CORE, ServerFailed
from benchmarks.table.windows import ROOT, LoadResult, Window, observed
from benchmarks.table.workloads import ONNX_MODELS, Workload

CALLS_MIN = 3
SWEEP_S = 0.5  # for each call that is tried before the windows
DOMINATES = ("S", "M", "table", "together")  # where the model is most of the work, so that its raw speed is a limit
TOGETHER = ("S", "M", "together")  # where rows of several requests run in one call
RAW = "raw model"


@dataclass(frozen=True, slots=True)
class Call:
    rows: int
    threads: int

    def describe(self) -> str:
        return f"batch {self.rows}, {self.threads} thread{'s' * (self.threads > 1)}"


class RawModel:
    """The limit, in a process of its own that takes its turn between the servers: a machine's speed drifts."""

    name = RAW

    def __init__(self, model: str, folder: Path, *, pinned: bool) -> None:
        pin = ["taskset", "-c", SERVER_CORE] if pinned else []
        command = [*pin, sys.executable, "-m", "benchmarks.table.raw_model", model, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._model, self._threads = model, (1,) if pinned or model not in ONNX_MODELS else (1, 2)
        self.described: dict[str, str] = {}  # by workload
        self._calls: dict[str, Call] = {}

    def prepare(self, workload: Workload, seconds: float) -> None:
        """Find the call with the most rows a second; for one connection, that with the least latency."""
        rows = workload.rows[0]
        tried = [rows]
        if self._model in TOGETHER and workload.connections > 1:
            tried = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= workload.connections]
        seconds = min(seconds, SWEEP_S)
        found = [(self._measure(Call(n, threads), seconds), Call(n, threads)) for threads in self._threads for n in tried]
        _, call = max(found, key=lambda f: f[0]["rows_s"])
        self._calls[workload.name], self.described[workload.name] = call, call.describe()

    def window(self, workload: Workload, round_: int, seconds: float) -> Window:
        call = self._calls[workload.name]

        def load() -> LoadResult:
            told = self._measure(call, seconds)
            requests = round(told["rows_s"] * told["seconds"] / workload.rows[0])
            return LoadResult(told["seconds"], requests, told["p50_ms"], told["p99_ms"], told["max_ms"])

        return observed(workload.name, RAW, round_, self._process.pid, load)

    def _measure(self, call: Call, seconds: float) -> dict[str, Any]:
        """Blocks until the child has measured; the child bounds its own time."""
        assert self._process.stdin and self._process.stdout, "opened with pipes"
        print(json.dumps({**asdict(call), "seconds": seconds}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise ServerFailed("the process of the raw model went away")
        told: dict[str, Any] = json.loads(line)
        return told

    def stop(self) -> None:
        assert self._process.stdin, "opened with pipes"
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


# ---- the child -------------------------------------------------------------------------------------------------------


@cache
def _function(model: str, folder: Path, threads: int) -> Callable[[Array], object]:
    if model not in ONNX_MODELS:
        return work.predict
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that go on spinning after a call would disturb anyone who is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"x": rows})


def measure(model: str, folder: Path, rows: int, threads: int, seconds: float) -> dict[str, float]:
    """Call back to back for `seconds`, after one call that does not count."""
    one = np.load(folder / "body.npy") if model in ONNX_MODELS else np.ones((1, work.COLUMNS), np.float32)
    x, run = np.ascontiguousarray(np.repeat(one, rows, axis=0)), _function(model, folder, threads)
    run(x)
    call_s: list[float] = []
    start_s = now_s = time.perf_counter()
    while now_s < start_s + seconds or len(call_s) < CALLS_MIN:
        before_s = now_s
        run(x)
        now_s = time.perf_counter()
        call_s.append(now_s - before_s)
    elapsed_s = now_s - start_s
    return {
        "seconds": elapsed_s,
        "rows_s": rows * len(call_s) / elapsed_s,
        "p50_ms": 1e3 * statistics.median(call_s),
        "p99_ms": 1e3 * float(np.quantile(call_s, 0.99)),
        "max_ms": 1e3 * max(call_s),
    }


def main() -> None:
    model, folder = sys.argv[1], Path(sys.argv[2])
    for line in sys.stdin:
        print(json.dumps(measure(model, folder, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
