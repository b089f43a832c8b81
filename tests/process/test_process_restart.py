"""Whether a container goes on or gives up, with real processes: whoever answers between the ends goes on."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.handler_model import asking, handler_folder
from tests.support.tree import Tree, eventually, run_command, serving


def killed(tree: Tree, role: str) -> int:
    """Kill it, and return who it was."""
    pid = eventually(lambda: tree.pid_of(role), f"a {role}")
    os.kill(pid, signal.SIGKILL)
    return pid


def test_kills_of_an_engine_that_answers_between_them_end_nothing() -> None:
    with serving("echo", EVENKEEL_RESTART_LIMIT="2") as tree, tree.wire() as wire:
        for n in range(8):
            assert wire.post(b"[[%d]]" % n).status == 200
            pid = killed(tree, "engine")
            assert wire.post(b"[[%d]]" % n).json() == [[n]], "by the one that follows"
            eventually(lambda pid=pid: tree.pid_of("engine") not in (0, pid), "another engine")  # type: ignore[misc]
        assert tree.status()["restarts"]["engine"] == 8 and not tree.events("giving_up")


def test_requests_that_end_the_engine_do_not_end_the_container(tmp_path: Path) -> None:
    with serving(handler_folder(tmp_path / "model"), EVENKEEL_RESTART_LIMIT="2") as tree, tree.wire() as wire:
        assert wire.post(asking(1)).status == 200
        for n in range(4):
            assert wire.post(asking(n, "abort")).json()["error"]["code"] == "poisoned_request"
        assert wire.post(asking(5)).json() == {"x": 10}
        assert not tree.events("giving_up")


def test_an_engine_that_never_becomes_ready_ends_the_container_and_the_reason_is_named(tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model")
    (folder / "code" / "inference.py").write_text("import os\nos.abort()\n")
    tree = Tree(folder, EVENKEEL_RESTART_LIMIT="2")
    try:
        assert tree.process.wait(60) == 1
        (why,) = [line["message"] for line in tree.events("giving_up")]
        assert "engine 0: 3 lives in a row answered nothing (signal 3 times; the last ended with signal SIGABRT)" in why
        tree.assert_nothing_left()
    finally:
        tree.kill()


@pytest.mark.parametrize("removed", ["the directory", "what is in it"])
def test_a_run_directory_that_somebody_removes_is_missed_by_nobody(removed: str) -> None:
    with serving("echo") as tree:
        (run_dir,) = (tree.tmp / "tmp").glob("evenkeel-*")
        if removed == "the directory":
            shutil.rmtree(run_dir)
        else:
            for path in run_dir.iterdir():
                path.unlink()
        first_engine, first_worker = killed(tree, "engine"), killed(tree, "front")
        eventually(lambda: tree.pid_of("engine") != first_engine and tree.pid_of("front") != first_worker, "others")
        eventually(lambda: tree.ping() == 200, "/ping says 200")
        with tree.wire() as wire:
            for n in range(20):
                assert wire.post(b"[[%d]]" % n).json() == [[n]]
        eventually(lambda: (run_dir / "admin.sock").is_socket(), "it is made anew")
        eventually(lambda: run_command("drain", "--socket", run_dir / "admin.sock").returncode == 0, "its commands reach it")
        assert tree.process.wait(30) == 0


def test_a_request_is_no_evidence_for_an_engine_that_only_rehearsed() -> None:
    """Rehearsals are answered, but they are nobody's requests."""
    tree = Tree("digits", EVENKEEL_RESTART_LIMIT="1").wait_ready()
    try:
        for _ in range(2):
            eventually(lambda: tree.ping() == 200, "ready")
            pid = killed(tree, "engine")
            eventually(lambda p=pid: tree.process.poll() is not None or tree.pid_of("engine") not in (0, p), "noticed")  # type: ignore[misc]
        assert tree.process.wait(30) == 1
    finally:
        tree.kill()
