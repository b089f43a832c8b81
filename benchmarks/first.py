"""The first requests after a start against those after thousands: does warm-up warm?

For each case 20 starts of evenkeel, alone on the machine. A *window* is 100 requests, one after the other, on a connection
of its own, after 50 ms in which nobody asked anything; its number is its p99, which is its second slowest request. A
*round* is /ping until it says 200, then one window of every shape of the plan. The first round is all that the server has
been asked by then. After it, on the same tree, 300 requests of each shape that do not count, and 20 more rounds: steady state.
The ratio of a start is the first window's p99 to the median p99 of the same shape's windows in those rounds; that of the
case is the median over the starts.

Steady state is measured by rounds because what came just before a window costs more than anything that is cold. A server
that answered thousands and rests for 50 ms needs 3 to 6 times as long for the next request and twice as long for the one
after it: sleeping CPUs and processes that must be woken, caches that others filled. The first requests after a start come
after a rest and after another shape, too. Windows right after a hundred requests of the same shape, as they were taken
here at first, charge some of this to the warm-up; windows without any rest (`busy`) charge all of it. The latter are told
beside.

The client's own code is warmed before, against a socket of its own that answers at once, so that what is cold is the
server's. One window says little, since its p99 is one request: judge medians over many starts, on a quiet machine.

usage: python -m benchmarks.first [--starts 20] [--case PART OF A NAME] [--evenkeel PROGRAM]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import models, procs
from benchmarks.table.dialects import Request
from benchmarks.table.ratios import DISTURBANCE_MAX, Spread
from benchmarks.table.running import RunningServer, ask
from benchmarks.table.servers import Evenkeel, versions_in
from benchmarks.table.workloads import JSON, NPY

FIRST, SETTLING = 100, 300
ROUNDS, BUSY_WINDOWS = 20, 5
REST_S = 0.05  # before each window
LENGTHS = (10, 100, 1000)  # of the model with a free dimension: three buckets
WIDTH = 8
WINE = Path(__file__).resolve().parent.parent / "model_artifacts" / "wine"


@dataclass(frozen=True, slots=True)
class Case:
    """A model and one request of each shape in its plan, by what the shape is called."""

    name: str
    folder: Path
    requests: Mapping[str, Request]


@dataclass(frozen=True, slots=True)
class FirstRequests:
    """One shape of a case. Times in microseconds, one number for each start."""

    case: str
    p99_first_us: list[float]
    p99_steady_us: list[float]
    p99_busy_us: list[float]  # as steady, but without rests and new connections
    slowest_us: list[float]  # of the first 100
    start_s: list[float]

    @property
    def ratio(self) -> Spread:
        return Spread.of([a / b for a, b in zip(self.p99_first_us, self.p99_steady_us, strict=True)])

    def to_json(self) -> dict[str, Any]:
        return {"record": "first_requests", **asdict(self), "ratio": asdict(self.ratio)}

    def describe(self) -> str:
        r = self.ratio
        first, steady, busy = median(self.p99_first_us), median(self.p99_steady_us), median(self.p99_busy_us)
        return (f"{self.case}: p99 of the first {FIRST} {first:.0f} us, steady {steady:.0f} us, ratio {r.median:.2f} "
                f"({r.least:.2f}..{r.most:.2f} of {len(self.start_s)} starts); without rests {busy:.0f} us")  # fmt: skip


def p99(times: Sequence[float]) -> float:
    """By nearest rank."""
    return sorted(times)[math.ceil(0.99 * len(times)) - 1]


def measure(server: Evenkeel, case: Case, starts: int) -> list[FirstRequests]:
    """One result for each shape. Raises ServerFailed."""
    found = {name: FirstRequests(_named(case, name), [], [], [], [], []) for name in case.requests}
    for _ in range(starts):
        procs.wait_until_quiet(DISTURBANCE_MAX, limit_s=5)
        with own_answers() as port, Client(port) as practice:
            practice.times(next(iter(case.requests.values())), FIRST)
        running = RunningServer.start(server, case.name, case.folder, pinned=False)
        try:
            port = running.job.port
            for name, times in a_round(port, case).items():
                found[name].p99_first_us.append(p99(times) * 1e6)
                found[name].slowest_us.append(max(times) * 1e6)
                found[name].start_s.append(running.start_s)
            for name, steady_s in steady_state(port, case).items():
                found[name].p99_steady_us.append(steady_s * 1e6)
                found[name].p99_busy_us.append(without_rests(port, case.requests[name]) * 1e6)
        finally:
            running.stop()
    return list(found.values())


def _named(case: Case, shape: str) -> str:
    return f"{case.name}, {shape}" if shape else case.name


def window(port: int, request: Request) -> list[float]:
    time.sleep(REST_S)
    with Client(port) as client:
        return client.times(request, FIRST)


def a_round(port: int, case: Case) -> dict[str, list[float]]:
    """Seconds of the requests of one window of each shape, in the order of the plan."""
    return {name: window(port, request) for name, request in case.requests.items()}


def steady_state(port: int, case: Case) -> dict[str, float]:
    """The median p99 of each shape's windows, over rounds like the first one."""
    for request in case.requests.values():
        with Client(port) as client:
            client.times(request, SETTLING)
    found: dict[str, list[float]] = {name: [] for name in case.requests}
    for _ in range(ROUNDS):
        ask(port, Request("GET", "/ping"))
        for name, times in a_round(port, case).items():
            found[name].append(p99(times))
    return {name: median(seconds) for name, seconds in found.items()}


def without_rests(port: int, request: Request) -> float:
    with Client(port) as client:
        client.times(request, FIRST)
        return median([p99(client.times(request, FIRST)) for _ in range(BUSY_WINDOWS)])


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
        Case("onnx, JSON, 1 row", t, {"": server.dialect.request(JSON, rows[:1])}),
        Case("onnx, NPY, 16 rows", t, {"": server.dialect.request(NPY, rows[:16])}),
    ]
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-first-") as scratch:
        place = Path(scratch)
        found.append(Case("onnx, free length", free_length(place / "free-onnx", write_onnx), of_lengths()))
        if "torch" in versions_in(server.program.with_name("python"), "torch"):
            wine = Request("POST", "/invocations", {"Content-Type": "application/json"},
                           (WINE / "samples" / "one_of_each.json").read_bytes())  # fmt: skip
            compiled = place / "wine"
            shutil.copytree(WINE, compiled)
            toml = compiled / "model.toml"
            toml.write_text("compile = true\n" + toml.read_text())
            found += [Case("torch, JSON, 3 rows", WINE, {"": wine}), Case("torch compiled, JSON, 3 rows", compiled, {"": wine})]
        else:
            notes.append("first requests: torch is not installed beside evenkeel, so only ONNX is measured")
        if importlib.util.find_spec("torch"):
            free = free_length(place / "free-torch", write_torch)
            free_compiled = free_length(place / "free-compiled", write_torch, "compile = true\n")
            found += [
                Case("torch, free length", free, of_lengths()),
                Case("torch compiled, free length", free_compiled, of_lengths()),
            ]
        else:
            notes.append("first requests: torch is not installed here, so its model with a free length is not made")
        yield found, notes


# ---- a model with a free dimension: one shape of the plan for each bucket ----------------------------------------------


def free_length(folder: Path, write: Callable[[Path], None], toml: str = "") -> Path:
    """A model of (rows, length, WIDTH) that adds along the length, so that padding with zeros changes nothing."""
    folder.mkdir()
    write(folder)
    lines = [toml + '[[inputs]]', 'name = "x"', 'dtype = "float32"', f'shape = ["rows", "length", {WIDTH}]', "pad = 0",
             "[[outputs]]", 'name = "y"', 'dtype = "float32"', 'shape = ["rows", 3]']  # fmt: skip
    for length in LENGTHS:
        (folder / f"{length}.json").write_bytes(body_of(length))
        lines += ["[[samples]]", f'input = "{length}.json"']
    (folder / "model.toml").write_text("\n".join(lines) + "\n")
    return folder


def of_lengths() -> dict[str, Request]:
    kind = {"Content-Type": "application/json"}
    return {f"length {length}": Request("POST", "/invocations", kind, body_of(length)) for length in LENGTHS}


def body_of(length: int) -> bytes:
    row = np.random.default_rng(length).random((length, WIDTH)).round(3)
    return json.dumps({"instances": [row.tolist()]}).encode()


def weights() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).random((WIDTH, 3)).astype(np.float32)


def write_onnx(folder: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "length", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3])
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0), helper.make_node("MatMul", ["sum", "w"], ["y"])]
    constants = [numpy_helper.from_array(np.array([1]), "axes"), numpy_helper.from_array(weights(), "w")]
    graph = helper.make_graph(nodes, "free", [x], [y], constants)
    opset = [helper.make_opsetid("", models.OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=models.IR_VERSION), folder / "model.onnx")


def write_torch(folder: Path) -> None:
    import torch

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.from_numpy(weights()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(1) @ self.w

    dims = {0: torch.export.Dim("rows", min=1, max=4096), 1: torch.export.Dim("length", min=2, max=65536)}
    torch.export.save(
        torch.export.export(Sum().eval(), (torch.ones(2, 16, WIDTH),), dynamic_shapes=(dims,)), folder / "model.pt2"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first")
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--case", default="", help="only those with this in their name")
    parser.add_argument("--evenkeel", default=str(Path(sys.executable).with_name("evenkeel")))
    options = parser.parse_args()
    server = Evenkeel(Path(options.evenkeel).absolute())
    with cases(server, models.ensure()) as (found, notes):
        print(*notes, sep="\n", end="\n" if notes else "")
        for case in [c for c in found if options.case in c.name]:
            for result in measure(server, case, options.starts):
                print(result.describe(), json.dumps({k: v for k, v in result.to_json().items() if k != "record"}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
