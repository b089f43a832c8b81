"""Looks up host names by a deadline, which the system's own call does not have.

Owns the look-ups in progress: one thread a name, however many wait for it, so names that hang for ever hold no more threads
than there are names. A thread that hangs dies with the process.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

Row = tuple[Any, ...]  # of socket.getaddrinfo: family, kind, protocol, canonical name, address
Resolve = Callable[[str, int], Sequence[Row]]
ADDRESSES_MAX = 8  # of one name that are tried


def _resolve(host: str, port: int) -> Sequence[Row]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Lookups:
    def __init__(self, resolve: Resolve = _resolve) -> None:
        self._resolve = resolve
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], Future[Sequence[Row]]] = {}

    def addresses(self, host: str, port: int, until_s: float) -> Sequence[Row]:
        """At least one. Raises OSError, which includes TimeoutError, and ValueError for what cannot be a name."""
        with suppress(socket.gaierror):  # a number is no name, and needs no thread
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return self._asked(host, port).result(max(0.0, until_s - time.monotonic()))[:ADDRESSES_MAX]

    def _asked(self, host: str, port: int) -> Future[Sequence[Row]]:
        with self._lock:
            answer = self._running.get((host, port))
            if answer is None:
                answer = Future()
                thread = threading.Thread(target=self._ask, args=(host, port, answer), name="lookup", daemon=True)
                thread.start()  # it ends behind this lock, so the entry below is there before it is taken away
                self._running[host, port] = answer
            return answer

    def _ask(self, host: str, port: int, answer: Future[Sequence[Row]]) -> None:
        rows: Sequence[Row] = ()
        wrong: Exception | None = None
        try:
            rows = self._resolve(host, port)
        except Exception as e:  # ValueError: what IDNA cannot write. Whatever it is, nobody may wait for this one for ever
            wrong = e if isinstance(e, OSError | ValueError) else OSError(f"the look-up failed: {e!r}")
        with self._lock:
            del self._running[host, port]
        if wrong is None and rows:
            answer.set_result(rows)
        else:
            answer.set_exception(wrong or OSError("the name has no address"))
