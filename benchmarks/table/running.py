"""A server's process tree, from start to stop. Every process is ended by its id, and every wait has a bound."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import procs
from benchmarks.table.dialects import Request
from benchmarks.table.servers import Job, Server, clean_environment

START_S_MAX = 60.0
LINGER_S_MAX = 2.0
AWAKE_S = 0.2  # after a hold, before its turn begins
REQUEST_S_MAX = 60
SERVER_CORE, LOAD_CORE = "0", "1"


class ServerFailed(Exception):
    """A server did not start, answered wrongly, or went away. The benchmark goes on without it."""


@dataclass(slots=True, eq=False)
class RunningServer:
    """Idle between its turns."""

    server: Server
    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    started_s: float
    start_s: float = 0.0  # from process start to the first 200
    idle_cores: float = 0.0
    is_held: bool = False  # outside its turns, because it uses CPU while nobody asks it anything

    @property
    def name(self) -> str:
        return self.server.name

    @classmethod
    def start(
        cls, server: Server, model: str, folder: Path, *, wire: str = "json", pinned: bool, first: Request | None = None
    ) -> RunningServer:
        """Start it and wait until it answers. Raises ServerFailed, and leaves nothing behind then."""
        scratch = Path(tempfile.mkdtemp(prefix=f"bench-{server.name.split()[0]}-"))
        job = Job(model, wire, folder, pinned, free_port(), free_port(), scratch)
        command = server.command(job)
        pin = ["taskset", "-c", SERVER_CORE] if pinned else []
        log = scratch / "server.log"
        with log.open("wb") as out:
            started_s = time.monotonic()
            process = subprocess.Popen(
                pin + command.arguments,
                env={**clean_environment(), **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=command.folder,
                start_new_session=True,
            )
        running = cls(server, job, process, log, started_s)
        request = server.ready(job) or first
        assert request is not None, "a server that says nothing of when it is ready is asked the first sample"
        try:
            running.wait_until_ready(request)
        except BaseException:
            running.stop()
            raise
        return running

    def wait_until_ready(self, request: Request) -> None:
        last = "no answer"
        while time.monotonic() < self.started_s + START_S_MAX:
            self.look()
            try:
                status, _, body = ask(self.job.port, request, timeout_s=5)
                if status == 200:
                    self.start_s = time.monotonic() - self.started_s
                    return
                last = f"{status} {body[:200]!r}"
            except (OSError, http.client.HTTPException) as e:
                last = repr(e)
            time.sleep(0.02)
        raise ServerFailed(f"{self.name} is not ready after {START_S_MAX:.0f} s ({last}): {self.log_tail()}")

    def look(self) -> None:
        """Raises ServerFailed if it has ended."""
        if self.process.poll() is not None:
            raise ServerFailed(f"{self.name} ended with {self.process.returncode}: {self.log_tail()}")

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-600:].strip().replace("\n", " | ") or "(empty log)"

    def measure_idle(self, seconds: float = 1.0) -> None:
        before = procs.read_cpu(self.process.pid)
        time.sleep(seconds)
        self.idle_cores = sum(procs.cpu_between(before, procs.read_cpu(self.process.pid)).values()) / seconds

    def hold(self) -> None:
        """From now on it stands still outside its turns."""
        self.is_held = True
        self._tell_all(signal.SIGSTOP)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Within this it runs, whether it is held or not."""
        if not self.is_held:
            yield
            return
        self._tell_all(signal.SIGCONT)
        time.sleep(AWAKE_S)
        try:
            yield
        finally:
            self._tell_all(signal.SIGSTOP)

    def _tell_all(self, what: signal.Signals) -> None:
        for member in procs.tree(self.process.pid):
            tell(member, what)

    def stop(self) -> None:
        """Ask it to end, then insist, then end what is left of its tree."""
        members = procs.tree(self.process.pid)
        self._tell_all(signal.SIGCONT)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.server.stop_s_max)
        self.process.kill()
        self.process.wait()
        rest = {p.pid: p for p in [*members, *procs.tree(self.process.pid)]}.values()
        # Python's resource tracker ignores this, and removes semaphores once the others are gone: let it.
        for member in rest:
            tell(member, signal.SIGTERM)
        end_s = time.monotonic() + LINGER_S_MAX
        while time.monotonic() < end_s and any(procs.is_there(member) for member in rest):
            time.sleep(0.05)
        for member in rest:
            tell(member, signal.SIGKILL)
        shutil.rmtree(self.job.scratch, ignore_errors=True)


def tell(process: procs.Process, what: signal.Signals) -> None:
    """Signal this very process, not another that got its number since."""
    if procs.is_there(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, what)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def ask(port: int, request: Request, timeout_s: float = REQUEST_S_MAX) -> tuple[int, dict[str, str], bytes]:
    """One request over a new connection: status, headers (names in lower case), body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(request.method, request.path, request.body or None, request.headers)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def stop_all(things: Sequence[RunningServer]) -> None:
    """Stop them one after another; one that fails to stop must not keep the others running."""
    failed: list[BaseException] = []
    for thing in things:
        try:
            thing.stop()
        except Exception as e:
            failed.append(e)
    if failed:
        raise failed[0]
