"""Ask a process of ours something and wait for its answer, for a bounded time. For those who may wait."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any, Protocol

from evenkeel.serve.contract.commands import (
    LINE_BYTES_MAX,
    Command,
    CommandError,
    Refusal,
    Result,
    Verb,
    read_answer,
    request_line,
)


class Asks(Protocol):
    """Whom the one who asks needs to know."""

    def ask(self, verb: Verb, arguments: Mapping[str, Any], within_s: float) -> Result:
        """Raises CommandError."""


class CommandClient:
    """A connection for each question: the one who is asked may have been started anew meanwhile."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, verb: Verb, arguments: Mapping[str, Any], within_s: float) -> Result:
        """Raises CommandError: what the other said, or NO_ANSWER, and then nobody knows whether it was obeyed."""
        deadline_s = time.monotonic() + within_s
        line = request_line(Command(1, verb, deadline_s, arguments))
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(within_s)
                sock.connect(self._address)
                sock.sendall(line)
                return read_answer(_line(sock, deadline_s)).unwrapped()
        except OSError as e:
            raise CommandError(Refusal.NO_ANSWER, f"{verb}: no answer ({e.strerror or e})", retry_after_s=1.0) from e


def _line(sock: socket.socket, deadline_s: float) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        sock.settimeout(max(0.001, deadline_s - time.monotonic()))
        data = sock.recv(LINE_BYTES_MAX)
        if not data:
            raise ConnectionResetError("the connection was closed")
        line += data
        if len(line) > LINE_BYTES_MAX:
            raise OSError("the answer is too long")
    return line
