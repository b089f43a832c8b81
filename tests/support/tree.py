"""The real process tree under test: `evenkeel serve` on free ports of 127.0.0.1, and proof that nothing stays behind.

A tree gets a temporary folder of its own and a mark in its environment, so that its files, sockets and processes can
be told from everybody else's on the machine.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from evenkeel.serve.contract.process_setup import die_with_parent
from tests.support.wire import Wire

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "model_artifacts"
EVENKEEL = Path(sys.executable).with_name("evenkeel")
MARK = "EVENKEEL_TEST_MARK"
FIRST_PORT, PORTS, PORTS_EACH = 12_000, 20_000, 487
START_S = 90.0  # upper bounds on a busy machine, not bars
STOP_S = 60.0
# As a container that drops them all, and as any user but root.
NO_CAPABILITIES = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")
T = TypeVar("T")
LIVING: list[Tree] = []  # started and not yet cleaned up


def _ports() -> Iterator[int]:
    """Below the kernel's own range, so that no connection of anybody takes one meanwhile, and begun elsewhere in each process of
    pytest, so that two that run side by side do not meet."""
    start = os.getpid() * PORTS_EACH % PORTS
    yield from itertools.cycle(FIRST_PORT + (start + n) % PORTS for n in range(PORTS))


PORTS_LEFT = _ports()


def free_port() -> int:
    for port in itertools.islice(PORTS_LEFT, PORTS):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port of the tests is in use")


def eventually(look: Callable[[], T], what: str, within_s: float = 30.0) -> T:
    """The first true value that `look` gives. Fails with `what` if there is none in time."""
    end = time.monotonic() + within_s
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
            found = look()
            if found:
                return found
        assert time.monotonic() < end, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)


def ending_with_us() -> Callable[[], None] | None:
    """For a child: it ends when this process does, however that ends. The kernel watches the thread that started it, and only the
    main thread lives as long as we do."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return partial(die_with_parent, os.getpid())


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment without the settings of whoever runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EVENKEEL_", "SAGEMAKER_", "ORT_", "TORCH"))}
    return {**kept, **settings}


def run_command(*arguments: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """One `evenkeel …` that should end by itself."""
    return subprocess.run(
        [str(EVENKEEL), *map(str, arguments)], env=clean_environment(settings), capture_output=True, text=True, timeout=START_S,
        cwd=ROOT,
    )  # fmt: skip


class Tree:
    """One `evenkeel serve`. Ends with `stop`, which proves that nothing is left, or with `kill`, which only cleans up."""

    def __init__(
        self, model: str | Path, log_to: str = "", under: Sequence[str] = (),
        command: Sequence[str] = (str(EVENKEEL), "serve"), cwd: Path = ROOT, **settings: str,
    ) -> None:  # fmt: skip
        """`under`: a command that starts it, such as NO_CAPABILITIES."""
        folder = ARTIFACTS / model if isinstance(model, str) else model
        self.mark = uuid.uuid4().hex
        self.port, self.side = free_port(), free_port()
        self.tmp = Path(tempfile.mkdtemp(prefix="ekt-"))  # short: paths of Unix sockets are
        self.out, self.err = self.tmp / "out.log", self.tmp / "err.log"
        for name in ("tmp", "home"):
            (self.tmp / name).mkdir()
        self.settings = {
            "EVENKEEL_MODEL_DIR": str(folder), "SAGEMAKER_BIND_TO_PORT": str(self.port), "EVENKEEL_HOST": "127.0.0.1",
            "EVENKEEL_SIDECAR_ADDRESS": f"127.0.0.1:{self.side}", "EVENKEEL_LOG": "json", "EVENKEEL_QUIET_S": "0",
            "TMPDIR": str(self.tmp / "tmp"), "HOME": str(self.tmp / "home"), MARK: self.mark, **settings,
        }  # fmt: skip
        self.out.touch()
        with Path(log_to or self.out).open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [*under, *command], env=clean_environment(self.settings), stdout=out, stderr=err, cwd=cwd,
                start_new_session=True, preexec_fn=ending_with_us(),
            )  # fmt: skip
        LIVING.append(self)

    # ---- what it says --------------------------------------------------------------------------------------------

    def wait_ready(self) -> Tree:
        def ready() -> bool:
            assert self.process.poll() is None, f"the tree ended with {self.process.returncode}:\n{self.story()}"
            return self.ping() == 200

        try:
            eventually(ready, "/ping says 200", START_S)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.story()}") from e
        return self

    def wire(self, timeout_s: float = 30.0) -> Wire:
        """A new connection to the data port."""
        return Wire(self.port, timeout_s)

    def ping(self) -> int:
        try:
            with self.wire(5.0) as wire:
                return wire.get("/ping").status
        except OSError:
            return 0

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.side}/status", timeout=10) as reply:
            found: dict[str, Any] = json.load(reply)
            return found

    def errors(self) -> dict[str, int]:
        """How often each error was counted, over all fronts."""
        total: dict[str, int] = {}
        for front in self.status()["fronts"]:
            for code, count in front["errors"].items():
                total[code] = total.get(code, 0) + count
        return total

    def log(self, start: int = 0) -> list[dict[str, Any]]:
        """Every complete line on stdout from byte `start` on. Each must be one JSON object."""
        lines = self.out.read_bytes()[start:].split(b"\n")[:-1]
        records = []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError as e:
                raise AssertionError(f"not a JSON log line: {line[:120]!r} … {line[-60:]!r}") from e
            assert isinstance(record, dict), f"not a JSON object: {line[:120]!r}"
            records.append(record)
        return records

    def events(self, event: str) -> list[dict[str, Any]]:
        found = []
        for line in self.out.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):  # whether all lines are JSON is a test of its own
                record = json.loads(line)
                if record.get("event") == event:  # a line of metrics for CloudWatch has none
                    found.append(record)
        return found

    def story(self) -> str:
        """What it wrote, for the message of a failing test."""
        parts = [path.read_text(errors="replace")[-6000:] for path in (self.out, self.err) if path.exists()]
        return "\n".join(parts)

    # ---- its processes -------------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """Every process of this tree, found by the mark in its environment."""
        wanted = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def pid_of(self, role: str) -> int:
        """The process at place 0 of `front`, `engine` or `sidecar`."""
        if role == "sidecar":
            return next((p for p in self.pids() if b"evenkeel.sidecar.process" in Path(f"/proc/{p}/cmdline").read_bytes()), 0)
        key = {"front": "fronts", "engine": "replicas"}[role]
        return int(self.status()[key][0]["pid"])

    # ---- its end -------------------------------------------------------------------------------------------------

    def tell(self, signum: int) -> None:
        self.process.send_signal(signum)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Ask it to leave, and prove that it left well: exit code 0, no process, no file, no socket, no open port."""
        try:
            self.tell(signum)
            code = self.process.wait(STOP_S)
            assert code == 0, f"exit code {code}:\n{self.story()}"
            self.assert_nothing_left()
            assert "Traceback" not in self.err.read_text(errors="replace"), self.err.read_text(errors="replace")[-4000:]
        finally:
            self.kill()

    def assert_nothing_left(self) -> None:
        eventually(lambda: not self.pids(), f"processes {self.pids()} have ended")
        left = sorted(str(p.relative_to(self.tmp)) for name in ("tmp", "home") for p in (self.tmp / name).rglob("*"))
        assert left == [], f"files left in the temporary folder and in the home of the user: {left}"
        assert str(self.tmp) not in Path("/proc/net/unix").read_text(), "a Unix socket is left"
        for port in (self.port, self.side):
            with socket.socket() as s:
                s.settimeout(2.0)
                assert s.connect_ex(("127.0.0.1", port)) != 0, f"somebody still listens on port {port}"

    def kill(self) -> None:
        """End whatever is left, without any proof."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.tmp, ignore_errors=True)
        if self in LIVING:
            LIVING.remove(self)


@contextlib.contextmanager
def serving(model: str | Path, **settings: str) -> Iterator[Tree]:
    """A ready tree. Its end is part of every test that uses one: see `Tree.stop`."""
    tree = Tree(model, **settings)
    try:
        tree.wait_ready()
        yield tree
    except BaseException:
        tree.kill()
        raise
    tree.stop()


class MemoryWatch:
    """Samples the proportional memory (PSS, so that shared pages count once) of all processes of a tree."""

    def __init__(self, tree: Tree) -> None:
        self._pids = tree.pids()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = self.before_bytes = self.now()

    def now(self) -> int:
        total = 0
        for pid in self._pids:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak_bytes = max(self.peak_bytes, self.now())

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def growth_bytes(self) -> int:
        return self.peak_bytes - self.before_bytes
