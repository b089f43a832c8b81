"""CPU a request of this tree beside another checkout's, in turn: the bar that no change may raise it by more than 5 %.

Both serve T from one machine, pinned to core 0, with wrk on core 1. Each pair runs one, then the other, the order changing.
CPU is what all processes of the tree took, sidecar and supervisor included. Prints the ratio's median and its 95 % interval by
resampling.

usage: python -m benchmarks.beside OTHER_CHECKOUT [--pairs 11] [--seconds 3] [--connections 64] [--own-heads] [--npy]
OTHER_CHECKOUT has a .venv of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import models, procs
from benchmarks.contenders import free_port

HERE = Path(__file__).parent
OWN_HEADS = HERE / "wrk_own_heads.lua"
RESAMPLES = 4000
SERVER_CORE, LOAD_CORE = 0, 1


class Served:
    """One checkout that serves."""

    def __init__(self, checkout: Path, model: Path, folder: str) -> None:
        self.port = free_port()
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("EVENKEEL_", "SAGEMAKER_", "OPENBLAS_"))}
        environ |= {"EVENKEEL_MODEL_DIR": str(model), "SAGEMAKER_BIND_TO_PORT": str(self.port), "EVENKEEL_HOST": "127.0.0.1",
                    "EVENKEEL_SIDECAR_ADDRESS": f"127.0.0.1:{free_port()}", "EVENKEEL_LOG": "json"}  # fmt: skip
        command = ["taskset", "--cpu-list", str(SERVER_CORE), str(checkout / ".venv/bin/evenkeel"), "serve"]
        with (Path(folder) / f"{self.port}.log").open("wb") as log:
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=checkout, start_new_session=True)
        end_s = time.monotonic() + 60
        ping = ["curl", "-sf", "-m", "2", f"http://127.0.0.1:{self.port}/ping"]
        while subprocess.run(ping, capture_output=True).returncode:
            assert time.monotonic() < end_s and self.process.poll() is None, f"{checkout} does not become ready"
            time.sleep(0.1)

    def cpu_s(self) -> float:
        return sum(p.cpu_s for p in procs.tree(self.process.pid))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def load(served: Served, body: Path, kind: str, arguments: argparse.Namespace, seconds: int) -> tuple[float, float]:
    """CPU in microseconds a request, and requests a second."""
    environ = os.environ | {"BODY": str(body), "CTYPE": kind, "VARY": "1" if arguments.own_heads else "0"}
    before_s = served.cpu_s()
    done = subprocess.run(
        ["taskset", "--cpu-list", str(LOAD_CORE), "wrk", "--threads", "1", "--connections", str(arguments.connections),
         "--duration", f"{seconds}s", "--latency", "--script", str(OWN_HEADS), f"http://127.0.0.1:{served.port}/invocations"],
        env=environ, capture_output=True, text=True, check=True)  # fmt: skip
    cpu_s = served.cpu_s() - before_s
    result = json.loads(done.stdout.rpartition("RESULT ")[2].splitlines()[0])
    assert result["errors"] == 0, done.stdout
    return 1e6 * cpu_s / result["requests"], 1e6 * result["requests"] / result["us"]


def interval(ratios: list[float]) -> tuple[float, float]:
    dice = random.Random(1)
    medians = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--own-heads", action="store_true", help="a trace id and an inference id of its own in each request")
    parser.add_argument("--npy", action="store_true")
    arguments = parser.parse_args()
    model = models.ensure() / "T"
    body, kind = (model / "body.npy", "application/x-npy") if arguments.npy else (model / "body.json", "application/json")
    with tempfile.TemporaryDirectory() as folder:
        sides = {"this": Served(HERE.parent, model, folder), "other": Served(arguments.other.resolve(), model, folder)}
        try:
            for side in sides.values():
                load(side, body, kind, arguments, 1)
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
            for pair in range(arguments.pairs):
                for name in sorted(sides, reverse=bool(pair % 2)):
                    found[name].append(load(sides[name], body, kind, arguments, arguments.seconds))
                this, other = found["this"][-1], found["other"][-1]
                print(
                    f"pair {pair + 1}: {this[0]:.1f} and {other[0]:.1f} us a request, ratio {this[0] / other[0]:.3f}", flush=True
                )
        finally:
            for side in sides.values():
                side.stop()
    ratios = [a[0] / b[0] for a, b in zip(found["this"], found["other"], strict=True)]
    low, high = interval(ratios)
    for name, runs in found.items():
        micros, rate = statistics.median(c for c, _ in runs), statistics.median(r for _, r in runs)
        print(f"{name}: {micros:.1f} us of CPU a request, {rate:.0f} requests/s")
    median = statistics.median(ratios)
    print(f"ratio of CPU a request: {median:.3f} ({low:.3f} to {high:.3f}, 95 %, {len(ratios)} pairs)")


if __name__ == "__main__":
    main()
