"""Clients that leave, processes that die, signals, overload: nobody else notices, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support import digits_model as model
from tests.support.handler_model import Gate, asking, handler_folder
from tests.support.tree import Tree, eventually, serving
from tests.support.wire import Closed, Wire, request

PING = request(None, method="GET", path="/ping")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    with serving(handler_folder(tmp_path_factory.mktemp("slow")), EVENKEEL_RESTART_LIMIT="20", EVENKEEL_STUCK_S="60") as tree:
        yield tree


@pytest.fixture
def slow(shared: Tree) -> Tree:
    """A handler that takes as long as it is asked to, and says when it begins. Idle, whatever was asked before."""
    assert_idle(shared)
    eventually(lambda: shared.ping() == 200, "/ping says 200")
    shared.out.write_bytes(b"")  # what `begun` says starts anew
    return shared


def begin(tree: Tree, x: int, body: bytes) -> Wire:
    """A request that keeps the engine busy, and is known to be running when this returns."""
    wire = tree.wire()
    wire.send(request(body))
    eventually(lambda: x in begun(tree), "the request runs")
    return wire


def hold(tree: Tree, x: int) -> tuple[Wire, Gate]:
    """The same, and it runs until the gate is opened."""
    gate = Gate(tree.tmp)
    return begin(tree, x, gate.hold(x)), gate


def accepted(tree: Tree, count: int) -> None:
    eventually(lambda: front_of(tree)["in_flight"] == count, f"{count} are accepted")


def abandoned(tree: Tree, count: int) -> None:
    eventually(lambda: front_of(tree)["abandoned"] == count, "it is seen that they left")


def begun(tree: Tree) -> list[int]:
    """Which requests the handler has begun to work on, in order."""
    lines = [r.get("message", "") for r in tree.events("user_output")]
    return [int(line.split()[1]) for line in lines if line.startswith("begun ")]


def front_of(tree: Tree) -> dict[str, int]:
    found: dict[str, int] = tree.status()["fronts"][0]
    return found


def hang_up(wire: Wire, *, reset: bool = False) -> None:
    if reset:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


def assert_idle(tree: Tree) -> None:
    def idle() -> bool:
        front = front_of(tree)
        return bool(front["in_flight"] == front["queue_rows"] == front["slot_bytes"] == 0)

    eventually(idle, "nothing in flight, no slot held")


# Clients leave --------------------------------------------------------------------------------------------------------


def test_a_client_that_hangs_up_while_queued_is_never_served_and_the_others_are(slow: Tree) -> None:
    before = front_of(slow)["abandoned"]
    running, gate = hold(slow, 100)
    queued = [slow.wire() for _ in range(5)]
    for i, wire in enumerate(queued):
        wire.send(request(asking(i, "wait", s=0.01)))
    accepted(slow, 6)
    for i in (1, 3):
        hang_up(queued[i], reset=True)
    abandoned(slow, before + 2)
    gate.open()
    assert running.read().json()["x"] == 200
    for i in (0, 2, 4):
        assert queued[i].read().json()["x"] == 2 * i
    assert_idle(slow)
    assert begun(slow) == [100, 0, 2, 4]
    assert front_of(slow)["abandoned"] == before + 2
    for wire in (running, *queued):
        wire.close()


def test_a_client_that_ends_its_half_while_queued_is_served_in_its_turn(slow: Tree) -> None:
    (running, gate), queued = hold(slow, 101), slow.wire()
    queued.send(request(asking(7, "wait", s=0.01)))
    queued.sock.shutdown(socket.SHUT_WR)
    accepted(slow, 2)
    gate.open()
    reply = queued.read()
    assert (reply.json()["x"], reply.headers["connection"]) == (14, "close") and queued.closed_by_server()
    assert running.read().json()["x"] == 202
    for wire in (running, queued):
        wire.close()
    assert_idle(slow)


def test_a_client_that_hangs_up_while_its_request_runs_strands_nobody(slow: Tree) -> None:
    before = front_of(slow)["abandoned"]
    (running, gate), behind = hold(slow, 1), slow.wire()
    behind.send(request(asking(2)))
    accepted(slow, 2)
    hang_up(running)
    abandoned(slow, before + 1)
    gate.open()
    assert behind.read().json()["x"] == 4
    behind.close()
    assert_idle(slow)


def test_one_that_leaves_a_pipeline_takes_the_rest_of_it_along(slow: Tree) -> None:
    """One request of a connection is with the engine at a time. What is behind it never gets there."""
    (running, gate), pipeline, other = hold(slow, 50), slow.wire(), slow.wire()
    pipeline.send(b"".join(request(asking(i, "wait", s=0.01)) + PING for i in range(6)))
    other.send(request(asking(70, "wait", s=0.01)))
    eventually(lambda: front_of(slow)["in_flight"] >= 3, "they are accepted")
    hang_up(pipeline, reset=True)
    gate.open()
    assert running.read().json()["x"] == 100
    assert other.read().json()["x"] == 140
    assert_idle(slow)
    assert begun(slow) in ([50, 70], [50, 0, 70])
    running.close()
    other.close()


def test_cancelled_clients_do_not_strand_their_batch_mates(digits: Tree) -> None:
    """Many rounds of many clients; a third leaves right after asking, the others get their own right answers."""
    rows = model.some_rows(np.random.default_rng(8), 60)
    want = model.answers(rows)
    with ThreadPoolExecutor(6) as pool:

        def some(part: int) -> None:
            for turn in range(12):
                mine = range(part, 60, 6)
                wires = [digits.wire(20.0) for _ in mine]
                for wire, i in zip(wires, mine, strict=True):
                    wire.send(request(model.to_npy(rows[i : i + 1]), "application/x-npy"))
                for wire, i in zip(wires, mine, strict=True):
                    if (i // 6 + turn) % 3 == 0:
                        hang_up(wire, reset=turn % 2 == 0)
                for wire, i in zip(wires, mine, strict=True):
                    if (i // 6 + turn) % 3:
                        assert model.close(model.from_npy(wire.read().body), want[i : i + 1])
                        wire.close()

        for job in [pool.submit(some, part) for part in range(6)]:
            job.result(60)
    assert_idle(digits)


def test_clients_that_break_off_in_the_middle_of_large_answers_take_nobody_along(echo: Tree) -> None:
    """The server finds out while it writes: to them, and in the same moment to others."""
    body = model.to_npy(np.random.default_rng(17).random((1, 30_000), np.float32))
    sent = request(body, "application/x-npy")
    ended = threading.Event()

    def polite() -> int:
        count = 0
        with echo.wire(10.0) as wire:
            while not ended.is_set():
                assert wire.ask(sent).body == body
                count += 1
        return count

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(polite) for _ in range(6)]
        try:
            for turn in range(12):
                rude = [echo.wire(0.05) for _ in range(3)]
                for wire in rude:
                    with contextlib.suppress(TimeoutError):
                        for _ in range(100):
                            wire.send(sent)
                for wire in rude:
                    hang_up(wire, reset=turn % 2 == 0)
        finally:
            ended.set()
        assert all(job.result(30) > 0 for job in jobs)
    assert_idle(echo)
    assert "Traceback" not in echo.err.read_text()


def test_a_client_that_does_not_read_its_answers_is_not_read_from_for_ever(echo: Tree) -> None:
    """Its answers pile up somewhere: in the kernel and in a bounded buffer, then it must wait."""
    body = model.to_npy(np.ones((250, 1000), np.float32))  # 1 MB
    sent = request(body, "application/x-npy")
    count = 0
    with echo.wire(3.0) as wire:
        try:
            while count < 300:
                wire.send(sent)
                count += 1
        except TimeoutError:
            pass
        with echo.wire() as other:
            assert other.ask(sent).body == body
        assert count < 60, f"{count} MB of requests were read while no answer was"
        wire.sock.settimeout(20.0)
        for _ in range(count):
            assert wire.read().body == body


# Processes die --------------------------------------------------------------------------------------------------------


def test_when_the_engine_is_killed_under_load_every_request_is_answered(digits: Tree) -> None:
    rows = model.some_rows(np.random.default_rng(9), 40)
    want = model.answers(rows)
    ended = threading.Event()
    before = digits.status()

    def ask(part: int) -> int:
        count = 0
        with digits.wire() as wire:
            while not ended.is_set():
                i = (part * 7 + count) % 36
                reply = wire.post(model.to_npy(rows[i : i + 1 + part % 4]), "application/x-npy")
                assert reply.status == 200, reply.raw[:300]
                assert model.close(model.from_npy(reply.body), want[i : i + 1 + part % 4])
                count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(ask, part) for part in range(8)]
        try:
            for _ in range(2):
                time.sleep(0.3)
                killed = digits.pid_of("engine")
                os.kill(killed, signal.SIGKILL)
                eventually(lambda k=killed: digits.pid_of("engine") != k and digits.status()["ready"], "another engine serves")  # type: ignore[misc]
            time.sleep(0.2)
        finally:
            ended.set()
        assert all(job.result(60) > 0 for job in jobs)
    after = digits.status()
    assert after["restarts"]["engine"] - before["restarts"]["engine"] == 2
    assert after["fronts"][0]["errors"] == before["fronts"][0]["errors"]
    assert_idle(digits)


def test_requests_in_a_killed_engine_run_again_the_one_that_ran_and_those_that_waited(slow: Tree) -> None:
    before = front_of(slow)["resubmitted"]
    running, gate = hold(slow, 1)
    queued = [slow.wire() for _ in range(4)]
    for i, wire in enumerate(queued):
        wire.send(request(asking(10 + i)))
    accepted(slow, 5)
    os.kill(slow.pid_of("engine"), signal.SIGKILL)
    gate.open()
    assert running.read().json()["x"] == 2
    assert [wire.read().json()["x"] for wire in queued] == [20, 22, 24, 26]
    assert front_of(slow)["resubmitted"] == before + 5
    assert begun(slow) == [1, 1]
    for wire in (running, *queued):
        wire.close()
    assert_idle(slow)


def test_requests_that_come_while_the_engine_restarts_wait_for_it(slow: Tree) -> None:
    os.kill(slow.pid_of("engine"), signal.SIGKILL)
    with slow.wire() as wire:
        assert wire.post(asking(4)).json()["x"] == 8


def test_when_a_front_is_killed_another_takes_its_place_on_the_same_port(digits: Tree) -> None:
    rows = model.some_rows(np.random.default_rng(10), 2)
    killed = digits.pid_of("front")
    with digits.wire() as wire:
        assert wire.post(model.to_npy(rows), "application/x-npy").status == 200
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(Closed):
            wire.read()
    with digits.wire() as wire:  # accepted by the kernel at once: the port was never closed
        reply = wire.post(model.to_npy(rows), "application/x-npy")
        assert model.close(model.from_npy(reply.body), model.answers(rows))
    eventually(lambda: digits.pid_of("front") not in (0, killed), "the new front shows itself")
    assert digits.status()["replicas"][0]["state"] == "READY"


def test_when_a_front_is_killed_its_running_requests_do_not_block_the_next_one(slow: Tree) -> None:
    (running, gate), queued = hold(slow, 1), [slow.wire() for _ in range(5)]
    for i, wire in enumerate(queued):
        wire.send(request(asking(10 + i, "wait", s=5)))
    accepted(slow, 6)
    for wire in queued:
        hang_up(wire, reset=True)
    killed = slow.pid_of("front")
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: slow.pid_of("front") not in (0, killed), "another front")
    gate.open()
    with slow.wire(10.0) as wire:
        assert wire.post(asking(3)).json()["x"] == 6
    assert begun(slow) == [1], "nobody waits for the five others any more"
    running.close()


def test_when_the_sidecar_is_killed_traffic_goes_on_and_another_comes(digits: Tree) -> None:
    killed = digits.pid_of("sidecar")
    before = digits.status()["restarts"]["sidecar"]
    os.kill(killed, signal.SIGKILL)
    rows = model.some_rows(np.random.default_rng(11), 1)
    for _ in range(20):
        assert digits.ping() == 200
        with digits.wire() as wire:
            assert wire.post(model.to_npy(rows), "application/x-npy").status == 200
    assert eventually(digits.status, "/status is back")["restarts"]["sidecar"] == before + 1
    assert digits.pid_of("sidecar") != killed


def test_a_process_that_ends_again_and_again_ends_the_container_with_an_error(tmp_path: Path) -> None:
    tree = Tree("echo", EVENKEEL_RESTART_LIMIT="1").wait_ready()
    try:
        for _ in range(2):
            ready = eventually(lambda: tree.status()["ready"] and tree.pid_of("engine"), "ready")
            os.kill(ready, signal.SIGKILL)
            eventually(lambda r=ready: tree.process.poll() is not None or tree.pid_of("engine") not in (0, r), "noticed")  # type: ignore[misc]
        assert tree.process.wait(30) == 1
        tree.assert_nothing_left()
        assert [r for r in tree.events("giving_up") if "engine" in r["message"]]
    finally:
        tree.kill()


def test_who_waits_for_an_engine_that_never_comes_back_is_told_so_at_once(tmp_path: Path) -> None:
    tree = Tree(handler_folder(tmp_path / "model"), EVENKEEL_RESTART_LIMIT="0").wait_ready()
    try:
        waiting = [begin(tree, 0, asking(0, "wait", s=60)), tree.wire(), tree.wire()]
        for n, wire in enumerate(waiting[1:]):
            wire.send(request(asking(n)))
        os.kill(tree.pid_of("engine"), signal.SIGKILL)
        began_s = time.monotonic()
        told = [w.read() for w in waiting]
        assert [r.status for r in told] == [503] * 3 and b"gives up" in told[0].body
        assert tree.process.wait(30) == 1
        assert time.monotonic() - began_s < 15.0, "far below the 25 s that a drain may take"
        tree.assert_nothing_left()
    finally:
        tree.kill()


def test_a_sidecar_that_ends_again_and_again_takes_no_traffic_away(tmp_path: Path) -> None:
    with serving("echo", EVENKEEL_RESTART_LIMIT="2") as tree, tree.wire() as wire:
        for _ in range(4):
            pid = eventually(lambda: tree.pid_of("sidecar"), "a sidecar")
            os.kill(pid, signal.SIGKILL)
            eventually(lambda killed=pid: tree.pid_of("sidecar") not in (0, killed), "another")  # type: ignore[misc]
            assert wire.get("/ping").status == 200 and wire.post(b"[[1, 2]]").status == 200
        assert tree.process.poll() is None


def test_when_the_supervisor_itself_is_killed_nothing_stays_behind(tmp_path: Path) -> None:
    tree = Tree("echo").wait_ready()
    try:
        tree.process.kill()
        tree.process.wait()
        eventually(lambda: not tree.pids(), "every process has followed it")
    finally:
        tree.kill()


# Leaving --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_was_accepted_and_leaves_nothing(tmp_path: Path, signum: int) -> None:
    tree = Tree(handler_folder(tmp_path / "model")).wait_ready()
    idle, used = tree.wire(), tree.wire()
    assert used.ask(PING).status == 200
    running, gate = hold(tree, 0)
    wires = [running] + [tree.wire() for _ in range(5)]
    for i, wire in enumerate(wires[1:], start=1):
        wire.send(request(asking(i, "wait", s=0.05)))
    accepted(tree, 6)
    tree.tell(signum)
    assert idle.closed_by_server(60) and used.closed_by_server(60), "connections without a request are closed"
    gate.open()
    for i, wire in enumerate(wires):
        reply = wire.read()
        assert (reply.status, reply.json()["x"]) == (200, 2 * i)
        assert wire.closed_by_server()
    assert tree.process.wait(30) == 0
    tree.assert_nothing_left()
    assert tree.log()[-1]["event"] == "stopped"
    tree.kill()


def test_a_request_that_is_still_arriving_at_the_stop_is_answered_and_holds_nobody_up(tmp_path: Path) -> None:
    """One in the middle of its head, one of its body, one behind another request; all complete a moment later."""
    tree = Tree(handler_folder(tmp_path / "model")).wait_ready()
    sent = request(asking(3))
    cuts = [25, len(sent) - 5]
    wires = [tree.wire() for _ in range(4)]
    for wire, cut in zip(wires, [*cuts, *cuts], strict=True):
        wire.send(sent[:cut])
    for wire in wires[2:]:
        wire.close()  # and two that never complete
    idle, (running, gate) = tree.wire(), hold(tree, 1)
    tree.tell(signal.SIGTERM)
    assert idle.closed_by_server(60), "the front has been told"
    for wire, cut in zip(wires[:2], cuts, strict=True):
        wire.send(sent[cut:])
    gate.open()
    assert running.read().json()["x"] == 2
    for wire in wires[:2]:
        reply = wire.read()
        assert (reply.status, reply.json()["x"], reply.headers.get("connection")) == (200, 6, "close")
        assert wire.closed_by_server()
    assert tree.process.wait(20) == 0, "within the drain time"
    tree.assert_nothing_left()
    tree.kill()


def test_during_the_quiet_time_ping_is_503_and_requests_are_still_answered(tmp_path: Path) -> None:
    tree = Tree("echo", EVENKEEL_QUIET_S="10").wait_ready()
    tree.tell(signal.SIGTERM)
    eventually(lambda: tree.ping() == 503, "/ping says 503")
    with tree.wire() as wire:
        assert wire.get("/ping").code == "draining"
    with tree.wire() as wire:  # a new one: the answer that said 503 may have been its connection's last
        assert wire.post(b"[[1]]").status == 200
    assert tree.process.wait(30) == 0
    tree.assert_nothing_left()
    tree.kill()


def test_a_request_that_outlasts_the_drain_is_told_so_and_the_exit_says_so_too(tmp_path: Path) -> None:
    tree = Tree(handler_folder(tmp_path / "model"), EVENKEEL_DRAIN_S="2").wait_ready()
    wire = begin(tree, 1, asking(1, "wait", s=30))
    tree.tell(signal.SIGTERM)
    reply = wire.read()
    assert reply.status == 503 and b"this request was not done in time" in reply.body
    assert tree.process.wait(15) == 1
    tree.assert_nothing_left()
    tree.kill()


# Overload -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    with serving(handler_folder(tmp_path_factory.mktemp("narrow")), EVENKEEL_QUEUE_ROWS="4", EVENKEEL_STUCK_S="60") as tree:
        yield tree


def refusals(tree: Tree) -> int:
    return tree.errors().get("overloaded", 0)


def test_a_full_queue_refuses_with_429_and_serves_what_it_has(narrow: Tree) -> None:
    before = refusals(narrow)
    running, gate = hold(narrow, 0)
    wires = [running] + [narrow.wire() for _ in range(11)]
    for i, wire in enumerate(wires[1:], start=1):
        wire.send(request(asking(i)))
    eventually(lambda: refusals(narrow) == before + 8, "what the queue cannot hold is refused")
    gate.open()
    replies = [wire.read() for wire in wires]
    good = [(i, r) for i, r in enumerate(replies) if r.status == 200]
    refused = [r for r in replies if r.status != 200]
    assert [r.json()["x"] for _, r in good] == [2 * i for i, _ in good]
    assert (len(good), len(refused)) == (4, 8)
    for reply in refused:
        assert (reply.status, reply.code) == (429, "overloaded")
        assert int(reply.headers["retry-after"]) >= 1
        assert "connection" not in reply.headers
    assert refusals(narrow) == before + 8
    assert wires[-1].post(asking(5)).json()["x"] == 10, "the refused connection goes on"
    for wire in wires:
        wire.close()
    assert_idle(narrow)


def test_a_client_that_hangs_up_frees_its_place_in_a_full_queue(narrow: Tree) -> None:
    before = front_of(narrow)["abandoned"]
    running, gate = hold(narrow, 20)
    queued = [narrow.wire() for _ in range(3)]
    for i, wire in enumerate(queued):
        wire.send(request(asking(30 + i, "wait", s=0.5)))
    accepted(narrow, 4)
    with narrow.wire() as late:
        assert late.post(asking(1)).code == "overloaded"
        hang_up(queued[2], reset=True)
        abandoned(narrow, before + 1)
        gate.open()
        assert running.read().status == 200
        reply = late.post(asking(40))  # the first queued one runs now, the second waits, the third has left
        assert reply.status == 200, reply.raw[:300]
    assert [wire.read().status for wire in queued[:2]] == [200, 200]
    assert 32 not in begun(narrow)
    for wire in (running, *queued):
        wire.close()


def test_ping_is_200_while_requests_are_refused(narrow: Tree) -> None:
    before, (running, gate) = refusals(narrow), hold(narrow, 60)
    wires = [running] + [narrow.wire() for _ in range(8)]
    for wire in wires[1:]:
        wire.send(request(asking(1)))
    eventually(lambda: refusals(narrow) == before + 5, "the others are refused")
    assert narrow.ping() == 200
    gate.open()
    assert {wire.read().status for wire in wires} == {200, 429}
    for wire in wires:
        wire.close()
