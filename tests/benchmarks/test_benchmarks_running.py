"""A server of the benchmark from start to stop, and what wrk sends it."""

from __future__ import annotations

import shutil
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import procs
from benchmarks.table.contenders import ServerContender
from benchmarks.table.dialects import Request
from benchmarks.table.records import written
from benchmarks.table.running import RunningServer, ServerFailed, ask
from benchmarks.table.servers import BareHttp, Command, Evenkeel, Job
from benchmarks.table.windows import FIXED, OWN, LoadResult, Target, wrk
from benchmarks.table.workloads import WORKLOADS, Workload
from tests.support.tree import eventually


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningServer]:
    found = RunningServer.start(BareHttp(), "T", tmp_path, pinned=False)
    yield found
    found.stop()  # also what has ended leaves a folder


def state(running: RunningServer) -> str:
    """S while it waits, T while it is held."""
    return Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_server_is_there_until_it_is_stopped(running: RunningServer) -> None:
    running.look()
    assert running.start_s > 0 and running.job.scratch.exists()
    running.stop()
    assert procs.tree(running.process.pid) == [] and not running.job.scratch.exists()


def test_a_held_server_stands_still_outside_its_turns_and_can_be_stopped(running: RunningServer) -> None:
    running.hold()
    eventually(lambda: state(running) == "T", "held")  # a signal is on its way for a moment
    with running.turn():
        assert ask(running.job.port, Request("GET", "/"))[0] == 200
    eventually(lambda: state(running) == "T", "held again")
    running.stop()
    assert procs.tree(running.process.pid) == []


class Ending(Evenkeel):
    """A server that says something and ends."""

    def command(self, job: Job) -> Command:
        return Command(["sh", "-c", "echo no such model; exit 3"])


def test_a_server_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"evenkeel ended with 3: no such model"):
        RunningServer.start(Ending(tmp_path), "T", tmp_path, pinned=False)


def test_a_server_that_went_away_has_no_window(running: RunningServer) -> None:
    running.process.kill()
    running.process.wait()
    with pytest.raises(ServerFailed, match="ended with -9"):
        ServerContender(running, []).window(WORKLOADS["json-64"], 0, 1.0)


# ---- wrk -------------------------------------------------------------------------------------------------------------


class Recording(socketserver.StreamRequestHandler):
    """Answers everything with {} and keeps heads, lengths and connections."""

    heads: list[bytes]
    bodies: list[bytes]

    def handle(self) -> None:
        while head := self._head():
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
            self.bodies.append(self.rfile.read(size))
            self.heads.append(head)
            is_last = b"Connection: close\r\n" in head
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + b"Connection: close\r\n" * is_last + b"\r\n{}")
            if is_last:
                return

    def _head(self) -> bytes:
        lines = []
        try:
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                lines.append(line)
        except ConnectionError:
            return b""
        return b"".join(lines)


def sent(tmp_path: Path, workload: Workload, heads: str) -> tuple[LoadResult, list[bytes], list[bytes]]:
    kept = type("Kept", (Recording,), {"heads": [], "bodies": []})
    file = tmp_path / "records"
    file.write_bytes(written([Request("POST", "/p", {"Content-Type": "text/plain"}, body) for body in (b"one", b"three\n")]))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), kept) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = wrk(workload, Target(server.server_address[1], "/p", file), 1.0, heads=heads, seed=3)
        server.shutdown()
    return result, kept.heads, kept.bodies


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_wrk_sends_every_body_with_heads_and_lengths_of_their_own(tmp_path: Path) -> None:
    workload = Workload("w", "", "T", "json", connections=2, pads=50, pinned=False)
    result, heads, bodies = sent(tmp_path, workload, OWN)
    assert result.requests > 50 and (result.non2xx, result.errors) == (0, 0)
    assert len(set(heads)) == len(heads) and all(h.startswith(b"POST /p HTTP/1.1\r\n") for h in heads)
    assert {b.rstrip(b" ") for b in bodies} == {b"one", b"three\n"} and len({len(b) for b in bodies}) > 20


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_wrk_sends_the_same_head_every_time_or_a_new_connection(tmp_path: Path) -> None:
    fixed = Workload("w", "", "T", "json", connections=2, pinned=False)
    result, heads, bodies = sent(tmp_path, fixed, FIXED)
    assert result.requests > 50 and len(set(heads)) == 1 and set(bodies) == {b"one"}
    fresh = Workload("w", "", "T", "json", connections=2, fresh=True, pinned=False)
    result, heads, _ = sent(tmp_path, fresh, OWN)
    assert result.requests > 50 and result.errors == 0 and all(b"Connection: close\r\n" in h for h in heads)
