"""One event, one line on stdout: JSON for machines, or short text for a person at a terminal. Never a payload.

Each process names itself once with `setup`. A line is written with a single `os.write`, so lines of different
processes do not mix (they are below the 4096 bytes that a pipe writes atomically, or are cut).
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

LINE_BYTES_MAX = 4000
MESSAGE_CHARS_MAX = 3000

_process = "evenkeel"
_text = False
_fd = 1


def setup(process: str, *, text: bool, fd: int = 1) -> None:
    global _process, _text, _fd
    _process, _text, _fd = process, text, fd


def log(event: str, message: str = "", **fields: Any) -> None:
    """Write one event. `event` is a stable name; `message` is for people."""
    shape = _as_text if _text else _as_json
    data = shape(event, message, fields).encode("utf-8", "replace")
    while len(data) > LINE_BYTES_MAX and _shorten(fields):
        data = shape(event, message[: LINE_BYTES_MAX // 4], fields).encode("utf-8", "replace")
    if len(data) > LINE_BYTES_MAX:
        data = shape(event, message[: LINE_BYTES_MAX // 8], {}).encode("utf-8", "replace")
    try:
        os.write(_fd, data + b"\n")
    except OSError:
        pass  # a full or closed log must never stop the service; there is nowhere left to say so


def _shorten(fields: dict[str, Any]) -> bool:
    """Halve the longest text among the fields, keeping its end, where a traceback says what happened."""
    longest = max(fields, key=lambda k: len(str(fields[k])), default=None)
    if longest is None or len(str(fields[longest])) < 64:
        return False
    text = str(fields[longest])
    fields[longest] = "…" + text[-(len(text) // 2) :]
    return True


def _as_json(event: str, message: str, fields: dict[str, Any]) -> str:
    record: dict[str, Any] = {"time": round(time.time(), 3), "process": _process, "event": event}
    if message:
        record["message"] = message[:MESSAGE_CHARS_MAX]
    return json.dumps({**record, **fields}, default=str, ensure_ascii=False)


def _as_text(event: str, message: str, fields: dict[str, Any]) -> str:
    details = " ".join(f"{k}={v}" for k, v in fields.items())
    return f"{time.strftime('%H:%M:%S')} {_process:<10} {message or event}" + (f"  ({details})" if details else "")


class LogStream:
    """Stands in for sys.stdout and sys.stderr where user code runs: each printed line becomes one event."""

    encoding = "utf-8"

    def __init__(self, name: str) -> None:
        self.name, self._rest = name, ""

    def write(self, text: str) -> int:
        lines = (self._rest + text).split("\n")
        self._rest = lines.pop()[-MESSAGE_CHARS_MAX:]
        for line in lines:
            log("user_output", line, stream=self.name)
        return len(text)

    def flush(self) -> None:
        if self._rest:
            log("user_output", self._rest, stream=self.name)
            self._rest = ""

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return sys.__stderr__.fileno() if sys.__stderr__ else 2
