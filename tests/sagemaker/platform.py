"""The platform around a container, from outside: its pings, its way of asking. Facts: the contract's sections 1.2 and 1.3.

Connect within 250 ms, a GET /ping answered within 2 s, every 5 s, on a connection of its own like any other request, from a
client that calls itself AHC/2.0. `every_s` compresses time for tests, and nothing else.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from tests.sagemaker.box import Box
from tests.support.wire import Wire, request

PING_EVERY_S = 5.0
CONNECT_S = 0.25
PING_S = 2.0
HEADERS = ("User-Agent: AHC/2.0", "Host: model.aws.local:8080")
# As the platform passes on what clients of its API said, in a case that nobody promised.
FORWARDED = (
    "x-amzn-sagemaker-custom-attributes: trace=1;caller=me",
    "X-AMZN-SAGEMAKER-INFERENCE-ID: id-1",
    "X-Amzn-SageMaker-Target-Variant: AllTraffic",
    "x-Amzn-sageMaker-Forwarded-Api: InvokeEndpoint",
    "X-Nobody-Knows-This: 1",
)


def ask(
    box: Box, body: bytes, content_type: str = "application/json", *more: str, timeout_s: float = 60.0, length: bool = True
) -> Wire:
    """A connection on which an invocation has been sent as the platform sends it; the reply is still to be read."""
    w = Wire(box.port, timeout_s, box.host)
    headers = (*HEADERS[:1], f"CONTENT-TYPE: {content_type}", *FORWARDED, *more)
    w.send(_named(request(body, None, headers=headers, length=length)))
    return w


def _named(data: bytes) -> bytes:
    return data.replace(b"Host: test", HEADERS[1].encode(), 1)


@dataclass(slots=True)
class Pings:
    """What a run of pings saw. `failed` holds a word for each that would have counted against the container."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)


class Pinging:
    """Pings in the background for as long as the block lasts."""

    def __init__(self, box: Box, every_s: float = PING_EVERY_S) -> None:
        self._box, self._every_s = box, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen = Pings()

    def __enter__(self) -> Pings:
        self._thread.start()
        return self.seen

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            failure = self._once()
            if failure:
                self.seen.failed.append(failure)
            else:
                self.seen.answered += 1
            if self._stop.wait(self._every_s):
                return

    def _once(self) -> str:
        started_s = time.monotonic()
        try:
            wire = Wire(self._box.port, CONNECT_S, self._box.host)
        except OSError as e:
            return f"no connection within {CONNECT_S} s: {e!r}"
        with wire:
            wire.sock.settimeout(PING_S)
            try:
                reply = wire.ask(_named(request(None, method="GET", path="/ping", headers=HEADERS[:1])))
            except OSError as e:
                return f"no answer within {PING_S} s: {e!r}"
        took_s = time.monotonic() - started_s
        return "" if reply.status == 200 and took_s < PING_S else f"{reply.status} after {took_s:.2f} s"
