"""A whole container whose log is not read, is full, closed or flooded: it serves, heals and stops as ever."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.handler_model import asking, handler_folder
from tests.support.scrape import Scrape
from tests.support.tree import EVENKEEL, STOP_S, Tree, eventually, serving

NOT_AS_ROOT = "-dac_override,-dac_read_search"  # without these root may not open the files of others
SPAM = """
import json, subprocess

def model_fn(model_dir):
    return 1

def input_fn(body, content_type):
    return json.loads(body)

def predict_fn(data, model):
    if data == "spam":
        subprocess.Popen(["yes"])  # writes lines on the engine's stdout for ever
    return data

def output_fn(prediction, accept):
    return json.dumps(prediction)
"""


class Reader:
    """The reading end of a named pipe that is a container's stdout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.text = b""

    def read(self) -> bytes:
        """Everything so far, with what is there now."""
        while select.select([self._fd], [], [], 0)[0] and (data := os.read(self._fd, 1 << 20)):
            self.text += data
        return self.text

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path / "log")
    yield reader
    reader.close()


def ask(tree: Tree, body: bytes) -> int:
    with tree.wire() as wire:
        return wire.post(body).status


def wait_ready(tree: Tree, reader: Reader) -> None:
    eventually(lambda: reader.read() and tree.ping() == 200, "/ping says 200", 90)


def blocked_in_write(tree: Tree) -> list[int]:
    return [pid for pid in tree.pids() if "pipe_write" in Path(f"/proc/{pid}/wchan").read_text()]


def ends(tree: Tree) -> None:
    tree.tell(signal.SIGTERM)
    assert tree.process.wait(STOP_S) == 0
    tree.assert_nothing_left()


def test_a_log_that_nobody_reads_stops_no_request_no_restart_and_no_stop(tmp_path: Path, reader: Reader) -> None:
    tree = Tree(handler_folder(tmp_path / "m"), log_to=str(reader.path))
    wait_ready(tree, reader)
    for _ in range(100):  # a traceback each: more than the pipe holds
        assert ask(tree, asking(1, "raise", say="z" * 900)) == 500
    assert ask(tree, asking(1, "print", say="y" * 3000)) == 200
    assert tree.ping() == 200 and blocked_in_write(tree) == []
    lost = Scrape.of_port(tree.port)["evenkeel_log_lines_lost_total"]
    assert lost > 0 and Scrape.of_port(tree.side)["evenkeel_log_lines_lost_total"] >= lost
    engine = tree.pid_of("engine")
    os.kill(engine, signal.SIGKILL)
    eventually(lambda: tree.pid_of("engine") not in (0, engine) and ask(tree, asking(2)) == 200, "the engine is back", 60)
    eventually(lambda: b'"lines_lost"' in reader.read(), "the loss is told when the reader is back")
    assert all("level" in json.loads(line) for line in reader.text.splitlines()), "every line is whole"
    ends(tree)


def test_a_pipe_that_may_not_be_opened_again_and_is_not_read_stops_nothing_either(tmp_path: Path, reader: Reader) -> None:
    """As in a container whose user is not the one that made its stdout."""
    command = ("setpriv", f"--bounding-set={NOT_AS_ROOT}", f"--inh-caps={NOT_AS_ROOT}", str(EVENKEEL), "serve")
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can make a pipe of another user")
    os.chown(reader.path, 65534, 65534)
    reader.path.chmod(0o600)
    tree = Tree(handler_folder(tmp_path / "m"), log_to=str(reader.path), command=command)
    wait_ready(tree, reader)
    assert len(list(Path(f"/proc/{tree.process.pid}/task").iterdir())) == 2, "the supervisor's log has a thread"
    for _ in range(100):
        assert ask(tree, asking(1, "raise", say="z" * 900)) == 500
    assert tree.ping() == 200
    ends(tree)


@pytest.mark.parametrize(
    ("mode", "closed"), [("text", ""), ("text", ">&-"), ("json", "<&- >&- 2>&-")], ids=["full disk", "no stdout", "nothing open"]
)
def test_a_log_that_takes_nothing_stops_nothing(tmp_path: Path, mode: str, closed: str) -> None:
    command = ("sh", "-c", f"exec {EVENKEEL} serve {closed}")
    tree = Tree(handler_folder(tmp_path / "m"), log_to="/dev/full", command=command, EVENKEEL_LOG=mode).wait_ready()
    assert ask(tree, asking(1)) == 200
    ends(tree)


def test_a_reader_that_leaves_after_the_first_line_ends_nothing(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "log")
    tree = Tree(handler_folder(tmp_path / "m"), log_to=str(reader.path), EVENKEEL_LOG="text")
    eventually(reader.read, "the first line comes")
    reader.close()
    tree.wait_ready()
    assert ask(tree, asking(1)) == 200
    ends(tree)


def test_a_child_that_prints_without_end_keeps_the_supervisor_from_nothing(tmp_path: Path) -> None:
    (tmp_path / "m" / "code").mkdir(parents=True)
    (tmp_path / "m" / "code" / "inference.py").write_text(SPAM)
    tree = Tree(tmp_path / "m", EVENKEEL_DRAIN_S="8").wait_ready()
    assert ask(tree, b'"spam"') == 200
    eventually(lambda: Scrape.of_port(tree.port)["evenkeel_log_lines_lost_total"] > 10_000, "the surplus is counted")
    os.kill(tree.pid_of("engine"), signal.SIGSTOP)
    assert ask(tree, b"3") == 200, "the supervisor lets it go on"
    ends(tree)


def test_what_the_http_parser_complains_of_is_a_log_line_of_ours_on_both_ports(tmp_path: Path) -> None:
    tree = Tree("echo").wait_ready()
    for port in (tree.port, tree.side):
        with socket.create_connection(("127.0.0.1", port), 10) as s:
            s.sendall(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
            s.recv(4096)
    ends(tree)
    assert tree.err.read_text() == "" and all("level" in e and e["time"].endswith("Z") for e in tree.log())


def test_every_process_writes_below_our_log_into_a_pipe_of_ours(tmp_path: Path) -> None:
    """Nothing that a child prints can wait for the reader of the log, or mix with its lines."""
    tree = Tree("echo").wait_ready()
    supervisor = {os.readlink(f"/proc/{tree.process.pid}/fd/{fd}") for fd in (1, 2)}
    for role in ("front", "engine", "sidecar"):
        pid = tree.pid_of(role)
        assert not supervisor & {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)}, role
    ends(tree)


def test_an_access_line_a_request_where_that_is_asked_for() -> None:
    sent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with serving("echo", EVENKEEL_ACCESS_LOG="1") as tree, tree.wire() as wire:
        for rows in (1, 2):
            body = json.dumps({"instances": [[1, 2, 3, 4]] * rows}).encode()
            wire.post(body, "application/json", None, sent, f"X-Amzn-SageMaker-Inference-Id: of-{rows}")
        told = eventually(lambda: [e for e in tree.events("access") if e["request_id"] == "of-2"], "the line is there")
        assert told[0]["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736" and told[0]["ms"] > 0
        assert {e["request_id"] for e in tree.events("access")} == {"of-1", "of-2"}, "what the worker asks itself has none"
