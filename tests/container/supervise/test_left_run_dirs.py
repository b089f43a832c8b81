"""What a killed container has left in the folder for run directories, and what a start may take away of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from evenkeel.container.run_record import RunRecord
from evenkeel.container.supervise import left_run_dirs


@pytest.fixture
def gone() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(30)
    return process.pid


def left_in(folder: Path, name: str, pid: int) -> Path:
    run_dir = folder / name
    run_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(run_dir / "admin.sock"))
    RunRecord(pid, 8080, "http://127.0.0.1:9090", "/m").write(run_dir)
    return run_dir


def test_what_a_killed_container_left_is_removed(tmp_path: Path, gone: int) -> None:
    ours = left_in(tmp_path, "evenkeel-ours", gone)
    left = left_in(tmp_path, "evenkeel-left", gone)
    left_run_dirs.remove(ours)
    assert ours.exists() and not left.exists()


def test_a_directory_that_somebody_may_be_in_stays(tmp_path: Path, gone: int) -> None:
    alive = left_in(tmp_path, "evenkeel-alive", os.getpid())
    beginning = tmp_path / "evenkeel-beginning"
    beginning.mkdir()
    heard = left_in(tmp_path, "evenkeel-heard", gone)
    other = left_in(tmp_path, "other", gone)
    linked = tmp_path / "evenkeel-linked"
    linked.symlink_to(other)
    with socket.socket(socket.AF_UNIX) as sock:  # as of a container in another PID namespace
        sock.bind(str(heard / "engine-0.sock"))
        sock.listen()
        left_run_dirs.remove(tmp_path / "evenkeel-ours")
    assert all(path.exists() for path in (alive, beginning, heard, other, linked))
