"""`evenkeel judge --listen`: shows the decision over HTTP while it is being found, for controllers that ask by themselves.

Read only. The record is replaced as a whole after every look, so an answer is never half of one and half of the next.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from evenkeel.sidecar.rollout import adapters
from evenkeel.sidecar.rollout.judge_errors import BadRule, CannotJudge

REQUEST_S_MAX = 10.0  # a client that sends nothing holds its thread no longer
BODY_BYTES_MAX = 1 << 20


class DecisionServer:
    """The newest record. One writer, any number of readers."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record


@contextmanager
def listening(address: str, board: DecisionServer) -> Iterator[str]:
    """Serve the board at HOST:PORT; gives the address in use. Raises CannotJudge when that cannot be had."""

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_S_MAX

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "0")
            if length.isdecimal() and int(length) <= BODY_BYTES_MAX:
                self.rfile.read(int(length))  # Flagger sends the canary's name; one judge has one rollout
            self._answer()

        def _answer(self) -> None:
            answer = adapters.answer(self.command, self.path, board.record)
            data = json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass  # controllers ask every few seconds

    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise BadRule(f"--listen {address}: expected HOST:PORT")
    try:
        server = ThreadingHTTPServer((host or "0.0.0.0", int(port)), Handler)
    except (OSError, OverflowError) as e:
        raise CannotJudge(f"cannot listen on {address}: {e}") from e
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield f"http://{server.server_address[0]!s}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
