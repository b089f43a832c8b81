"""A fake fleet over real HTTP: instances whose counters follow a clock that a test moves. And that clock."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EDGES = (0.016, 0.02, 0.024, 0.028, 0.032)


@dataclass(slots=True)
class StepClock:
    """Sleeping moves it; nobody waits."""

    at_s: float = 5000.0
    on_sleep: Callable[[float], None] = lambda now_s: None

    def now_s(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds
        self.on_sleep(self.at_s)


@dataclass(slots=True)
class Instance:
    """What it does a second. `broken` answers in place of the metrics."""

    clock: StepClock
    rps: float = 100.0
    error_rate: float = 0.0
    slow_rate: float = 0.01  # answers above 28 ms
    ready: int = 1
    state: str = "READY"
    restarts: int = 0
    served_before: int = 1000
    broken: str | None = None
    url: str = field(default="", init=False)

    def text(self) -> str:
        if self.broken is not None:
            return self.broken
        requests = self.served_before + int(self.rps * (self.clock.at_s - 5000.0))
        errors, slow = int(requests * self.error_rate), int(requests * self.slow_rate)
        labels = 'model="digits",version="1"'
        below = {0.016: int((requests - slow) * 0.5), 0.02: int((requests - slow) * 0.92), 0.024: requests - slow}
        lines = [
            "# TYPE evenkeel_requests counter",
            f'evenkeel_requests_total{{{labels},code="200"}} {requests - errors}',
            f'evenkeel_requests_total{{{labels},code="500"}} {errors}',
            "# TYPE evenkeel_request_seconds histogram",
            *(f'evenkeel_request_seconds_bucket{{{labels},le="{e}"}} {below.get(e, requests - slow)}' for e in EDGES[:-1]),
            *(f'evenkeel_request_seconds_bucket{{{labels},le="{e}"}} {requests}' for e in (EDGES[-1], "+Inf")),
            f"evenkeel_request_seconds_count{{{labels}}} {requests}",
            f"evenkeel_request_seconds_sum{{{labels}}} {requests * 0.02}",
            "# TYPE evenkeel_restarts counter",
            f'evenkeel_restarts_total{{process="engine",reason="died"}} {self.restarts}',
            "# TYPE evenkeel_ready gauge",
            f"evenkeel_ready {self.ready}",
            "# TYPE evenkeel_state gauge",
            *(f'evenkeel_state{{state="{s.lower()}"}} {2 * int(s == self.state)}' for s in ("NEW", "LOADING", "READY", "FAILED")),
            'evenkeel_model_info{model="digits",version="1",sha256="ab"} 1',
        ]
        return "\n".join(lines) + "\n"


@contextmanager
def serving(answer: Callable[[str], tuple[int, str]]) -> Iterator[str]:
    """An HTTP server on a free port; `answer` maps a path to a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            data = body.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def prometheus(arms: dict[str, dict[str, Instance]], stale: dict[str, float]) -> Callable[[str], tuple[int, str]]:
    """A Prometheus server that has scraped instances by track and name. `stale` are instances whose samples stand still."""

    def answer(path: str) -> tuple[int, str]:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)["query"][0]
        track = query.split('track="')[1].split('"')[0]
        rows = []
        for name, instance in arms.get(track, {}).items():
            at_s = stale.get(name, instance.clock.at_s)
            if query.startswith("timestamp("):
                rows.append({"metric": {"instance": name}, "value": [at_s, str(at_s)]})
                continue
            for line in instance.text().splitlines():
                if not line.startswith("#"):
                    rows.append(row(line, name, at_s))
        return 200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}})

    return answer


def row(line: str, instance: str, at_s: float) -> dict[str, Any]:
    series, _, value = line.rpartition(" ")
    name, _, rest = series.partition("{")
    labels = dict(part.split("=", 1) for part in rest.rstrip("}").split(",") if part)
    return {
        "metric": {"__name__": name, "instance": instance, **{k: v.strip('"') for k, v in labels.items()}},
        "value": [at_s, value],
    }
