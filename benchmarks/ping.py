"""`make bench-ping`: is /ping answered, and is a connect accepted, while engines are saturated or hang? About two minutes.

The story: one real tree with a Python handler, an engine for every core and a short queue. First idle; then more clients than
the queue holds, so that it stays full and the rest is refused with 429; then a request in every engine that computes in pure
Python for 30 s and never lets go of its interpreter; then 512 new connections a second, idle and with the queue full. All the
while other processes ping. Writes benchmarks/results/ping-<date>-<commit>.md.

usage: python -m benchmarks.ping [--out FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import procs
from benchmarks.facts import commit
from benchmarks.ping_clients import FRESH_EVERY_S, LOAD_CONNECTIONS, PING_EVERY_S, STORM_PER_S

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
EVENKEEL = Path(sys.executable).with_name("evenkeel")
QUEUE_ROWS = 64
ENGINES = os.cpu_count() or 1  # so that they leave no core to anybody else
PING_BAR_S, CONNECT_BAR_S = 0.050, 0.250
SETTLE_S = 1.5  # from the start of the load until the queue is full
START_S_MAX = 60.0
HANDLER = """
import time

def model_fn(model_dir):
    return None

def predict_fn(data, model):
    # Pure Python, so that it never lets go of the interpreter; the first number says for how many seconds.
    until = time.perf_counter() + float(data[0][0]) if data[0][0] > 1 else time.perf_counter() + 0.01
    while time.perf_counter() < until:
        pass
    return data
"""


@dataclass(frozen=True)
class Plan:
    idle_s: float = 8.0
    full_s: float = 25.0
    hold_s: float = 30.0
    storm_s: float = 10.0


@dataclass
class Phase:
    """What the clients of one phase found, and what shows that it was what it says."""

    name: str
    clients: dict[str, Any]
    proof: str
    disturbed: str = ""


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int
    side: int

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.side}/status", timeout=10) as reply:
            found: dict[str, Any] = json.load(reply)
            return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ping")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--quick", action="store_true", help="a fifth of the time: to try the benchmark, not to report")
    options = parser.parse_args()
    plan = Plan(2, 5, 6, 2) if options.quick else Plan()
    with serving() as server:
        phases = list(measure(server, plan))
    text = report(phases, plan)
    stem = f"ping-{date.today().isoformat()}-{commit()}" + ("-quick" if options.quick else "")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{stem}.md").write_text(text)
    say(f"written to {options.out / stem}.md\n")
    print(text)
    return 0 if all(ok for *_, ok in bars(phases)) else 1


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


@contextmanager
def serving() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="ekp-") as scratch:
        code = Path(scratch) / "model/code"
        code.mkdir(parents=True)
        (code / "inference.py").write_text(HANDLER)
        port, side = free_port(), free_port()
        settings = {"EVENKEEL_MODEL_DIR": str(code.parent), "SAGEMAKER_BIND_TO_PORT": str(port), "EVENKEEL_HOST": "127.0.0.1",
                    "EVENKEEL_SIDECAR_ADDRESS": f"127.0.0.1:{side}", "EVENKEEL_QUEUE_ROWS": str(QUEUE_ROWS),
                    "EVENKEEL_REPLICAS": str(ENGINES), "EVENKEEL_THREADS": "1"}  # fmt: skip
        log = (Path(scratch) / "log").open("wb")
        process = subprocess.Popen([str(EVENKEEL), "serve"], env={**os.environ, **settings}, stdout=log, stderr=log, cwd=ROOT)
        try:
            wait_ready(process, port, Path(scratch) / "log")
            yield Server(process, port, side)
        finally:
            process.terminate()
            process.wait(40)
            log.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end_s = time.monotonic() + START_S_MAX
    while time.monotonic() < end_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"it did not get ready:\n{log.read_text()[-2000:]}")


# ---- phases ----------------------------------------------------------------------------------------------------------


def measure(server: Server, plan: Plan) -> Iterator[Phase]:
    yield watched("idle", server, plan.idle_s, ("kept", "new"))
    yield full(f"queue full, {LOAD_CONNECTIONS} clients", server, plan.full_s, ("kept", "new"))
    yield held(server, plan.hold_s)
    yield watched(f"{STORM_PER_S} new connections a second, idle", server, plan.storm_s, ("kept", "storm"))
    yield full(f"{STORM_PER_S} new connections a second, queue full", server, plan.storm_s, ("kept", "storm"))


def watched(name: str, server: Server, seconds: float, kinds: Sequence[str], proof: str = "") -> Phase:
    say(f"{name}: {seconds:g} s")
    machine, cpu, began_s = procs.read_machine(), procs.read_cpu(server.process.pid), time.monotonic()
    clients = clients_of(server, seconds, kinds)
    took_s = time.monotonic() - began_s
    used = procs.cpu_between(cpu, procs.read_cpu(server.process.pid))
    after = procs.read_machine()
    cores = ", ".join(f"{role} {s / took_s:.2f}" for role, s in sorted(used.items()) if s / took_s >= 0.005)
    busy = (after.busy_s - machine.busy_s) / took_s
    steal = (after.steal_s - machine.steal_s) / took_s
    return Phase(name, clients, proof, f"cores of the server: {cores or 'none'}; of the machine {busy:.2f}, steal {steal:.2f}")


def clients_of(server: Server, seconds: float, kinds: Sequence[str]) -> dict[str, Any]:
    running = {kind: start_client(kind, server.port, seconds) for kind in kinds}
    return {kind: json.loads(client.communicate(timeout=seconds + 100)[0]) for kind, client in running.items()}


def start_client(kind: str, port: int, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.ping_clients", kind, str(port), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def full(name: str, server: Server, seconds: float, kinds: Sequence[str]) -> Phase:
    """With as many clients as keep the queue full from the first ping to the last."""
    load = start_client("load", server.port, seconds + 2 * SETTLE_S + 1)
    time.sleep(SETTLE_S)
    before = waiting(server)
    phase = watched(name, server, seconds, kinds)
    after = waiting(server)
    statuses = json.loads(load.communicate(timeout=60)[0])["statuses"]
    answers = ", ".join(f"{n} times {status}" for status, n in sorted(statuses.items()))
    phase.proof = f"{before} and {after} of {QUEUE_ROWS} rows held at its start and end; the clients were answered {answers}"
    if set(statuses) != {"200", "429"}:
        raise SystemExit(f"{name}: some must be answered and some refused, and nothing else happen: {statuses}")
    return phase


def waiting(server: Server) -> int:
    return sum(front["in_flight"] for front in server.status()["fronts"])


def held(server: Server, seconds: float) -> Phase:
    """Every engine holds its interpreter, from before the first ping to after the last."""
    held_s = seconds + 2 + 0.5 * ENGINES
    body = json.dumps([[held_s]])
    command = [sys.executable, "-c", HOLDER, str(server.port), body]
    asking = []
    for _ in range(ENGINES):
        asking.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        time.sleep(0.5)  # so that the next one finds this engine busy and goes to another
    phase = watched(f"every engine's interpreter held for {seconds:g} s", server, seconds, ("kept", "new"))
    if any(client.poll() is not None for client in asking):
        raise SystemExit("an engine was free again before the last ping")
    answers = [json.loads(client.communicate(timeout=90)[0]) for client in asking]
    if any(status != 200 or took_s > held_s + 8 for status, took_s in answers):
        raise SystemExit(f"not every engine was held at once: {answers}")
    took = ", ".join(f"{took_s:.1f} s" for _, took_s in answers)
    phase.proof = f"{ENGINES} requests in pure Python, one in each engine, were answered after {took}; the pings lie within them"
    return phase


HOLDER = """
import json, sys, time, urllib.request
url, body, began_s = f"http://127.0.0.1:{sys.argv[1]}/invocations", sys.argv[2].encode(), time.monotonic()
request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=60) as reply:
    print(json.dumps([reply.status, time.monotonic() - began_s]))
"""


# ---- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Of some times, in milliseconds."""

    n: int
    p50: float
    p99: float
    p999: float
    most: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Spread:
        ms = sorted(1e3 * s for s in seconds)
        return Spread(len(ms), *(ms[min(len(ms) - 1, int(q * len(ms)))] for q in (0.5, 0.99, 0.999, 1.0)))

    def cells(self) -> list[str]:
        return [str(self.n), *(f"{v:.2f}" for v in (self.p50, self.p99, self.p999, self.most))]


TIMES_HEAD = ("phase", "what", "n", "p50", "p99", "p99.9", "max")
NAMES = {"kept": "ping, kept-alive", "new": "ping, new connection", "storm": "ping, new connection"}


def rows(phases: Sequence[Phase]) -> Iterator[tuple[str, str, Spread, float]]:
    """Phase, what, times, and the share of answers with 200."""
    for phase in phases:
        for kind, found in phase.clients.items():
            answers = sum(found["statuses"].values())
            good = found["statuses"].get("200", 0) / max(1, answers)
            yield phase.name, NAMES[kind], Spread.of(found["answer_s"]), good
            if found["connect_s"]:
                yield phase.name, "connect", Spread.of(found["connect_s"]), good


def bars(phases: Sequence[Phase]) -> list[tuple[str, str, str, bool]]:
    """Phase, bar, found, met."""
    found = []
    for name, what, spread, good in rows(phases):
        if what != "connect":
            said = f"{spread.p99:.1f} ms, {100 * good:g} %"
            ok = spread.p99 < 1e3 * PING_BAR_S and good == 1
            found.append((name, f"{what}: p99 under {1e3 * PING_BAR_S:g} ms, all 200", said, ok))
        elif str(STORM_PER_S) in name:
            ok = spread.most <= 1e3 * CONNECT_BAR_S and good == 1
            found.append((name, f"every connect within {1e3 * CONNECT_BAR_S:g} ms", f"{spread.most:.1f} ms", ok))
    return found


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)]


def report(phases: Sequence[Phase], plan: Plan) -> str:
    verdicts = bars(phases)
    late = [s for phase in phases for found in phase.clients.values() for s in found["late_s"]]
    return "\n".join([
        f"# /ping under load, {date.today().isoformat()}, {commit()}",
        "",
        f"{sum(ok for *_, ok in verdicts)} of {len(verdicts)} bars are met.",
        "",
        *table(("phase", "bar", "found", "met"), [(a, b, c, "yes" if ok else "**no**") for a, b, c, ok in verdicts]),
        "",
        "Milliseconds, as a client on the same machine sees them. A ping on a new connection is timed from the connect on.",
        "",
        *table(TIMES_HEAD, [(name, what, *s.cells()) for name, what, s, _ in rows(phases)]),
        "",
        "| phase | what shows it, and who used the cores |",
        "|---|---|",
        *(f"| {p.name} | {'; '.join(filter(None, (p.proof, p.disturbed)))} |" for p in phases),
        "",
        "How late the clients themselves were (their pings were due at fixed times), in ms: "
        "p50 {0[1]}, p99 {0[2]}, max {0[4]}. So much the machine adds to anybody's times.".format(Spread.of(late).cells()),
        "",
        *table(("", ""), facts(plan)),
        "",
    ])  # fmt: skip


def facts(plan: Plan) -> list[tuple[str, str]]:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return [
        ("machine", f"{names[0] if names else 'unknown'}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"),
        ("load average before the report", " ".join(f"{x:.1f}" for x in os.getloadavg())),
        ("server", f"{ENGINES} engines with a Python handler that computes for 10 ms; EVENKEEL_QUEUE_ROWS={QUEUE_ROWS}; 1 front"),
        ("load", f"{LOAD_CONNECTIONS} connections in a closed loop, 50 ms of pause after a refusal"),
        ("pings", f"every {1e3 * PING_EVERY_S:g} ms on one kept connection, every {1e3 * FRESH_EVERY_S:g} ms on a new one"),
        (
            "phases",
            f"{plan.idle_s:g} s idle, {plan.full_s:g} s full, {plan.hold_s:g} s held, twice {plan.storm_s:g} s of connects",
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
