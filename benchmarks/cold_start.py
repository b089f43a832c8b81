"""`docker run` to the first 200, from outside: python -m benchmarks.cold_start [--runs 10] [--image evenkeel:cpu] [--cpus 2]

A tiny ONNX model (model_artifacts/digits), read-only root, no capabilities. The clock starts before `docker run` is called, so
the container tool's own time counts, and stops with the first 200 on /ping, asked every 10 ms. Beside it, an empty container
of the same image (`python -c ''`), so that the tool's share can be told. Prints one line a run, then median and range.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import socket
import statistics
import subprocess
import time
from pathlib import Path

MODEL = Path(__file__).resolve().parents[1] / "model_artifacts" / "digits"
GIVE_UP_S = 60.0
WALLS = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--shm-size", "64m")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def first_200_s(image: str, cpus: str, *more: str) -> float:
    """Seconds from calling `docker run` to the first 200. Raises TimeoutError."""
    port, name = free_port(), f"evenkeel-cold-{free_port()}"
    command = ["docker", "run", "--detach", "--name", name, "--cpus", cpus, *WALLS, *more]
    command += ["--volume", f"{MODEL}:/opt/ml/model:ro", "--publish", f"127.0.0.1:{port}:8080", image, "serve"]
    begun_s = time.monotonic()
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.monotonic() - begun_s < GIVE_UP_S:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
                connection.request("GET", "/ping")
                if connection.getresponse().status == 200:
                    return time.monotonic() - begun_s
            time.sleep(0.01)
        raise TimeoutError(f"no 200 within {GIVE_UP_S:g} s: docker logs {name}")
    finally:
        started.wait()
        subprocess.run(["docker", "rm", "--force", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def empty_s(image: str, cpus: str) -> float:
    begun_s = time.monotonic()
    command = ["docker", "run", "--rm", "--cpus", cpus, *WALLS, "--entrypoint", "python", image, "-c", ""]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begun_s


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--image", default="evenkeel:cpu")
    parser.add_argument("--cpus", default="2")
    asked = parser.parse_args()
    runs, empty = [], []
    for _ in range(asked.runs):
        empty.append(empty_s(asked.image, asked.cpus))
        runs.append(first_200_s(asked.image, asked.cpus))
        print(f"first 200 after {runs[-1]:.2f} s; an empty container took {empty[-1]:.2f} s", flush=True)
    for what, found in (("first 200", runs), ("an empty container", empty)):
        print(f"{what}: median {statistics.median(found):.2f} s, {min(found):.2f} to {max(found):.2f} s, {len(found)} runs")


if __name__ == "__main__":
    main()
