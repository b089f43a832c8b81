"""Counts stay exact while the processes that count come and go: a thousand of them, on one page."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from evenkeel.serve.contract.status_page import Engine, Main
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.front.arbiter import Places
from evenkeel.serve.settings import Limits
from tests.support.front_bench import Caller, FrontBench, head
from tests.support.models import replica, signature, spec
from tests.support.scrape import Scrape

ROOT = Path(__file__).parents[2]
PAIR = signature([spec("x", 2)], [spec("y", 2)])
NPY = head("application/x-npy")
RESTARTS = 1000


def plain() -> Replica:
    return replica(PAIR)


def one_row() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones((1, 2), np.float32))
    return file.getvalue()


def replace_front(bench: FrontBench) -> None:
    """As when its process ends: its sockets and its arena close. Another takes the place on the page."""
    gone = bench.front
    gone.close()
    bench.settle()
    bench.front = bench.loop.run_until_complete(bench._make())
    os.close(gone.slot_writer.arena.fd)
    bench.settle()


def test_over_a_thousand_restarts_every_answer_is_counted_once() -> None:
    seed = 20261123
    rng = random.Random(seed)
    with FrontBench(plain) as bench:
        bench.page.main.count[Main.FRONTS] = bench.page.main.count[Main.ENGINES] = 1
        callers: list[Caller] = []
        crashed_with = replaced = 0
        for turn in range(RESTARTS):
            asked = [bench.ask(one_row() if rng.random() < 0.8 else b"not an array", NPY) for _ in range(rng.randint(1, 12))]
            callers += asked
            if turn % 2:
                bench.settle()
                replace_front(bench)
                replaced += 1
            else:
                bench.step_front()  # the records are on their way: the engine ends before it has taken them
                bench.engines[0].crash()
                crashed_with += sum(not c.answered for c in asked)
                bench.engines[0].start()
                bench.settle()
        bench.settle(2 * len(callers))  # those that may have been in a crash run one by one
        codes = [c.code for c in callers]
        assert set(codes) == {"ok", "bad_request"}, f"seed {seed}"
        scrape = Scrape.of_page(bench.page)
        assert scrape.of("evenkeel_requests_total", code="200") == codes.count("ok"), f"seed {seed}"
        assert scrape.of("evenkeel_requests_total", code="400") == codes.count("bad_request"), f"seed {seed}"
        assert scrape["evenkeel_requests_total"] == len(callers)
        assert scrape["evenkeel_request_seconds_count"] == scrape["evenkeel_queue_seconds_count"] == codes.count("ok")
        assert scrape["evenkeel_batch_rows_sum"] == codes.count("ok")
        assert scrape["evenkeel_retries_total"] == crashed_with > 0
        assert replaced == RESTARTS // 2


def test_the_supervisor_restarts_a_thousand_engines_and_clears_no_counter() -> None:
    """In a process of its own, because a supervisor reaps whatever ends."""
    driver = Path(__file__).with_name("replaced.py")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, driver, str(RESTARTS)], capture_output=True, text=True, timeout=120, env=environ)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    scrape = Scrape(found["metrics"])
    lives = found["lives"]
    assert lives == RESTARTS
    assert scrape.of("evenkeel_restarts_total", process="engine", reason="signal") == RESTARTS
    assert scrape["evenkeel_restarts_total"] == RESTARTS
    assert scrape["evenkeel_batch_rows_sum"] == 3 * lives and scrape["evenkeel_batch_rows_count"] == lives
    assert scrape["evenkeel_run_seconds_count"] == scrape["evenkeel_queue_seconds_count"] == lives
    assert scrape["evenkeel_run_seconds_sum"] == 0.5 * lives
    assert scrape["evenkeel_queue_rows"] == 0, "a gauge of a dead engine is cleared"


class Worker:
    def __init__(self, aborted: bool = False) -> None:
        self.place = -1
        self.aborted = aborted


class Arbiter:
    def __init__(self) -> None:
        self.WORKERS: dict[int, Worker] = {}


def test_a_worker_takes_the_place_of_the_one_before_it_and_is_counted_as_a_restart(page: Any) -> None:
    arbiter, places = Arbiter(), Places(page)
    for pid in range(3):
        arbiter.WORKERS[pid] = Worker()
        places.choose(arbiter, arbiter.WORKERS[pid])  # type: ignore[arg-type]
    assert [w.place for w in arbiter.WORKERS.values()] == [0, 1, 2]
    assert Scrape.of_page(page)["evenkeel_restarts_total"] == 0, "a first worker replaces nobody"
    rng = random.Random(5)
    for n in range(RESTARTS):
        pid = rng.choice(list(arbiter.WORKERS))
        gone = arbiter.WORKERS.pop(pid)
        gone.aborted = n % 10 == 0
        places.note_end(arbiter, gone)  # type: ignore[arg-type]
        arbiter.WORKERS[100 + n] = Worker()
        places.choose(arbiter, arbiter.WORKERS[100 + n])  # type: ignore[arg-type]
        assert arbiter.WORKERS[100 + n].place == gone.place
    scrape = Scrape.of_page(page)
    assert scrape.of("evenkeel_restarts_total", process="front", reason="exit") == 900
    assert scrape.of("evenkeel_restarts_total", process="front", reason="stuck") == 100


def test_workers_that_leave_at_the_end_are_no_restarts(page: Any) -> None:
    arbiter, places, worker = Arbiter(), Places(page), Worker()
    places.choose(arbiter, worker)  # type: ignore[arg-type]
    places.note_end(arbiter, worker)  # type: ignore[arg-type]
    assert Scrape.of_page(page)["evenkeel_restarts_total"] == 0


# ---- refusals by the real front --------------------------------------------------------------------------------------


def shed(bench: FrontBench) -> dict[str, float]:
    bench.page.main.count[Main.FRONTS] = 1
    scrape = Scrape.of_page(bench.page)
    return {reason: scrape.of("evenkeel_shed_total", reason=reason) for reason in ("rows", "bytes", "wait")}


def test_a_request_over_the_limit_of_rows_is_shed_for_rows() -> None:
    with FrontBench(plain, limits=Limits(queue_rows_max=2)) as bench:
        assert [bench.ask(one_row(), NPY).code for _ in range(5)] == ["waits", "waits", *["overloaded"] * 3]
        assert shed(bench) == {"rows": 3, "bytes": 0, "wait": 0}
        bench.settle()


def test_a_request_over_the_limit_of_bytes_is_shed_for_bytes() -> None:
    with FrontBench(plain, limits=Limits(queue_bytes_max=0)) as bench:
        assert bench.ask(one_row(), NPY).code == "overloaded"
        assert shed(bench) == {"rows": 0, "bytes": 1, "wait": 0}


def test_a_request_that_would_wait_beyond_its_deadline_is_shed_for_its_wait() -> None:
    with FrontBench(plain, limits=Limits(request_timeout_s=1.0)) as bench:
        bench.page.engine(0).value[Engine.ROW_COST_S] = 1.0
        bench.front.sweep()
        assert [bench.ask(one_row(), NPY).code for _ in range(3)] == ["waits", "overloaded", "overloaded"]
        assert shed(bench) == {"rows": 0, "bytes": 0, "wait": 2}
        bench.settle()
