"""Whatever ends the supervisor, and whenever: no process of ours lives on, and the port is free."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tree import ARTIFACTS, EVENKEEL, MARK, ROOT, Tree, clean_environment, eventually, free_port


def roles(tree: Tree) -> list[bytes]:
    found = []
    for pid in tree.pids():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        except OSError:
            continue  # it ended meanwhile
    return found


def front_begins(tree: Tree) -> bool:
    """It exists, and has not done much yet."""
    return any(b"evenkeel.serve.front.process" in line for line in roles(tree))


def everybody_begins(tree: Tree) -> bool:
    lines = roles(tree)
    return all(any(role in line for line in lines) for role in (b"front.process", b"engine.process", b"evenkeel.sidecar.process"))


def port_answers(tree: Tree) -> bool:
    return tree.ping() != 0


def ready(tree: Tree) -> bool:
    return tree.ping() == 200


@pytest.mark.parametrize("moment", [front_begins, everybody_begins, port_answers, ready])
def test_when_the_supervisor_is_killed_at_any_moment_nobody_holds_the_port(moment: Callable[[Tree], bool]) -> None:
    tree = Tree("echo")
    try:
        eventually(lambda: moment(tree), moment.__name__, 60.0)
        tree.process.kill()
        tree.process.wait()
        eventually(lambda: not tree.pids(), "every process has ended")
        assert tree.ping() == 0
    finally:
        tree.kill()


def test_a_killed_supervisor_takes_a_front_with_a_request_in_flight_along() -> None:
    tree = Tree("echo").wait_ready()
    try:
        with tree.wire() as wire:
            wire.send(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n[")
            tree.process.kill()
            tree.process.wait()
            eventually(lambda: not tree.pids(), "every process has ended")
    finally:
        tree.kill()


def test_a_role_whose_supervisor_ended_while_it_began_ends_too() -> None:
    """Whoever took it in is not its parent, whatever getppid() says."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    code = "from evenkeel.serve.contract.process_setup import begin_role; begin_role(); print('lives on')"
    role = subprocess.run([sys.executable, "-c", code, str(gone.pid), "{}"], cwd=ROOT, capture_output=True, text=True)
    assert (role.returncode, role.stdout) == (-signal.SIGKILL, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_with_standard_files_closed_it_serves_and_leaves_nothing(closed: str, short_path: Path) -> None:
    port, side = free_port(), free_port()
    settings = {
        "EVENKEEL_MODEL_DIR": str(ARTIFACTS / "echo"), "SAGEMAKER_BIND_TO_PORT": str(port), "EVENKEEL_HOST": "127.0.0.1",
        "EVENKEEL_SIDECAR_ADDRESS": f"127.0.0.1:{side}", "EVENKEEL_QUIET_S": "0",
        "TMPDIR": str(short_path), MARK: str(short_path),
    }  # fmt: skip
    tree = Tree.__new__(Tree)  # only what asks it
    tree.port, tree.side, tree.mark = port, side, str(short_path)
    process = subprocess.Popen(["sh", "-c", f"exec {EVENKEEL} serve {closed}"], env=clean_environment(settings), cwd=ROOT)
    try:
        eventually(lambda: process.poll() is not None or tree.ping() == 200, "it serves", 90.0)
        assert process.poll() is None
        held = [os.readlink(f"/proc/{pid}/fd/{fd}") for pid in tree.pids() for fd in range(3)]
        assert not [name for name in held if name.startswith("socket:")], held
        process.terminate()
        assert process.wait(60.0) == 0
        eventually(lambda: not tree.pids(), "every process has ended")
    finally:
        process.kill()
        process.wait()
        for pid in tree.pids():
            os.kill(pid, signal.SIGKILL)


def test_when_the_tests_themselves_are_killed_their_trees_end() -> None:
    start = "from tests.support.tree import Tree; t = Tree('echo').wait_ready(); print(t.port, flush=True); input()"
    tests = subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}/src:{ROOT}"},
    )  # fmt: skip
    assert tests.stdout is not None
    port = int(tests.stdout.readline())
    tests.kill()
    tests.wait()

    def refused() -> bool:
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) != 0

    eventually(refused, "nobody listens there any more")
