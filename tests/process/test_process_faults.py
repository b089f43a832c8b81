"""Processes that stop moving, requests that kill, resources that run out: each has its outcome, and costs nobody else."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.load import TENSORS_TOML
from evenkeel.container.watch.stopped_processes import is_stopped, parent_of
from tests.support.handler_model import Gate, asking, handler_folder
from tests.support.held import held
from tests.support.tree import Tree, eventually, serving
from tests.support.wire import Response, Wire, request

TOGETHER = 64


def ask(tree: Tree, body: bytes) -> Response:
    with tree.wire(60.0) as wire:
        return wire.post(body)


def reasons(tree: Tree) -> dict[str, int]:
    found: dict[str, int] = tree.status()["restart_reasons"]
    return found


def said(tree: Tree, event: str, words: str) -> bool:
    return any(words in r.get("message", "") for r in tree.events(event))


def busy(tree: Tree, x: int, gate: Gate) -> Wire:
    """A connection whose request is running when this returns, until the gate is opened."""
    wire = tree.wire(60.0)
    wire.send(request(gate.hold(x)))
    eventually(lambda: said(tree, "user_output", f"begun {x}"), "the request runs")
    return wire


# Poison ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    with serving(handler_folder(tmp_path_factory.mktemp("batched"), batched=True), EVENKEEL_RESTART_LIMIT="20",
                 EVENKEEL_STUCK_S="60") as tree:  # fmt: skip
        yield tree


@pytest.mark.parametrize("death", ["die", "abort"])
def test_one_of_64_that_ends_the_engine_costs_no_other_its_answer(batched: Tree, death: str) -> None:
    before = batched.status()["restarts"]["engine"]
    batched.out.write_bytes(b"")
    gate = Gate(batched.tmp)
    running = busy(batched, 1000, gate)
    wires = [batched.wire(60.0) for _ in range(TOGETHER)]
    for i, wire in enumerate(wires):
        wire.send(request(asking(i, death if i == 17 else "")))
    eventually(lambda: batched.status()["fronts"][0]["in_flight"] == TOGETHER + 1, "all are accepted")
    gate.open()
    replies = [wire.read() for wire in wires]
    assert running.read().status == 200
    assert (replies[17].status, replies[17].code) == (500, "poisoned_request")
    others = [r for i, r in enumerate(replies) if i != 17]
    assert [r.status for r in others] == [200] * (TOGETHER - 1)
    assert [r.json()["x"] for r in others] == [2 * i for i in range(TOGETHER) if i != 17]
    assert said(batched, "user_output", f"batch of {TOGETHER}"), "they were in one batch with it"
    assert batched.status()["restarts"]["engine"] == before + 2
    for wire in (running, *wires):
        wire.close()


def test_the_same_bytes_that_ended_engines_end_no_other(batched: Tree) -> None:
    assert ask(batched, asking(4242, "die")).code == "poisoned_request"
    before = batched.status()["restarts"]["engine"]
    again = [ask(batched, asking(4242, "die")) for _ in range(5)]
    assert {(r.status, r.code) for r in again} == {(500, "poisoned_request")}
    assert ask(batched, asking(7)).json()["x"] == 14
    status = batched.status()
    assert status["restarts"]["engine"] == before
    assert status["poisoned"]["remembered"] >= 1 and status["poisoned"]["newest"][0]["id"]


def test_a_request_whose_engine_is_killed_twice_from_outside_gets_its_answer(batched: Tree) -> None:
    gate = Gate(batched.tmp)
    running = busy(batched, 4321, gate)
    for kill in (1, 2):
        os.kill(batched.pid_of("engine"), signal.SIGKILL)
        batched.out.write_bytes(b"")
        eventually(lambda: said(batched, "user_output", "begun 4321"), f"it runs again after kill {kill}")
    gate.open()
    reply = running.read()
    assert (reply.status, reply.json()["x"]) == (200, 8642)
    running.close()


def test_a_request_of_very_many_rows_is_refused_at_once_or_takes_turns_and_the_others_are_served(tmp_path: Path) -> None:
    """A batch of 16 rows takes 30 ms: 40,000 rows would take over a minute, 1,600 three seconds."""
    slow = {"EVENKEEL_FAULTS": "slow:every=1,ms=30", "EVENKEEL_REQUEST_TIMEOUT_S": "20"}
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.toml").write_text(TENSORS_TOML + "\n[batching]\nrows_max = 16\n")
    row = b"[1,2,3,4]"
    with serving(model, **slow) as tree, ThreadPoolExecutor(4) as pool:
        for _ in range(120):  # so that the cost is known: warm-up has not met the fault
            assert ask(tree, b'{"instances":[' + row + b"]}").status == 200
        too_many = ask(tree, b'{"instances":[' + b",".join([row] * 40_000) + b"]}")
        assert (too_many.status, too_many.code) == (413, "too_many_rows")
        assert "rows would fit now" in too_many.body.decode()
        large = pool.submit(ask, tree, b'{"instances":[' + b",".join([row] * 1600) + b"]}")
        others = []
        while not large.done():
            others.append(ask(tree, b'{"instances":[' + row + b"]}").status)
        assert large.result().status == 200
        assert set(others) == {200} and len(others) > 5


@pytest.mark.parametrize(
    ("do", "words"),
    [("too few", "returned 0 predictions"), ("no list", "list of"), ("a set", "predict_fn"), ("one number", "predict_fn")],
)
def test_what_a_batched_handler_returns_wrongly_is_its_requests_error_and_no_hang(batched: Tree, do: str, words: str) -> None:
    before = batched.status()["restarts"]["engine"]
    reply = ask(batched, asking(1, do))
    assert (reply.status, reply.code) == (500, "model_error") and words in reply.body.decode()
    assert ask(batched, asking(4)).json()["x"] == 8
    assert batched.status()["restarts"]["engine"] == before


def test_a_batched_handler_that_runs_out_of_memory_gets_smaller_batches_and_costs_no_request(tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model", batched=True)
    script = folder / "code" / "inference.py"
    limit = "    if len(items) > 8 or any(i.get('do') == 'huge' for i in items):\n        raise MemoryError('too much')\n"
    script.write_text(
        script.read_text().replace('    print("batch of", len(items))\n', '    print("batch of", len(items))\n' + limit)
    )
    with serving(folder) as tree:
        gate = Gate(tree.tmp)
        running = busy(tree, 1000, gate)
        wires = [tree.wire(60.0) for _ in range(32)]
        for i, wire in enumerate(wires):
            wire.send(request(asking(i, "huge" if i == 5 else "")))
        eventually(lambda: tree.status()["fronts"][0]["in_flight"] == 33, "all are accepted")
        gate.open()
        replies = [wire.read() for wire in wires]
        assert running.read().status == 200
        assert (replies[5].status, replies[5].code) == (507, "out_of_memory")
        assert [r.json()["x"] for i, r in enumerate(replies) if i != 5] == [2 * i for i in range(32) if i != 5]
        assert tree.status()["replicas"][0]["batching"]["rows_fit"] <= 8
        assert reasons(tree) == {}
        for wire in (running, *wires):
            wire.close()


# Stuck ----------------------------------------------------------------------------------------------------------------


def test_a_handler_that_hangs_is_ended_by_the_owners_limit_with_its_stacks_in_the_log(tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model")
    (folder / "model.toml").write_text("[batching]\nrun_s_max = 1.0\n")
    with serving(folder) as tree:
        with ThreadPoolExecutor(4) as pool:
            hanging = pool.submit(ask, tree, asking(5, "hang"))
            eventually(lambda: said(tree, "user_output", "hanging 5"), "it hangs")
            others = [pool.submit(ask, tree, asking(i)) for i in range(3)]
            assert hanging.result().code == "poisoned_request", "long before its deadline of 60 s"
            assert [o.result().json()["x"] for o in others] == [0, 2, 4]
        assert reasons(tree)["engine/stuck"] == 2
        assert said(tree, "stuck", "the model's own limit is 1 s")
        assert said(tree, "output", "inference.py") and said(tree, "output", "in act"), tree.story()


def test_a_handler_that_is_slow_is_not_stuck(tmp_path: Path) -> None:
    """What a handler takes lies in its data: quick requests say nothing of this one."""
    with serving(handler_folder(tmp_path / "model"), EVENKEEL_STUCK_S="0.1", EVENKEEL_STUCK_FACTOR="2") as tree:
        assert [ask(tree, asking(i)).status for i in range(20)] == [200] * 20
        assert ask(tree, asking(3, "wait", s=2.5)).json()["x"] == 6
        assert tree.status()["restarts"] == {"front": 0, "engine": 0, "sidecar": 0}


# Stopped and held: by SIGSTOP, which SIGCONT ends, or by a debugger, which it does not ---------------------------------


class Asking:
    """Clients that ask an echo all the time; whatever is not a right answer is kept."""

    def __init__(self, tree: Tree, count: int = 4) -> None:
        self.tree, self.answered = tree, 0
        self.wrong: list[str] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(float(i),), daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, x: float) -> None:
        with self.tree.wire(60.0) as wire:
            while not self._ended.wait(0.002):
                x += 10.0
                try:
                    reply = wire.post(b"[[%f]]" % x)
                except OSError as e:
                    self.wrong.append(str(e))
                    return
                self.answered += 1
                if reply.status != 200 or reply.json() != [[x]]:
                    self.wrong.append(reply.raw.decode())

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        assert self.wrong == [] and self.answered > 0


def gunicorn_of(tree: Tree) -> int:
    return parent_of(tree.pid_of("front"))


def engine_of(tree: Tree) -> int:
    return tree.pid_of("engine")


def worker_of(tree: Tree) -> int:
    return tree.pid_of("front")


def sidecar_of(tree: Tree) -> int:
    return tree.pid_of("sidecar")


@pytest.mark.parametrize("fronts", ["1", "2"])
@pytest.mark.parametrize("who", [worker_of, gunicorn_of, engine_of, sidecar_of])
def test_who_is_stopped_under_load_is_let_go_on_and_costs_no_request(who: Callable[[Tree], int], fronts: str) -> None:
    with serving("echo", EVENKEEL_FRONTS=fronts) as tree:
        load, pid = Asking(tree), who(tree)
        time.sleep(0.3)
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: tree.events("woken"), "it was noticed")
        eventually(lambda: not is_stopped(pid), "it goes on")
        time.sleep(0.3)
        load.end()
        assert [e["pid"] for e in tree.events("woken")] == [pid]
        assert eventually(tree.status, "/status answers")["restart_reasons"] == {} and tree.errors() == {}
        assert tree.ping() == 200


def test_an_idle_engine_that_is_stopped_is_let_go_on_before_anybody_asks() -> None:
    with serving("echo") as tree:
        pid = engine_of(tree)
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: tree.events("woken"), "it was noticed")
        assert ask(tree, b"[[1.0, 2.0]]").status == 200 and engine_of(tree) == pid and reasons(tree) == {}


def test_a_tree_with_a_stopped_process_still_leaves_in_order() -> None:
    tree = Tree("echo", EVENKEEL_FRONTS="2").wait_ready()
    try:
        for pid in (worker_of(tree), engine_of(tree)):
            os.kill(pid, signal.SIGSTOP)
        tree.tell(signal.SIGTERM)
        assert tree.process.wait(25) == 0
        assert len(tree.events("woken")) == 2
        tree.assert_nothing_left()
    finally:
        tree.kill()


def test_an_engine_that_a_debugger_holds_while_idle_is_replaced_when_requests_wait_for_it() -> None:
    with serving("echo", EVENKEEL_STUCK_S="1") as tree:
        stopped = engine_of(tree)
        with held(stopped):
            time.sleep(1.5)
            assert engine_of(tree) == stopped and tree.ping() == 200, "idle, it is in nobody's way"
            assert ask(tree, b"[[1.0, 2.0]]").status == 200
            assert reasons(tree) == {"engine/stuck": 1}


def test_an_engine_that_a_debugger_holds_in_the_middle_of_a_batch_costs_no_request(tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model")
    (folder / "model.toml").write_text("[batching]\nrun_s_max = 2.0\n")
    with serving(folder) as tree, busy(tree, 7, gate := Gate(tree.tmp)) as wire, held(engine_of(tree)):
        gate.open()
        assert wire.read().json()["x"] == 14
        assert reasons(tree) == {"engine/stuck": 1}


def test_a_sidecar_that_a_debugger_holds_is_replaced_and_traffic_never_notices() -> None:
    with serving("echo") as tree, held(sidecar_of(tree)):

        def another() -> bool:
            assert tree.ping() == 200 and ask(tree, b"[[1.0]]").status == 200
            return any(r["role"] == "sidecar" for r in tree.events("restart"))

        eventually(another, "another sidecar")
        assert eventually(lambda: reasons(tree), "/status is back") == {"sidecar/stuck": 1}


def test_a_front_worker_that_a_debugger_holds_is_replaced_and_the_port_answers_again() -> None:
    with serving("echo", EVENKEEL_FRONT_TIMEOUT_S="2") as tree, held(worker_of(tree)):
        with tree.wire(60.0) as wire:  # accepted by the kernel, answered by the next worker
            assert wire.post(b"[[1.0]]").status == 200
        assert reasons(tree) == {"front/stuck": 1}


def test_while_a_debugger_holds_gunicorn_its_workers_serve_on_and_when_the_last_is_gone_it_is_replaced() -> None:
    with serving("echo", EVENKEEL_FRONT_TIMEOUT_S="2") as tree, held(gunicorn_of(tree)):
        load = Asking(tree)
        time.sleep(3.0)
        load.end()
        assert reasons(tree) == {}, "its workers live, so nobody needs it"
        os.kill(worker_of(tree), signal.SIGKILL)
        with tree.wire(60.0) as wire:  # the port is the supervisor's: the kernel takes the connection meanwhile
            assert wire.post(b"[[1.0]]").status == 200
        assert reasons(tree) == {"front/stuck": 1}


def test_a_device_that_is_lost_ends_the_engine_with_its_own_reason(tmp_path: Path) -> None:
    with serving(handler_folder(tmp_path / "model")) as tree:
        words = "CUDA error: device-side assert triggered"
        assert ask(tree, asking(1, "raise from", say=words)).code == "poisoned_request", "it did so twice"
        assert ask(tree, asking(4)).json()["x"] == 8
        assert reasons(tree) == {"engine/device": 2}
        assert said(tree, "device_lost", words)


# What cannot be in time ------------------------------------------------------------------------------------------------


def test_a_model_of_a_second_a_row_accepts_only_what_it_can_answer_in_time(tmp_path: Path) -> None:
    with serving(handler_folder(tmp_path / "model"), EVENKEEL_REQUEST_TIMEOUT_S="4") as tree:
        assert ask(tree, asking(1, "wait", s=1.0)).status == 200
        wires = []
        for i in range(30):  # one after the other, since a front knows only of those that have come
            wires.append(tree.wire(60.0))
            wires[-1].send(request(asking(i, "wait", s=1.0)))
            time.sleep(0.02)
        replies = [wire.read() for wire in wires]
        assert {r.status for r in replies} == {200, 429}
        assert 2 <= sum(r.status == 200 for r in replies) <= 5
        assert tree.errors() == {"overloaded": sum(r.status == 429 for r in replies)}
        for wire in wires:
            wire.close()


# What runs out --------------------------------------------------------------------------------------------------------


def test_a_front_without_file_descriptors_serves_those_who_are_there_and_recovers(tmp_path: Path) -> None:
    with serving("echo") as tree:
        pid = tree.pid_of("front")
        with tree.wire() as old:
            assert old.post(b"[[1.0]]").status == 200
            used = len(os.listdir(f"/proc/{pid}/fd"))
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4, before[1]))
            more = [socket.create_connection(("127.0.0.1", tree.port)) for _ in range(40)]
            for _ in range(20):
                assert old.post(b"[[1.0]]").status == 200
            for s in more:
                s.close()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        eventually(lambda: tree.ping() == 200, "new connections are served again")
        assert ask(tree, b"[[1.0]]").status == 200
        assert tree.pid_of("front") == pid, "nothing had to be replaced"


@contextlib.contextmanager
def no_more_descriptors(pid: int) -> Iterator[None]:
    """None beyond those that the process keeps open: what it opens for a moment is closed in one of some looks."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    first_free = []
    for _ in range(20):
        used = [int(fd) for fd in os.listdir(f"/proc/{pid}/fd")]
        first_free.append(next(i for i in range(len(used) + 1) if i not in used))
        time.sleep(0.01)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(first_free), before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_an_engine_without_file_descriptors_serves_on_refuses_what_it_cannot_hand_over_and_recovers(tmp_path: Path) -> None:
    with serving(handler_folder(tmp_path / "model")) as tree:
        pid = engine_of(tree)
        with no_more_descriptors(pid):
            assert ask(tree, asking(1)).json()["x"] == 2
            refused = ask(tree, asking(1, "large", size=1 << 20))
            assert (refused.status, refused.code) == (507, "out_of_memory") and "nowhere to go" in refused.message
            os.kill(worker_of(tree), signal.SIGKILL)  # the next worker has to be let in
            late = tree.wire(60.0)
            late.send(request(asking(4)))
            eventually(lambda: tree.events("accept_failed"), "it says why nobody is let in")
        assert late.read().json()["x"] == 8
        late.close()
        assert len(ask(tree, asking(1, "large", size=1 << 20)).body) > 1 << 20
        assert engine_of(tree) == pid and reasons(tree).keys() <= {"front/exit"}, tree.story()


def test_a_front_without_file_descriptors_refuses_an_answer_that_comes_as_a_file_and_mixes_up_none(tmp_path: Path) -> None:
    with serving(handler_folder(tmp_path / "model")) as tree, tree.wire(60.0) as wire:
        assert wire.post(asking(1)).json()["x"] == 2
        with no_more_descriptors(worker_of(tree)):
            for i in range(5):
                refused = wire.post(asking(i, "large", size=(1 << 20) + i))
                assert (refused.status, refused.code) == (507, "out_of_memory")
                assert wire.post(asking(i)).json()["x"] == 2 * i
        for i in range(5):
            assert len(wire.post(asking(i, "large", size=(1 << 20) + i)).json()["x"]) == (1 << 20) + i
        assert reasons(tree) == {}


def test_a_sidecar_without_file_descriptors_keeps_giving_verdicts_and_recovers() -> None:
    with serving("echo") as tree:
        pid = sidecar_of(tree)
        with no_more_descriptors(pid):
            engine = engine_of_pids(tree)
            with pytest.raises(OSError):
                tree.status()
            os.kill(engine, signal.SIGKILL)
            eventually(lambda: tree.ping() == 503, "it sees that the engine is gone")
            eventually(lambda: tree.ping() == 200, "and that another is ready", 60)
            assert ask(tree, b"[[1.0]]").status == 200
        assert eventually(tree.status, "/status is back")["restart_reasons"] == {"engine/signal": 1}
        assert sidecar_of(tree) == pid


def test_a_supervisor_without_file_descriptors_starts_what_died_as_soon_as_it_can() -> None:
    with serving("echo") as tree:
        with no_more_descriptors(tree.process.pid):
            os.kill(sidecar_of(tree), signal.SIGKILL)
            os.kill(engine_of_pids(tree), signal.SIGKILL)
            eventually(lambda: tree.events("start_failed"), "it says so")
            waiting = tree.wire(60.0)
            waiting.send(request(b"[[1.0, 2.0]]"))
        assert waiting.read().json() == [[1.0, 2.0]], "the request waited for the engine"
        waiting.close()
        eventually(lambda: tree.status()["ready"], "all is well again", 60)


def engine_of_pids(tree: Tree) -> int:
    return next(p for p in tree.pids() if b"evenkeel.serve.engine.process" in cmdline(p))


def test_a_full_disk_under_the_log_does_not_stop_the_service(tmp_path: Path) -> None:
    tree = Tree("echo", log_to="/dev/full")
    try:
        tree.wait_ready()
        assert [ask(tree, b"[[1.0]]").status for _ in range(5)] == [200] * 5
        os.kill(tree.pid_of("engine"), signal.SIGKILL)
        assert ask(tree, b"[[1.0]]").status == 200
        tree.tell(signal.SIGTERM)
        assert tree.process.wait(30) == 0
    finally:
        tree.kill()


class Leaking:
    """Clients whose every request makes the handler keep memory; each answer is looked at, and /ping as well."""

    def __init__(self, tree: Tree, size: int = 1 << 19) -> None:
        self.tree, self.size, self.count = tree, size, 0
        self.wrong: list[str] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(1000 * i,), daemon=True) for i in range(3)]
        self._threads.append(threading.Thread(target=self._ping, daemon=True))
        for thread in self._threads:
            thread.start()

    def _ask(self, x: int) -> None:
        with self.tree.wire(60.0) as wire:
            while not self._ended.wait(0.1):
                x += 1
                reply = wire.post(asking(x, "leak", size=self.size))
                self.count += 1
                if reply.status != 200 or reply.json()["x"] != 2 * x:
                    self.wrong.append(reply.raw.decode())

    def _ping(self) -> None:
        while not self._ended.wait(0.01):
            status = self.tree.ping()
            if status != 200:
                self.wrong.append(f"/ping {status}")

    def end(self) -> list[str]:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        return self.wrong


def test_a_replica_that_leaks_gives_way_to_a_warm_one_and_costs_no_request_and_no_ping(tmp_path: Path) -> None:
    with serving(handler_folder(tmp_path / "model"), EVENKEEL_MEMORY_MB="1200") as tree:
        before = tree.status()["replicas"][0]
        load = Leaking(tree)
        eventually(lambda: tree.events("restart"), "its successor takes over", 120.0)
        eventually(lambda: tree.pid_of("engine") != before["pid"], "another process has the place")
        time.sleep(1.0)
        assert load.end() == [] and load.count > 100
        after = tree.status()["replicas"][0]
        assert (after["state"], after["epoch"], after["place"]) == ("READY", before["epoch"] + 1, 0)
        assert after["rows"] >= load.count, "counters go on"
        assert "made ready beside it" in tree.events("leak")[0]["message"]
        assert [e["process"] for e in tree.events("standing_by")] == ["engine-0"]
        assert reasons(tree) == {"engine/leak": 1} and tree.errors() == {}
        eventually(
            lambda: sum(b"evenkeel.serve.engine.process" in cmdline(p) for p in tree.pids()) == 1, "its predecessor has left"
        )


def test_without_room_for_two_a_leaking_replica_is_replaced_in_its_place_and_costs_no_request(tmp_path: Path) -> None:
    with serving(handler_folder(tmp_path / "model"), EVENKEEL_MEMORY_MB="100") as tree:
        load = Leaking(tree)
        eventually(lambda: tree.events("restart"), "it is replaced", 120.0)
        time.sleep(1.0)
        assert [w for w in load.end() if not w.startswith("/ping")] == []
        (told,) = tree.events("leak")
        assert "in its place, because another replica needs about" in told["message"]
        assert reasons(tree) == {"engine/leak": 1} and tree.errors() == {}


@pytest.mark.parametrize("when", ["its successor loads", "its successor takes over"])
def test_a_stop_in_the_middle_of_such_a_change_costs_no_request(when: str, tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model")
    script = folder / "code" / "inference.py"
    script.write_text(script.read_text().replace("def model_fn(model_dir):\n", "def model_fn(model_dir):\n    time.sleep(1.0)\n"))
    tree = Tree(folder, EVENKEEL_MEMORY_MB="1200", EVENKEEL_QUIET_S="1").wait_ready()
    try:
        load = Leaking(tree)
        eventually(lambda: tree.events("leak"), "it has begun", 120.0)
        if when == "its successor takes over":
            eventually(lambda: tree.events("restart"), "it takes over")
        tree.tell(signal.SIGTERM)
        assert [w for w in load.end() if not w.startswith("/ping")] == []
        assert tree.process.wait(25) == 0
        tree.assert_nothing_left()
    finally:
        tree.kill()


def test_a_replica_that_crashes_while_its_successor_loads_is_followed_by_that_one(tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model")
    script = folder / "code" / "inference.py"
    script.write_text(script.read_text().replace("def model_fn(model_dir):\n", "def model_fn(model_dir):\n    time.sleep(1.0)\n"))
    with serving(folder, EVENKEEL_MEMORY_MB="1200") as tree:
        load = Leaking(tree)
        eventually(lambda: tree.events("leak"), "it has begun", 120.0)
        os.kill(tree.pid_of("engine"), signal.SIGKILL)
        eventually(lambda: tree.events("standing_by"), "the standby is warm")
        eventually(lambda: tree.ping() == 200 and tree.status()["replicas"][0]["state"] == "READY", "the standby serves")
        time.sleep(0.5)
        assert [w for w in load.end() if not w.startswith("/ping")] == []
        assert reasons(tree) == {"engine/signal": 1} and tree.status()["replicas"][0]["epoch"] == 2


def test_a_successor_that_dies_leaves_its_predecessor_to_be_replaced_in_its_place(tmp_path: Path) -> None:
    folder = handler_folder(tmp_path / "model")
    with serving(folder, EVENKEEL_MEMORY_MB="1200") as tree:
        script, once = folder / "code" / "inference.py", "if not os.path.exists('died'): open('died', 'w').close(); os._exit(9)"
        once = once.replace("'died'", repr(str(tmp_path / "died")))
        script.write_text(script.read_text().replace("KEPT = []\n", f"KEPT = []\n{once}\n"))
        load = Leaking(tree)
        eventually(lambda: tree.events("no_successor"), "the standby has died", 120.0)
        eventually(lambda: tree.status()["ready"] and tree.status()["replicas"][0]["epoch"] == 2, "another one serves")
        assert [w for w in load.end() if not w.startswith("/ping")] == []
        assert "replaced in its place" in tree.events("no_successor")[0]["message"] and reasons(tree) == {"engine/leak": 1}


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
