"""One bounded run on a machine with a GPU: right answers, speed beside the bare model, faults under load. Under 8 minutes.

    python -m benchmarks.gpu              on the machine with the card, from the source tree: nothing has to be installed but
                                          torch and what serve/front needs
    python -m benchmarks.gpu --dry-run    the same story with tiny models, on a CPU too; its figures mean nothing

Writes benchmarks/results/gpu-<date>-<commit>.md. What could not be measured, or for which no time was left, stays blank. The
model runs by itself in a process of its own (gpu_models.py), and the load comes from processes that know no framework.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CNN, ENCODER = "cnn", "encoder"
UNITS = {CNN: "images", ENCODER: "words"}
BARS = {CNN: 0.90, ENCODER: 0.85}  # of the bare model's rate
ALONE_S_MORE = 0.0003
BACK_S_MAX = 10.0
TOTAL_S = 450.0
START_S = 120.0
RTOL = 0.02  # of the largest value of an answer: bfloat16, and another batch size may mean another algorithm
NO_WORD = 10**6  # outside the encoder's vocabulary: on a card a device assert, on a CPU an error of the request


@dataclass(slots=True)
class Load:
    """What one load met. `refused`: 429 and 503, which a client is told to repeat; `lost`: everything else that is no 200."""

    seconds: float = 0.0
    units: int = 0
    right: int = 0
    refused: int = 0
    lost: int = 0
    latency_s: list[float] = field(default_factory=list)
    longest_gap_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. None: not measured."""

    what: str
    measured: str | None
    limit: str | None
    bar: str
    met: bool | None


# ---- pure ------------------------------------------------------------------------------------------------------------


def best_rate(rates: Mapping[str, Mapping[str, float]]) -> float:
    """Units a second of the model alone, over all lengths in equal numbers of requests, each at its best batch."""
    units = sum(int(length) for length in rates)
    return units / sum(int(length) / max(sizes.values()) for length, sizes in rates.items())


def quantile(values: Sequence[float], share: float) -> float | None:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None


def together(loads: Sequence[Load]) -> Load:
    """Of several processes that ran at the same time."""
    found = Load()
    for each in loads:
        found.seconds = max(found.seconds, each.seconds)
        found.units, found.right = found.units + each.units, found.right + each.right
        found.refused, found.lost = found.refused + each.refused, found.lost + each.lost
        found.latency_s += each.latency_s
        found.longest_gap_s = max(found.longest_gap_s, each.longest_gap_s)
    return found


def speed(work: str, load: Load | None, rates: Mapping[str, Mapping[str, float]] | None) -> Row:
    rate = load.units / load.seconds if load and load.seconds else None
    limit = best_rate(rates) if rates else None
    p99_s = quantile(load.latency_s, 0.99) if load else None
    words = None if rate is None or p99_s is None else f"{rate:,.0f} {UNITS[work]}/s, p99 {1000 * p99_s:.1f} ms"
    met = None if rate is None or limit is None else rate >= BARS[work] * limit
    if met and work == ENCODER:
        met = p99_s is not None and p99_s <= 0.05
    return Row(f"{work}, many connections", words, None if limit is None else f"{limit:,.0f} {UNITS[work]}/s",
               f"at least {BARS[work]:.2f} of it" + (", p99 at most 50 ms" if work == ENCODER else ""), met)  # fmt: skip


def alone(work: str, load: Load | None, alone_s: float | None) -> Row:
    p50_s = quantile(load.latency_s, 0.5) if load else None
    met = None if p50_s is None or alone_s is None else p50_s <= alone_s + ALONE_S_MORE
    return Row(f"{work}, one request at a time", None if p50_s is None else f"p50 {1000 * p50_s:.2f} ms",
               None if alone_s is None else f"{1000 * alone_s:.2f} ms", "at most 0.3 ms more", met)  # fmt: skip


def fault(what: str, load: Load | None, back_s: float | None, mine: int = 0) -> Row:
    """`mine`: requests that were to fail."""
    lost = None if load is None else max(0, load.lost - mine)
    words = None if lost is None else f"{lost} of {load.right + load.lost if load else 0} lost"
    if words and back_s is not None:
        words += f", back in {back_s:.1f} s"
    met = None if lost is None or back_s is None else lost == 0 and back_s <= BACK_S_MAX
    return Row(what, words, None, f"0 lost, back within {BACK_S_MAX:g} s", met)


def markdown(title: str, facts: Sequence[tuple[str, str]], rows: Sequence[Row], notes: Sequence[str]) -> str:
    words = {True: "yes", False: "**no**", None: ""}
    lines = [f"# {title}", "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts), "",
             "| work | measured | the bare model | bar | met? |", "|---|---|---|---|---|"]  # fmt: skip
    lines += [f"| {r.what} | {r.measured or ''} | {r.limit or ''} | {r.bar} | {words[r.met]} |" for r in rows]
    return "\n".join([*lines, "", "An empty cell was not measured.", "", *(f"- {n}" for n in notes)]) + "\n"


# ---- the load --------------------------------------------------------------------------------------------------------


def request(body: bytes) -> bytes:
    mime = "application/x-npy"
    head = f"POST /invocations HTTP/1.1\r\nHost: gpu\r\nContent-Type: {mime}\r\nAccept: {mime}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def ask(wire: socket.socket, data: bytes) -> tuple[int, bytes]:
    """Status and body. Raises OSError when the connection ends."""
    wire.sendall(data)
    got = bytearray()
    while (end := got.find(b"\r\n\r\n")) < 0:
        _more(wire, got)
    head = got[:end].decode("latin-1").lower()
    length = int(head.partition("content-length:")[2].split("\r\n", 1)[0])
    while len(got) < end + 4 + length:
        _more(wire, got)
    return int(head.split(" ", 2)[1]), bytes(got[end + 4 :])


def _more(wire: socket.socket, got: bytearray) -> None:
    part = wire.recv(1 << 18)
    if not part:
        raise ConnectionResetError("the server closed the connection")
    got += part


def client(port: int, folder: Path, seconds: float, connections: int) -> Load:
    """A closed loop: each connection sends as soon as it has its answer."""
    probes = [np.load(p) for p in sorted((folder / "probes").glob("*.x.npy"))]
    made = [(request(npy(x)), x.shape[1] if x.ndim == 2 else 1) for x in probes]
    load, lock, end_s = Load(seconds=seconds), threading.Lock(), time.monotonic() + seconds

    def one(number: int) -> None:
        wire: socket.socket | None = None
        last_s = time.monotonic()
        while time.monotonic() < end_s:
            data, units = made[number % len(made)]
            number += 1
            begun_s = time.monotonic()
            try:
                if wire is None:
                    wire = socket.create_connection(("127.0.0.1", port), 30)
                status, _ = ask(wire, data)
            except OSError:
                wire, status = None, 0
            now_s = time.monotonic()
            with lock:
                if status == 200:
                    load.right, load.units = load.right + 1, load.units + units
                    load.latency_s.append(now_s - begun_s)
                    load.longest_gap_s, last_s = max(load.longest_gap_s, now_s - last_s), now_s
                elif status in (429, 503):
                    load.refused += 1
                else:
                    load.lost += 1
            if status != 200:
                time.sleep(0.02)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(connections)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return load


@contextlib.contextmanager
def loaded(port: int, folder: Path, seconds: float, processes: int, connections: int) -> Any:
    """Clients of their own processes; gives a function that waits for them."""
    plan = json.dumps([port, str(folder), seconds, connections])
    children = [subprocess.Popen([sys.executable, "-m", "benchmarks.gpu", "--client", plan], cwd=ROOT, stdout=subprocess.PIPE)
                for _ in range(processes)]  # fmt: skip

    def wait() -> Load:
        return together([Load(**json.loads(child.communicate(timeout=seconds + 60)[0])) for child in children])

    try:
        yield wait
    finally:
        for child in children:
            child.kill()
            child.wait()


# ---- the server ------------------------------------------------------------------------------------------------------


class Server:
    """`evenkeel serve` from the source tree."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.port, self.side = _free_port(), _free_port()
        self.tmp = Path(tempfile.mkdtemp(prefix="ekg-"))
        ours = {"EVENKEEL_MODEL_DIR": str(folder), "SAGEMAKER_BIND_TO_PORT": str(self.port), "TMPDIR": str(self.tmp),
                "EVENKEEL_SIDECAR_ADDRESS": f"127.0.0.1:{self.side}", "EVENKEEL_QUIET_S": "0", **settings}  # fmt: skip
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("EVENKEEL_", "SAGEMAKER_"))}
        with (self.tmp / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "container", "serve"], cwd=ROOT, env={**kept, **ours}, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip

    def __enter__(self) -> Server:
        end_s = time.monotonic() + START_S
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end_s:
                said = self.said()
                self.__exit__()
                raise RuntimeError(f"the server did not start: {said}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        shutil.rmtree(self.tmp, ignore_errors=True)

    def said(self) -> str:
        return (self.tmp / "log").read_text(errors="replace")[-1500:]

    def ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5) as reply:
            return bool(reply.status == 200)
        return False

    def replica(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.side}/status", timeout=10) as reply:
            found: dict[str, Any] = json.load(reply)["replicas"][0]
        return found

    def back_s(self, old_pid: int, limit_s: float = 60.0) -> float | None:
        """Until another engine answers; from now."""
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < limit_s:
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
                replica = self.replica()
                if replica["pid"] not in (0, old_pid) and str(replica["state"]).upper() == "READY":
                    return time.monotonic() - begun_s
            time.sleep(0.05)
        return None

    def ask(self, array: Any) -> tuple[int, bytes]:
        with socket.create_connection(("127.0.0.1", self.port), 60) as wire:
            return ask(wire, request(npy(array)))


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# ---- the story -------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    folder: Path
    tiny: bool
    end_s: float
    processes: int
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def all(self) -> None:
        for work in (CNN, ENCODER):
            self.one(work)

    def one(self, work: str) -> None:
        folder = self.folder / work
        made = self.stage(f"{work}: made", lambda: self.model("make", work) or True)
        bare = self.stage(f"{work}: bare", lambda: json.loads(self.model("bare", work))) if made else None
        found: dict[str, Any] = {}
        if made:
            self.stage(f"{work}: served", lambda: self.served(work, folder, found))
            self.stage(f"{work}: out of memory", lambda: self.short(work, folder, found))
        rates = bare["rates"] if bare else None
        right = found.get("right")
        self.rows += [
            Row(f"{work}, answers as the bare model gives them", None if right is None else f"{right[0]} of {right[1]}", None,
                f"within {RTOL:g} of the largest value", None if right is None else right[0] == right[1]),
            alone(work, found.get("alone"), bare["alone_s"] if bare else None),
            speed(work, found.get("many"), rates),
            fault(f"{work}, `kill -9` of the engine under load", found.get("killed"), found.get("killed_back_s")),
        ]  # fmt: skip
        if work == ENCODER:
            self.rows.append(
                fault("encoder, device assert by a word that is none", found.get("assert"), found.get("assert_back_s"))
            )
        self.rows.append(
            fault(f"{work}, out of memory (EVENKEEL_FAULTS) under load", found.get("short"), found.get("short_back_s"))
        )

    def stage(self, what: str, do: Callable[[], Any]) -> Any:
        """None, and a note, when it fails or no time is left: the rest goes on."""
        if time.monotonic() > self.end_s:
            self.notes.append(f"{what}: no time was left")
            return None
        print(what, file=sys.stderr, flush=True)
        try:
            return do()
        except (OSError, RuntimeError, ValueError, KeyError, subprocess.SubprocessError) as e:
            self.notes.append(f"{what}: {type(e).__name__}: {' '.join(str(e).split())[-300:]}")
            return None

    def model(self, what: str, work: str) -> str:
        more = ["--tiny"] if self.tiny else []
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu_models", what, work, str(self.folder / work), *more], cwd=ROOT, check=True,
            stdout=subprocess.PIPE, text=True, timeout=max(1.0, self.end_s - time.monotonic())).stdout  # fmt: skip

    def load(self, server: Server, folder: Path, seconds: float, each: int) -> Any:
        return loaded(server.port, folder, seconds, self.processes, each)

    def served(self, work: str, folder: Path, found: dict[str, Any]) -> None:
        seconds, each = (2.0, 2) if self.tiny else (12.0, 32)
        with Server(folder) as server:
            found["right"] = self.right(server, folder)
            found["alone"] = client(server.port, folder, seconds / 3, 1)
            with self.load(server, folder, seconds, each) as wait:
                found["many"] = wait()
            with self.load(server, folder, seconds + 3, max(1, each // 2)) as wait:
                time.sleep(1.0 + seconds / 4)
                pid = int(server.replica()["pid"])
                os.kill(pid, signal.SIGKILL)
                found["killed_back_s"] = server.back_s(pid)
                found["killed"] = wait()
            if work == ENCODER:
                with self.load(server, folder, seconds + 3, max(1, each // 2)) as wait:
                    time.sleep(1.0 + seconds / 4)
                    pid = int(server.replica()["pid"])
                    status, _ = server.ask(np.full((1, 16), NO_WORD))
                    self.notes.append(f"a word that is none was told {status}")
                    found["assert_back_s"] = server.back_s(pid) if int(server.replica()["pid"]) != pid else 0.0
                    found["assert"] = wait()

    def short(self, work: str, folder: Path, found: dict[str, Any]) -> None:
        seconds, each = (2.0, 2) if self.tiny else (6.0, 16)
        with Server(folder, EVENKEEL_FAULTS="oom:at=20") as server:
            pid = int(server.replica()["pid"])
            with self.load(server, folder, seconds, each) as wait:
                found["short"] = wait()
            found["short_back_s"] = 0.0 if int(server.replica()["pid"]) == pid else None

    def right(self, server: Server, folder: Path) -> tuple[int, int]:
        right, probes = 0, sorted((folder / "probes").glob("*.x.npy"))
        for probe in probes:
            status, body = server.ask(np.load(probe))
            want = np.load(probe.with_name(probe.name.replace(".x.", ".y.")))
            got = np.load(io.BytesIO(body)) if status == 200 else None
            right += got is not None and got.shape == want.shape and bool(np.abs(got - want).max() <= RTOL * np.abs(want).max())
        return right, len(probes)


def facts(tiny: bool) -> list[tuple[str, str]]:
    code = ("import torch;c=torch.cuda;print(torch.__version__,torch.version.cuda,"
            "c.get_device_name(0) if c.is_available() else 'none: the CPU',sep='|')")  # fmt: skip
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    version, cuda, card = said.strip().split("|")
    driver = Path("/proc/driver/nvidia/version")
    return [
        ("card", card),
        ("driver", driver.read_text().splitlines()[0] if driver.exists() else ""),
        ("torch", f"{version}, CUDA {cuda}"),
        ("Python", platform.python_version()),
        ("cores", str(len(os.sched_getaffinity(0)))),
        ("commit", commit()),
        ("models", "tiny: these figures mean nothing" if tiny else "of ResNet-50's and BERT-base's size, bf16, seeded weights"),
        ("load", "closed loop, NPY bodies; client processes on the same machine"),
    ]


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return found or "uncommitted"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--dry-run", action="store_true", help="tiny models, whatever there is to run them")
    parser.add_argument("--out", type=Path, help="the file to write; a dry run writes none otherwise")
    parser.add_argument("--processes", type=int, default=0, help="of clients; default: half of the cores, at most 8")
    parser.add_argument("--client", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.client:
        port, folder, seconds, connections = json.loads(args.client)
        load = client(port, Path(folder), seconds, connections)
        json.dump({name: getattr(load, name) for name in Load.__dataclass_fields__}, sys.stdout)
        return 0
    with tempfile.TemporaryDirectory(prefix="ekg-") as folder:
        processes = args.processes or min(8, max(1, len(os.sched_getaffinity(0)) // 2))
        run = Run(Path(folder), args.dry_run, time.monotonic() + TOTAL_S, processes)
        run.all()
    text = markdown(f"GPU, {date.today()}", facts(args.dry_run), run.rows, run.notes)
    out = args.out or (None if args.dry_run else HERE / "results" / f"gpu-{date.today()}-{commit()}.md")
    if out is not None:
        out.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
