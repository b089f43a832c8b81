"""PID 1 with real, tiny children: restart, give up, drain in order, lose patience, leave nobody behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DRIVER = str(Path(__file__).with_name("supervised.py"))
ROOT = Path(__file__).parents[3]
WAIT_S = 60.0  # how long anything here may take on a slow machine before the test gives up
EXIT_BAD_MODEL = 64


class Supervised:
    """A running supervisor; `said` collects what its children write into the notes file."""

    def __init__(self, tmp_path: Path, children: list[tuple[str, str]], **more: Any) -> None:
        self.notes = tmp_path / "notes"
        self.notes.touch()
        environ = {**os.environ, "NOTES": str(self.notes), "PYTHONPATH": str(ROOT)}
        told = json.dumps({"children": _places(children), **more})
        self.process = subprocess.Popen(
            [sys.executable, DRIVER, told], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
        )

    @property
    def said(self) -> list[str]:
        return self.notes.read_text().splitlines()

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not what():
            assert time.monotonic() < end and self.process.poll() is None, f"never came; said {self.said}"
            time.sleep(0.01)

    def term(self, sig: int = signal.SIGTERM) -> None:
        self.process.send_signal(sig)

    def end(self) -> dict[str, Any]:
        out, err = self.process.communicate(timeout=WAIT_S)
        assert out, err
        self.log = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        result: dict[str, Any] = json.loads(out)
        return result


def _places(children: list[tuple[str, str]]) -> list[tuple[str, int, str]]:
    seen: dict[str, int] = {}
    placed = []
    for role, script in children:
        placed.append((role, seen.get(role, 0), script))
        seen[role] = seen.get(role, 0) + 1
    return placed


def waits(name: str) -> str:
    """A child that says when it starts and when it is told to end, and then ends."""
    return f"trap 'echo {name} leaves >> $NOTES; exit 0' TERM; echo {name} $EPOCH >> $NOTES; while :; do sleep 0.02; done"


def stubborn(name: str) -> str:
    return f"trap '' TERM INT; echo {name} $EPOCH >> $NOTES; while :; do sleep 0.02; done"


def gone(pid: int) -> bool:
    """Ended, whether or not its parent has looked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def assert_gone(pid: int) -> None:
    end = time.monotonic() + 1.0
    while not gone(pid):
        assert time.monotonic() < end, f"process {pid} is left behind"
        time.sleep(0.01)


def test_roles_leave_in_order_front_engine_sidecar(tmp_path: Path) -> None:
    run = Supervised(tmp_path, [("sidecar", waits("sidecar")), ("engine", waits("engine")), ("front", waits("front"))])
    run.until(lambda: len(run.said) == 3)
    run.term()
    result = run.end()
    assert run.said[3:] == ["front leaves", "engine leaves", "sidecar leaves"]
    assert (result["code"], result["draining"], result["restarts"]) == (0, 1, [0, 0, 0])


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_drain_and_exit_with_zero(tmp_path: Path, sig: int) -> None:
    run = Supervised(tmp_path, [("front", waits("front"))])
    run.until(lambda: bool(run.said))
    run.term(sig)
    result = run.end()
    assert result["code"] == 0 and result["verdict"] == "draining"


@pytest.mark.parametrize("death", ["exit 3", "kill -9 $$", "exit 0"])
def test_a_child_that_ends_is_started_again_with_the_next_epoch(tmp_path: Path, death: str) -> None:
    script = f"[ $EPOCH = 1 ] && {death}; {waits('engine')}"
    run = Supervised(tmp_path, [("engine", script), ("front", waits("front"))])
    run.until(lambda: "engine 2" in run.said)
    run.term()
    result = run.end()
    assert (result["restarts"], result["epochs"], result["engine_epoch"]) == ([0, 1, 0], [2, 1], 2)


@pytest.mark.parametrize("names", [["0", "1"], ["GPU-0", "GPU-1"]])
def test_the_engine_of_a_device_that_failed_is_replaced_at_once_and_no_other(tmp_path: Path, names: list[str]) -> None:
    children = [("engine", waits("first")), ("engine", waits("second")), ("front", waits("front"))]
    run = Supervised(tmp_path, children, devices=names, device_lost=1)
    run.until(lambda: "second 2" in run.said)
    run.term()
    result = run.end()
    assert (result["restarts"], result["epochs"]) == ([0, 1, 0], [1, 2, 1]), "and only once"


def test_a_child_that_ends_again_and_again_ends_the_container(tmp_path: Path) -> None:
    script = "echo start $EPOCH >> $NOTES; exit 7"
    run = Supervised(tmp_path, [("engine", script), ("front", waits("front"))], limit=2)
    result = run.end()
    assert [s for s in run.said if s.startswith("start")] == ["start 1", "start 2", "start 3"]
    assert result["code"] == 1 and result["verdict"] == "failed"
    (why,) = [e["message"] for e in run.log if e["event"] == "giving_up"]
    assert "engine 0: 3 lives in a row answered nothing (exit 3 times; the last ended with exit code 7)" in why
    assert "front leaves" in run.said


def test_a_bad_model_ends_the_container_without_a_restart(tmp_path: Path) -> None:
    run = Supervised(tmp_path, [("engine", f"exit {EXIT_BAD_MODEL}"), ("sidecar", waits("sidecar"))])
    result = run.end()
    assert (result["code"], result["restarts"], result["epochs"]) == (1, [0, 0, 0], [1, 1])


def test_a_child_that_will_not_leave_is_killed_at_the_deadline(tmp_path: Path) -> None:
    run = Supervised(tmp_path, [("engine", stubborn("engine")), ("sidecar", waits("sidecar"))], drain_s=0.4)
    run.until(lambda: len(run.said) == 2)
    began = time.monotonic()
    run.term()
    result = run.end()
    assert result["code"] == 1 and 0.3 < time.monotonic() - began < 5.0
    (killed,) = [e["message"] for e in run.log if e["event"] == "killed"]
    assert "engine 0" in killed and "sidecar 0" in killed


def test_a_second_signal_ends_all_patience(tmp_path: Path) -> None:
    run = Supervised(tmp_path, [("engine", stubborn("engine"))], drain_s=60.0)
    run.until(lambda: bool(run.said))
    run.term()
    time.sleep(0.1)
    run.term()
    assert run.end()["code"] == 1


def test_a_killed_child_takes_its_own_children_along(tmp_path: Path) -> None:
    script = f"sleep 300 & echo $! >> $NOTES; {stubborn('engine')}"
    run = Supervised(tmp_path, [("engine", script)], drain_s=0.2)
    run.until(lambda: len(run.said) == 2)
    grandchild = int(run.said[0])
    run.term()
    run.end()
    assert_gone(grandchild)


def test_what_a_crashed_child_had_started_does_not_outlive_it(tmp_path: Path) -> None:
    script = f"[ $EPOCH = 1 ] && {{ sleep 300 & echo $! >> $NOTES; kill -9 $$; }}; {waits('engine')}"
    run = Supervised(tmp_path, [("engine", script)])
    run.until(lambda: "engine 2" in run.said)
    grandchild = int(run.said[0])
    try:
        assert_gone(grandchild)
    finally:
        if not gone(grandchild):
            os.kill(grandchild, signal.SIGKILL)
        run.term()
        run.end()


def test_nothing_is_restarted_while_the_container_leaves(tmp_path: Path) -> None:
    slow = "trap 'sleep 0.3; exit 0' TERM; echo front >> $NOTES; while :; do sleep 0.02; done"
    run = Supervised(tmp_path, [("front", slow), ("engine", "trap '' TERM; echo $$ >> $NOTES; exec sleep 300")], drain_s=2.0)
    run.until(lambda: len(run.said) == 2)
    run.term()
    time.sleep(0.05)
    engine = int(next(s for s in run.said if s.isdigit()))
    os.kill(engine, signal.SIGKILL)
    result = run.end()
    assert (result["restarts"], result["epochs"]) == ([0, 0, 0], [1, 1])


def test_it_serves_on_for_the_quiet_time_once_it_has_been_ready(tmp_path: Path) -> None:
    run = Supervised(tmp_path, [("front", waits("front")), ("engine", waits("engine"))], quiet_s=0.4, was_ready=True)
    run.until(lambda: len(run.said) == 2)
    run.term()
    time.sleep(0.2)
    assert "front leaves" not in run.said
    run.end()
    assert "front leaves" in run.said


def test_it_does_not_stay_quiet_when_nobody_could_have_sent_traffic(tmp_path: Path) -> None:
    run = Supervised(tmp_path, [("front", waits("front")), ("engine", waits("engine"))], quiet_s=4.0)
    run.until(lambda: len(run.said) == 2)
    began = time.monotonic()
    run.term()
    run.end()
    assert time.monotonic() - began < 3.0


def test_a_stuck_engine_is_killed_and_another_one_started(tmp_path: Path) -> None:
    run = Supervised(tmp_path, [("engine", stubborn("engine"))], drain_s=0.2, stuck_after_s=0)
    run.until(lambda: "engine 2" in run.said)
    run.term()
    result = run.end()
    assert result["epochs"] == [2]
    assert any(e["event"] == "stuck" for e in run.log)


def test_children_do_not_get_the_terminals_own_signal(tmp_path: Path) -> None:
    """Ctrl-C goes to the foreground group; a child in a session of its own leaves in its turn instead."""
    run = Supervised(tmp_path, [("engine", "ps -o sid= -p $$ >> $NOTES; " + waits("engine"))])
    run.until(lambda: len(run.said) == 2)
    assert int(run.said[0]) != os.getsid(run.process.pid)
    run.term()
    run.end()
