"""The end of the data port: whoever got in is answered, whoever comes later is refused, nobody is cut off."""

from __future__ import annotations

import collections
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from benchmarks.chaos_cases import slow_start_folder
from tests.support.handler_model import asking, handler_folder
from tests.support.tree import NO_CAPABILITIES, Tree, eventually
from tests.support.wire import Closed, Wire, request

EXIT_S = 25.0
SOON_S = 3.0  # a connect that the door did not let in is repeated by the client's kernel after a second


class Visitors:
    """Threads that ask again and again until the door stays shut, each with a connection per request or with one that it
    keeps for as long as the answers let it. `seen` counts what became of them; cut off is what nobody may be."""

    def __init__(self, port: int, keep: bool, count: int = 6, body: bytes = b"[[1.0, 2.0]]") -> None:
        self.port, self.keep, self.body = port, keep, body
        self.seen: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._visit, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _visit(self) -> None:
        while True:
            try:
                wire = Wire(self.port, SOON_S)
            except ConnectionRefusedError:
                return self._note("refused")
            except TimeoutError:
                return self._note("connect took too long")
            except ConnectionResetError:
                return self._note("cut off: reset while connecting")
            with wire:
                wire.sock.settimeout(30.0)
                while True:
                    try:
                        reply = wire.ask(request(self.body, headers=() if self.keep else ("Connection: close",)))
                    except (Closed, OSError) as e:
                        self._note(f"cut off: {type(e).__name__}")
                        break
                    self._note(str(reply.status))
                    if reply.headers.get("connection") == "close":
                        break
                    time.sleep(0.002)

    def _note(self, what: str) -> None:
        with self._lock:
            self.seen[what] += 1

    def result(self) -> dict[str, int]:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "every visitor comes to an end"
        return dict(self.seen)


@pytest.mark.parametrize("keep", [False, True], ids=["a connection per request", "connections that last"])
@pytest.mark.parametrize("quiet_s", ["0", "0.5"])
def test_a_stop_cuts_nobody_off_who_got_in_and_refuses_the_rest(keep: bool, quiet_s: str) -> None:
    tree = Tree("echo", EVENKEEL_FRONTS="2", EVENKEEL_QUIET_S=quiet_s).wait_ready()
    visitors = Visitors(tree.port, keep)
    eventually(lambda: visitors.seen["200"] > 50, "they are answered")
    tree.stop()
    seen = visitors.result()
    assert set(seen) == {"200", "refused"} and seen["refused"] == 6 and seen["200"] > 50, seen


@pytest.mark.skipif(not shutil.which("setpriv") or os.getuid() != 0, reason="only root can drop what it has")
@pytest.mark.parametrize("keep", [False, True], ids=["a connection per request", "connections that last"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_a_stop_cuts_nobody_off_without_any_privilege(keep: bool, host: str) -> None:
    tree = Tree("echo", under=NO_CAPABILITIES, EVENKEEL_FRONTS="2", EVENKEEL_HOST=host).wait_ready()
    visitors = Visitors(tree.port, keep, count=16)
    eventually(lambda: visitors.seen["200"] > 50, "they are answered")
    tree.tell(signal.SIGTERM)
    assert tree.process.wait(60) == 0
    seen = visitors.result()
    assert set(seen) == {"200", "refused"} and seen["refused"] == 16 and seen["200"] > 50, seen
    assert not tree.events("no_door")
    tree.assert_nothing_left()
    tree.kill()


@pytest.mark.parametrize("state", ["LOADING", "WARMING"])
def test_a_stop_before_it_is_ready_cuts_nobody_off_either(state: str, tmp_path: Path) -> None:
    folder = slow_start_folder(tmp_path / "model")
    script = folder / "code" / "inference.py"
    script.write_text(script.read_text().replace("sleep(1.5)", "sleep(6)"))  # on a busy machine too it is met in this state
    tree = Tree(folder)
    eventually(lambda: tree.ping() != 0, "the port answers", 60)
    visitors = Visitors(tree.port, keep=False)
    eventually(lambda: tree.status()["replicas"][0]["state"] == state, state, 60)
    began_s = time.monotonic()
    tree.stop()
    assert time.monotonic() - began_s < EXIT_S
    seen = visitors.result()
    assert set(seen) == {"503", "refused"} and seen["refused"] == 6, seen


def test_idle_connections_outlast_the_quiet_time_and_the_next_answer_is_their_last() -> None:
    tree = Tree("echo", EVENKEEL_QUIET_S="10").wait_ready()
    try:
        with tree.wire() as idle:
            assert "connection" not in idle.post(b"[[1.0]]").headers
            tree.tell(signal.SIGTERM)
            eventually(lambda: tree.ping() == 503, "/ping says 503")
            time.sleep(0.3)
            reply = idle.post(b"[[2.0]]")
            assert (reply.status, reply.headers.get("connection")) == (200, "close")
            assert idle.closed_by_server()
        assert tree.process.wait(30) == 0
        tree.assert_nothing_left()
    finally:
        tree.kill()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_now(second: signal.Signals, tmp_path: Path) -> None:
    tree = Tree(handler_folder(tmp_path / "model")).wait_ready()
    try:
        with tree.wire() as wire:
            wire.send(request(asking(1, "wait", s=600.0)))
            eventually(lambda: any("begun" in e["message"] for e in tree.events("user_output")), "it runs")
            tree.tell(signal.SIGTERM)
            eventually(lambda: tree.events("draining"), "it leaves in order")
            tree.tell(second)
            assert tree.process.wait(15) == 1, "something was cut off, and the exit code says so; a drain would take 25 s"
        tree.assert_nothing_left()
    finally:
        tree.kill()


def test_a_hanging_request_costs_those_behind_it_nothing_though_sigterm_comes(tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model")
    (folder / "model.toml").write_text("[batching]\nrun_s_max = 1.5\n")
    tree = Tree(folder).wait_ready()
    try:
        with tree.wire() as hangs, tree.wire() as waits:
            hangs.send(request(asking(1, "hang")))
            eventually(lambda: any("hanging" in e["message"] for e in tree.events("user_output")), "it hangs")
            waits.send(request(asking(2)))
            time.sleep(0.2)  # to arrive
            tree.tell(signal.SIGTERM)
            assert waits.read().json() == {"x": 4}
            assert hangs.read().json()["error"]["code"] == "poisoned_request"
        assert tree.process.wait(30) == 0
        tree.assert_nothing_left()
    finally:
        tree.kill()


def test_requests_whose_engine_died_are_answered_though_sigterm_comes(tmp_path: Path) -> None:
    tree = Tree(handler_folder(tmp_path / "model")).wait_ready()
    try:
        with tree.wire() as wire:
            wire.send(request(asking(1, "wait", s=2.0)))
            eventually(lambda: any("begun" in e["message"] for e in tree.events("user_output")), "it runs")
            os.kill(tree.pid_of("engine"), signal.SIGKILL)
            tree.tell(signal.SIGTERM)
            assert wire.read().status == 200
        assert tree.process.wait(30) == 0
        tree.assert_nothing_left()
    finally:
        tree.kill()


def test_a_terminal_that_closes_ends_it_as_sigterm_does(tmp_path: Path) -> None:
    heeding = ["env", "--default-signal=HUP"]  # whoever runs the tests under nohup ignores it, and that would be inherited
    tree = Tree(handler_folder(tmp_path / "model"), under=heeding).wait_ready()
    try:
        with tree.wire() as wire:
            wire.send(request(asking(3, "wait", s=0.8)))
            eventually(lambda: any("begun" in e["message"] for e in tree.events("user_output")), "it runs")
            for _ in range(3):  # systemd sends one behind SIGTERM, a terminal may send two
                tree.tell(signal.SIGHUP)
                time.sleep(0.02)
            assert wire.read().status == 200
        assert tree.process.wait(30) == 0
        tree.assert_nothing_left()
    finally:
        tree.kill()
