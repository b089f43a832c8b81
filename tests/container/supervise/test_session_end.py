"""A session is ended whole, and what Python keeps to tidy up after it may do so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evenkeel.container.supervise.session_end import kill_session

SHARES = """
import subprocess, sys
from multiprocessing.shared_memory import SharedMemory
block = SharedMemory(create=True, size=4096)
sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print(block.name, sleeper.pid, flush=True)
input()
"""


def started(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_shared_memory_of_a_killed_session_is_removed_and_nobody_lives_on() -> None:
    leader = started(SHARES)
    assert leader.stdout is not None and leader.stdin is not None
    name, _sleeper = leader.stdout.readline().split()
    assert Path("/dev/shm", name).exists()
    kill_session(leader.pid)
    assert leader.wait(10) == -9
    assert leader.stdout.read() == ""  # once nobody has it: the sleeper and the tracker are gone, too
    assert not Path("/dev/shm", name).exists()


def test_a_session_without_a_tracker_is_killed_at_once() -> None:
    leader = started("print(1, flush=True); input()")
    assert leader.stdout is not None and leader.stdout.readline() == "1\n"
    kill_session(leader.pid)
    assert leader.wait(10) == -9
    with pytest.raises(ProcessLookupError):
        kill_session(leader.pid)


def test_where_nobody_can_be_looked_for_all_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: str) -> list[str]:
        raise OSError(24, "Too many open files")

    leader = started(SHARES)
    assert leader.stdout is not None
    name, _ = leader.stdout.readline().split()
    monkeypatch.setattr("os.listdir", full)
    kill_session(leader.pid)
    assert leader.wait(10) == -9
    Path("/dev/shm", name).unlink(missing_ok=True)
