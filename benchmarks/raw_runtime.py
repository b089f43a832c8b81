"""What ONNX Runtime gives without any server. A child of the benchmark: reads calls from stdin, answers on stdout.

One JSON line in, {"rows", "threads", "spin", "seconds"}, one out. It waits on stdin in between and uses no CPU then.

usage: python -m benchmarks.raw_runtime MODEL_FOLDER
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
CALLS_MIN = 3


@cache
def session(threads: int, spin: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    # Threads that go on spinning after a call would disturb whoever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(str(FOLDER / "model.onnx"), options, providers=["CPUExecutionProvider"])


def measure(rows: int, threads: int, spin: bool, seconds: float) -> dict[str, float]:
    """Call back to back for `seconds`, after one call that does not count."""
    x = np.ascontiguousarray(np.repeat(np.load(FOLDER / "body.npy"), rows, axis=0))
    run = session(threads, spin).run
    run(None, {"x": x})
    call_s: list[float] = []
    start_s = now_s = time.perf_counter()
    while now_s < start_s + seconds or len(call_s) < CALLS_MIN:
        before_s = now_s
        run(None, {"x": x})
        now_s = time.perf_counter()
        call_s.append(now_s - before_s)
    elapsed_s = now_s - start_s
    return {
        "seconds": elapsed_s,
        "calls": len(call_s),
        "rows_s": rows * len(call_s) / elapsed_s,
        "p50_ms": 1e3 * statistics.median(call_s),
        "p99_ms": 1e3 * float(np.quantile(call_s, 0.99)),
        "max_ms": 1e3 * max(call_s),
    }


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
