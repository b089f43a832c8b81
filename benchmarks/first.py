"""The first requests after a start against those after thousands: does warm-up warm?

For each case several starts of evenkeel, alone on the machine. As soon as /ping says 200 one client, on one connection,
sends 100 requests one after the other; then, on the same tree, 300 that do not count and 20 blocks of 100. The ratio of a
start is the p99 of its first 100 to the median of the p99s of its 20 steady blocks: the same estimator on the same number
of requests, for the p99 of 100 is their second slowest. The client's own code is warmed before, against a socket of its
own that answers at once, so that what is cold is the server's.

usage: python -m benchmarks.first [--starts 5] [--evenkeel PROGRAM]
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import models, procs
from benchmarks.contenders import RunningServer
from benchmarks.servers import JSON, NPY, Evenkeel, Request
from benchmarks.summary import DISTURBANCE_MAX, Spread

FIRST, SETTLING, BLOCKS = 100, 300, 20
WINE = Path(__file__).resolve().parent.parent / "model_artifacts" / "wine"


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    folder: Path
    request: Request


@dataclass(frozen=True, slots=True)
class FirstRequests:
    """One case. Times in microseconds, one number for each start."""

    case: str
    p99_first_us: list[float]
    p99_steady_us: list[float]
    slowest_us: list[float]  # of the first 100
    start_s: list[float]

    @property
    def ratio(self) -> Spread:
        return Spread.of([a / b for a, b in zip(self.p99_first_us, self.p99_steady_us, strict=True)])

    def to_json(self) -> dict[str, Any]:
        return {"record": "first_requests", **asdict(self), "ratio": asdict(self.ratio)}

    def describe(self) -> str:
        r = self.ratio
        first, steady = median(self.p99_first_us), median(self.p99_steady_us)
        return (f"{self.case}: p99 of the first {FIRST} {first:.0f} us, steady {steady:.0f} us, ratio {r.median:.2f} "
                f"({r.least:.2f}..{r.most:.2f} of {len(self.start_s)} starts)")  # fmt: skip


def p99(times: Sequence[float]) -> float:
    """By nearest rank."""
    return sorted(times)[math.ceil(0.99 * len(times)) - 1]


def measure(server: Evenkeel, case: Case, starts: int) -> FirstRequests:
    """Raises ServerFailed."""
    first: list[float] = []
    steady: list[float] = []
    slowest: list[float] = []
    start_s: list[float] = []
    for _ in range(starts):
        procs.wait_until_quiet(DISTURBANCE_MAX, limit_s=5)
        with own_answers() as port, Client(port) as practice:
            practice.times(case.request, FIRST)
        running = RunningServer.start(server, case.name, case.folder, pinned=False)
        try:
            with Client(running.job.port) as client:
                times = client.times(case.request, FIRST)
                client.times(case.request, SETTLING)
                blocks = [p99(client.times(case.request, FIRST)) for _ in range(BLOCKS)]
        finally:
            running.stop()
        first.append(p99(times) * 1e6)
        slowest.append(max(times) * 1e6)
        steady.append(median(blocks) * 1e6)
        start_s.append(running.start_s)
    return FirstRequests(case.name, first, steady, slowest, start_s)


class Client:
    """One connection; a request is sent in one piece, and its answer read to the end."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), 30)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *unused: object) -> None:
        self._sock.close()

    def times(self, request: Request, count: int) -> list[float]:
        head = [f"{request.method} {request.path} HTTP/1.1", "Host: bench", f"Content-Length: {len(request.body)}"]
        head += [f"{name}: {value}" for name, value in request.headers.items()]
        data = "\r\n".join(head).encode() + b"\r\n\r\n" + request.body
        took = []
        for _ in range(count):
            start = time.perf_counter()
            self._ask(data)
            took.append(time.perf_counter() - start)
        return took

    def _ask(self, data: bytes) -> None:
        self._sock.sendall(data)
        answer = self._sock.recv(1 << 16)
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._more()
        if not answer.startswith(b"HTTP/1.1 200"):
            raise OSError(f"not answered with 200: {answer[:300]!r}")
        size = int(answer[:end].lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(answer) < end + 4 + size:
            answer += self._more()

    def _more(self) -> bytes:
        data = self._sock.recv(1 << 16)
        if not data:
            raise OSError("the server closed the connection")
        return data


@contextmanager
def own_answers() -> Iterator[int]:
    """A port behind which every read is answered with a small 200."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while connection.recv(1 << 20):
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


@contextmanager
def cases(server: Evenkeel, folder: Path) -> Iterator[tuple[list[Case], list[str]]]:
    """What is measured, and notes on what cannot be here. `folder` holds the benchmark's own models."""
    t = folder / "T"
    rows = np.load(t / "rows.npy")
    found = [
        Case("onnx, JSON, 1 row", t, server.request(JSON, rows[:1])),
        Case("onnx, NPY, 16 rows", t, server.request(NPY, rows[:16])),
    ]
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-first-") as scratch:
        if "torch" in server.versions():
            wine = Request("POST", "/invocations", {"Content-Type": "application/json"},
                           (WINE / "samples" / "one_of_each.json").read_bytes())  # fmt: skip
            compiled = Path(scratch) / "wine"
            shutil.copytree(WINE, compiled)
            toml = compiled / "model.toml"
            toml.write_text("compile = true\n" + toml.read_text())
            found += [Case("torch, JSON, 3 rows", WINE, wine), Case("torch compiled, JSON, 3 rows", compiled, wine)]
        else:
            notes.append("first requests: torch is not installed beside evenkeel, so only ONNX is measured")
        yield found, notes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--evenkeel", default=str(Path(sys.executable).with_name("evenkeel")))
    options = parser.parse_args()
    server = Evenkeel(Path(options.evenkeel).absolute())
    with cases(server, models.ensure()) as (found, notes):
        print(*notes, sep="\n", end="\n" if notes else "")
        for case in found:
            result = measure(server, case, options.starts)
            print(result.describe(), json.dumps({k: v for k, v in result.to_json().items() if k != "record"}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
