"""Who asks, for `make load` or for locust itself: `locust -f tests/load/locustfile.py --host http://HOST:PORT JsonUser`.

The bodies are for the digits model (rows of 8x8); FileUser sends any file to any model. Every answer is checked: a 200
with the wrong number of rows is a failure. Settings come from LOAD_* variables, which tests/load/run.py fills.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import gevent
import numpy as np
from locust import FastHttpUser, constant, constant_throughput, events, tag, task

RATE = float(os.environ.get("LOAD_RATE") or 0)  # requests a second of one user; 0: as fast as it is answered
PING_EVERY_S, PING_S_MAX = 1.0, 2.0
SIZES = (1, 1, 1, 2, 4, 16, 64, 256)  # rows of a mixed request: mostly small, sometimes large
JSON, NPY = "application/json", "application/x-npy"
HISTORY: list[dict[str, float]] = []


def rows(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng().integers(0, 16, (count, 8, 8)).astype(np.float32)


def as_json(count: int) -> bytes:
    return json.dumps({"instances": rows(count).tolist()}).encode()


def as_npy(count: int) -> bytes:
    file = io.BytesIO()
    np.save(file, rows(count))
    return file.getvalue()


MADE = {JSON: {n: as_json(n) for n in set(SIZES)}, NPY: {n: as_npy(n) for n in set(SIZES)}}


class Asking(FastHttpUser):
    abstract = True
    wait_time = constant_throughput(RATE) if RATE else constant(0)
    network_timeout, connection_timeout = 70.0, 5.0
    base = ""  # in front of the path; empty: --host

    def ask(self, kind: str, count: int) -> None:
        with self.client.post(
            f"{self.base}/invocations", data=MADE[kind][count], headers={"Content-Type": kind}, catch_response=True,
            name=f"{kind} {'rows' if count > 1 else 'row'}",
        ) as reply:  # fmt: skip
            if reply.status_code != 200:
                reply.failure(f"{reply.status_code} {(reply.content or b'')[:200]!r} {reply.error or ''}")
            elif answered(kind, reply.content) != count:
                reply.failure(f"{count} rows asked, {answered(kind, reply.content)} answered")


def answered(kind: str, body: bytes) -> int:
    """How many rows are in an answer."""
    if kind == NPY:
        return len(np.load(io.BytesIO(body), allow_pickle=False))
    found = json.loads(body)
    return len(found["predictions"] if isinstance(found, dict) else found)


class JsonUser(Asking):
    @task
    def one_row(self) -> None:
        self.ask(JSON, 1)


class NpyUser(Asking):
    @task
    def one_row(self) -> None:
        self.ask(NPY, 1)


class MixedUser(Asking):
    @task
    def any_size(self) -> None:
        self.ask(random.choice((JSON, NPY)), random.choice(SIZES))


class FileUser(Asking):
    """Your own model: LOAD_BODY names a file with one request, LOAD_TYPE its Content-Type."""

    @task
    def the_file(self) -> None:
        body, kind = Path(os.environ["LOAD_BODY"]).read_bytes(), os.environ.get("LOAD_TYPE") or JSON
        with self.client.post(
            f"{self.base}/invocations", data=body, headers={"Content-Type": kind}, catch_response=True, name=kind
        ) as reply:
            if reply.status_code != 200:
                reply.failure(f"{reply.status_code} {(reply.content or b'')[:200]!r} {reply.error or ''}")


class RollingUser(Asking):
    """As behind a load balancer: each request goes to a container whose last /ping was 200. LOAD_HOSTS lists them."""

    hosts: ClassVar[list[str]] = [h for h in os.environ.get("LOAD_HOSTS", "").split(",") if h]
    healthy: ClassVar[list[str]] = []

    @task
    def one_row(self) -> None:
        if not RollingUser.healthy:
            gevent.sleep(0.05)
            return
        self.base = random.choice(RollingUser.healthy)
        self.ask(JSON, 1)


class Balancer(FastHttpUser):
    """The pings behind RollingUser."""

    fixed_count = 1
    network_timeout = connection_timeout = PING_S_MAX
    wait_time = constant(0.2)

    @tag("ping")
    @task
    def look(self) -> None:
        found = []
        for host in RollingUser.hosts:
            with self.client.get(f"{host}/ping", catch_response=True, name="balancer's /ping") as reply:
                reply.success()  # a container that restarts does not answer: that is what pings are for
                if reply.status_code == 200:
                    found.append(host)
        RollingUser.healthy[:] = found


class PingUser(FastHttpUser):
    """The platform: /ping must be answered within 2 s whatever the load."""

    fixed_count = 1
    network_timeout = connection_timeout = PING_S_MAX
    wait_time = constant(PING_EVERY_S)

    @task
    def ping(self) -> None:
        self.client.get("/ping", name="/ping")


# Progress, and the result for tests/load/run.py -----------------------------------------------------------------------


def _requests(environment: Any) -> Any:
    return environment.stats.total


@events.test_start.add_listener
def show_progress(environment: Any, **_: Any) -> None:
    def each_second() -> None:
        began_s = time.monotonic()
        while environment.runner is not None and environment.runner.state not in ("stopped", "cleanup"):
            gevent.sleep(1.0)
            total = _requests(environment)
            point = {
                "t_s": time.monotonic() - began_s, "rps": total.current_rps, "failures": total.num_failures,
                **{f"p{p}_ms": total.get_current_response_time_percentile(p / 100) or 0.0 for p in (50, 95, 99)},
            }  # fmt: skip
            HISTORY.append(point)
            print("  {t_s:4.0f} s {rps:8.0f} requests/s   p50 {p50_ms:6.0f} ms   p95 {p95_ms:6.0f}   p99 {p99_ms:6.0f}   "
                  "failures {failures}".format(**point), file=sys.stderr, flush=True)  # fmt: skip

    gevent.spawn(each_second)


@events.quitting.add_listener
def write_result(environment: Any, **_: Any) -> None:
    path = os.environ.get("LOAD_RESULT")
    if not path:
        return
    asked = [e for e in environment.stats.entries.values() if "/ping" not in e.name]
    result = {
        "history": HISTORY,
        "entries": [entry(e) for e in sorted(environment.stats.entries.values(), key=lambda e: e.name)],
        "requests": sum(e.num_requests for e in asked), "rps": sum(e.total_rps for e in asked),
        "failures": environment.stats.total.num_failures,
        "errors": [f"{e.occurrences}x {e.name}: {e.error}" for e in environment.stats.errors.values()][:10],
        **percentiles(asked),
    }  # fmt: skip
    Path(path).write_text(json.dumps(result))


def entry(e: Any) -> dict[str, Any]:
    found = {f"p{p}_ms": e.get_response_time_percentile(p / 100) for p in (50, 95, 99)}
    return {"name": e.name, "requests": e.num_requests, "failures": e.num_failures, "rps": e.total_rps, **found}


def percentiles(entries: list[Any]) -> dict[str, float]:
    """Over all requests to the model: the pings, which are quick, would flatter them."""
    times: dict[float, int] = {}
    for e in entries:
        for ms, count in e.response_times.items():
            times[ms] = times.get(ms, 0) + count
    total, found = sum(times.values()), {}
    for p in (50, 95, 99):
        seen = 0
        for ms in sorted(times):
            seen += times[ms]
            if seen >= total * p / 100:
                found[f"p{p}_ms"] = float(ms)
                break
    return found
