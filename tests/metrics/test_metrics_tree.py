"""/metrics of a real tree: exact while its processes are killed, answered while an engine hangs, scraped by Prometheus."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.metrics.test_metrics_deploy import RULES, queries
from tests.support import digits_model as model
from tests.support.handler_model import Gate, handler_folder
from tests.support.scrape import Scrape
from tests.support.tree import Tree, eventually, free_port, serving
from tests.support.wire import request

KILLS = 3
GET_IT = "prometheus is missing: apt-get install prometheus"


class Client:
    """Asks until told to stop, on a new connection when the old one ends. Counts what it saw, and what it cannot know."""

    def __init__(self, tree: Tree, part: int) -> None:
        self._tree, self._part = tree, part
        self.seen: Counter[str] = Counter()
        self.unknown = 0  # sent, but the connection ended before an answer: it may have been counted

    def run(self, ended: threading.Event) -> None:
        good = request(model.to_npy(model.some_rows(np.random.default_rng(self._part), 1)), "application/x-npy")
        bad = request(b"not an array", "application/x-npy")
        turn = 0
        while not ended.is_set():
            with contextlib.suppress(ConnectionError), self._tree.wire() as wire:
                while not ended.is_set():
                    turn += 1
                    self.unknown += 1
                    reply = wire.ask(bad if turn % 5 == 0 else good)
                    self.unknown -= 1
                    self.seen[str(reply.status)] += 1


def kill_one_after_the_other(tree: Tree) -> None:
    for role in ("engine", "front") * KILLS:
        time.sleep(0.2)
        killed = tree.pid_of(role)
        os.kill(killed, signal.SIGKILL)
        eventually(lambda r=role, k=killed: tree.pid_of(r) not in (0, k) and tree.status()["ready"], f"another {role}")  # type: ignore[misc]


def test_what_clients_saw_is_what_is_counted_though_fronts_and_engines_are_killed_under_load() -> None:
    with serving("digits", EVENKEEL_FRONTS="2", EVENKEEL_RESTART_LIMIT="50") as tree:
        clients, ended = [Client(tree, part) for part in range(6)], threading.Event()
        with ThreadPoolExecutor(len(clients)) as pool:
            jobs = [pool.submit(client.run, ended) for client in clients]
            try:
                kill_one_after_the_other(tree)
                time.sleep(0.3)
            finally:
                ended.set()
            for job in jobs:
                job.result(60)
        seen = sum((c.seen for c in clients), Counter())
        unknown = sum(c.unknown for c in clients)
        assert set(seen) == {"200", "400"} and min(seen.values()) > 50, seen
        scrape = Scrape.of_port(tree.port)
        counted = {code: scrape.of("evenkeel_requests_total", code=code) for code in ("200", "400")}
        over = {code: counted[code] - seen[code] for code in counted}
        assert all(n >= 0 for n in over.values()) and sum(over.values()) <= unknown, (counted, seen, unknown)
        assert scrape["evenkeel_requests_total"] - sum(counted.values()) <= unknown
        assert scrape["evenkeel_request_seconds_count"] == counted["200"]
        assert scrape.of("evenkeel_restarts_total", process="engine", reason="signal") == KILLS
        assert scrape.of("evenkeel_restarts_total", process="front", reason="exit") == KILLS
        assert scrape["evenkeel_restarts_total"] == 2 * KILLS
        side = Scrape.of_port(tree.side)
        for name in ("evenkeel_requests_total", "evenkeel_batch_rows_sum", "evenkeel_restarts_total", "evenkeel_ready"):
            assert side[name] == scrape[name], "both ports show the same page"


def test_with_one_front_that_lives_the_counts_are_those_of_the_clients_exactly() -> None:
    with serving("digits", EVENKEEL_FRONTS="1", EVENKEEL_RESTART_LIMIT="50") as tree:
        client, ended = Client(tree, 1), threading.Event()
        thread = threading.Thread(target=client.run, args=(ended,))
        thread.start()
        for _ in range(KILLS):
            time.sleep(0.2)
            killed = tree.pid_of("engine")
            os.kill(killed, signal.SIGKILL)
            eventually(lambda k=killed: tree.pid_of("engine") not in (0, k) and tree.status()["ready"], "another engine")  # type: ignore[misc]
        ended.set()
        thread.join(60)
        assert client.unknown == 0
        scrape = Scrape.of_port(tree.side)
        for code, count in client.seen.items():
            assert scrape.of("evenkeel_requests_total", code=code) == count
        assert scrape["evenkeel_requests_total"] == client.seen.total()


def test_while_the_engine_hangs_both_ports_are_scraped_and_say_that_it_is_busy(tmp_path: Path) -> None:
    with serving(handler_folder(tmp_path / "model"), EVENKEEL_STUCK_S="60") as tree:
        wire, gate = tree.wire(), Gate(tree.tmp)
        wire.send(request(gate.hold(1)))
        eventually(lambda: Scrape.of_port(tree.port)["evenkeel_in_flight"] == 1, "the request is in flight")

        def seen_busy() -> bool:
            scrape = Scrape.of_port(tree.port)  # what the sidecar has measured is there from its second sample on
            return "evenkeel_saturation_ratio" in scrape.names and scrape["evenkeel_saturation_ratio"] > 0

        eventually(seen_busy, "the busy engine shows before its batch has ended")
        assert Scrape.of_port(tree.port)["evenkeel_in_flight"] == 1
        assert Scrape.of_port(tree.side)["evenkeel_ready"] == 1
        gate.open()
        assert wire.read().status == 200
        wire.close()


def test_metrics_are_there_while_the_model_loads_and_count_nothing_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "slow"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text(
        "import os, time\n\n\ndef model_fn(d):\n    while not os.path.exists(d + '/go'):\n        time.sleep(0.01)\n\n\n"
        "def predict_fn(x, m):\n    return x\n"
    )
    tree = Tree(folder)
    try:
        scrape = eventually(lambda: Scrape.of_port(tree.port), "the data port answers")
        assert scrape["evenkeel_ready"] == 0
        scrape = eventually(lambda: Scrape.of_port(tree.side), "the sidecar answers")
        (folder / "go").touch()
        tree.wait_ready()
        for _ in range(5):
            scrape = Scrape.of_port(tree.port)
        assert scrape["evenkeel_requests_total"] == 0 and scrape["evenkeel_ready"] == 1
        with tree.wire() as wire:
            reply = wire.post(b"")  # POST /metrics is not possible, and says what is
            assert reply.status != 200
            answer = wire.ask(request(b"", path="/metrics"))
            assert (answer.status, answer.headers["allow"], answer.code) == (405, "GET, HEAD", "method_not_allowed")
        tree.stop()
    finally:
        tree.kill()


@pytest.mark.contract("12.25")
def test_emf_lines_come_on_the_containers_stdout_and_sum_up_to_what_was_asked() -> None:
    with serving("echo", EVENKEEL_EMF="1", EVENKEEL_EMF_PERIOD_S="1", EVENKEEL_EMF_NAMESPACE="shop/ranking") as tree:

        def lines() -> list[dict[str, Any]]:
            return [record for record in tree.log() if "_aws" in record]

        eventually(lambda: len(lines()) >= 1, "the first line")
        with tree.wire() as wire:
            for _ in range(40):
                assert wire.post(b"[[1, 2]]").status == 200
        eventually(lambda: sum(r["Requests"] for r in lines()) == 40, "every request is in a line")
        told = next(r for r in lines() if r["Requests"])
        assert told["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "shop/ranking"
        assert (told["model"], told["Ready"], told["Errors"]) == ("echo", 1, 0) and told["LatencyP99"] > 0


# ---- Prometheus itself -----------------------------------------------------------------------------------------------


class Prometheus:
    """A Prometheus that scrapes both ports of a tree every second, with our rules."""

    def __init__(self, tree: Tree, folder: Path) -> None:
        self.port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "evenkeel", "static_configs": [
                {"targets": [f"127.0.0.1:{tree.port}", f"127.0.0.1:{tree.side}"]}]}],
        }  # fmt: skip
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        with (folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                 f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log)  # fmt: skip

    def ask(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            answer = json.load(reply)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> dict[str, float]:
        """By instance."""
        found = self.ask("query", query=expression)["result"]
        return {r["metric"].get("instance", ""): float(r["value"][1]) for r in found}


@contextlib.contextmanager
def scraping(tree: Tree, folder: Path) -> Iterator[Prometheus]:
    prometheus = Prometheus(tree, folder)
    try:
        yield prometheus
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(30)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason=GET_IT)
def test_prometheus_scrapes_both_ports_and_answers_every_query_of_rules_and_dashboard(tmp_path: Path) -> None:
    with serving("digits") as tree, scraping(tree, tmp_path) as prometheus:
        ports = {f"127.0.0.1:{tree.port}", f"127.0.0.1:{tree.side}"}
        eventually(lambda: prometheus.query("up") == dict.fromkeys(ports, 1.0), "both ports are up", 60)
        row = model.to_npy(model.some_rows(np.random.default_rng(3), 1))
        with tree.wire() as wire:
            for _ in range(50):
                assert wire.post(row, "application/x-npy").status == 200
        counted = 'evenkeel_requests_total{code="200", model="digits"}'
        eventually(lambda: prometheus.query(counted) == dict.fromkeys(ports, 50.0), "what was asked is what was scraped", 30)
        assert prometheus.query("evenkeel_request_seconds_count") == dict.fromkeys(ports, 50.0)
        for expression in queries():
            prometheus.ask("query", query=expression)
        eventually(lambda: set(prometheus.query("evenkeel:request_seconds:p99_5m")) == ports, "rules are evaluated", 60)
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        assert len(rules) == 13 and {rule["health"] for rule in rules} == {"ok"}
        targets = prometheus.ask("targets")["activeTargets"]
        assert [t["lastError"] for t in targets] == ["", ""]


def test_no_counter_rises_and_falls_again_while_it_starts() -> None:
    """A worker rehearses by asking itself; to Prometheus and to the judge a counter that falls is a restart."""
    tree = Tree("digits")
    seen: list[tuple[float, float]] = []
    try:
        while tree.ping() != 200:
            with contextlib.suppress(OSError, KeyError):
                scrape = Scrape.of_port(tree.port)
                seen.append((scrape["evenkeel_requests_total"], scrape["evenkeel_request_seconds_count"]))
            time.sleep(0.005)
        scrape = Scrape.of_port(tree.port)
        seen.append((scrape["evenkeel_requests_total"], scrape["evenkeel_request_seconds_count"]))
    finally:
        tree.kill()
    assert len(seen) > 1 and set(seen) == {(0.0, 0.0)}
