"""Load of requests whose right answers are known, made by a process of its own: what it is told and what it tells.

Every payload is unique, and every reply is compared with the payload that it answers, so a reply to the wrong caller
cannot pass. Closed loop: each connection asks, waits for the answer, thinks and asks again. Open loop (`rate`):
requests are sent when they are due, whatever the server does. The client itself is load_client.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 90.0  # how long one request is waited for; also after the load was told to stop
FAILURES_MAX = 20_000  # told one by one; beyond it only counted
COLUMNS = 4  # numbers in a row of a payload

TENSORS_TOML = f"""name = "chaos"
backend = "echo"

[[inputs]]
name = "x"
dtype = "float32"
shape = ["rows", {COLUMNS}]
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the client shall do. Times are in seconds."""

    port: int
    connections: int = 24
    think_s_max: float = 0.01  # closed loop: each pause is a random one up to this
    rate: float = 0.0  # open loop from the start; 0: closed loop
    rows: tuple[int, ...] = (1, 1, 3, 2)  # in turn; every fourth request is NPY, the others JSON
    echo_bytes: bool = False  # the model answers with the body itself, and not with predictions
    refusals_expected: bool = False  # 429 and 503 are answers then, told by interval and not among the failures
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """One request without its right answer. Times are of CLOCK_MONOTONIC, which is one for the whole machine."""

    kind: str  # "closed", "no connection", "silent", "wrong" or "503 not_ready" and the like
    opened_s: float  # when its connection was made
    sent_s: float
    failed_s: float
    detail: str = ""


@dataclass(slots=True)
class Interval:
    """What happened between two commands. `series`: for every tenth of a second answers, refusals, worst latency."""

    name: str
    began_s: float
    ended_s: float = 0.0
    sent: int = 0
    unsent: int = 0  # due, but all connections were busy: the client's own limit
    right: int = 0
    refused: int = 0
    latency_s: dict[str, float] = field(default_factory=dict)  # of right answers: p50, p99, p999, max
    refusal_s: dict[str, float] = field(default_factory=dict)
    series: list[tuple[int, int, float]] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """Everything, told at the end."""

    sent: int = 0
    right: int = 0
    failed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    longest_gap_s: float = 0.0  # between two right answers, whichever client got them
    gap_at_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)


class Load:
    """A running client. `stop` ends it in order: nothing new is sent, what is out is waited for."""

    def __init__(self, plan: Plan) -> None:
        command = [sys.executable, "-m", "benchmarks.load_client", json.dumps(asdict(plan))]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, **command: Any) -> None:
        """`interval=NAME` begins another one; `rate=N` changes the rate; `quiet=True`: send nothing new; `burst=N`: so many new
        connections at once, for one request each."""
        assert self._process.stdin is not None, "the client reads commands"
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def wait_begun(self) -> None:
        """Returns when it has sent something: on a busy machine a process takes its time to begin."""
        sent = 0
        while not sent:
            time.sleep(0.05)
            self.tell(interval="begun")
            sent = self.next_interval().sent

    def next_interval(self) -> Interval:
        """The next one that ended, in order; waits for it."""
        data = self._line()
        return Interval(**{**data, "series": [tuple(s) for s in data["series"]]})

    def stop(self) -> Tally:
        """Waits for every answer that is still to come, at most PATIENCE_S."""
        self.tell(stop=True)
        data = self._line()
        while "failures" not in data:  # intervals that nobody asked for
            data = self._line()
        self._process.wait(10)
        return Tally(**{**data, "failures": [Failure(**f) for f in data["failures"]],
                        "intervals": [Interval(**i) for i in data["intervals"]]})  # fmt: skip

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "the client tells on its standard output"
        line = self._process.stdout.readline()
        assert line, f"the load client ended early with {self._process.poll()}; its trace is above"
        found: dict[str, Any] = json.loads(line)
        return found


def tensors_folder(to: Path) -> Path:
    """A model that answers every request with its own numbers."""
    to.mkdir(parents=True, exist_ok=True)
    (to / "model.toml").write_text(TENSORS_TOML)
    return to
