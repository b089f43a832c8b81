"""What stands in for sys.stdout and sys.stderr: each printed line becomes one event of the log, within the budget of a second.

Scripts do with these what they do with real ones: `reconfigure`, `buffer`, `writelines`, a TextIOWrapper or a codecs writer
around the buffer. All of it ends here. Nothing that a script does closes them, so the log stays.
"""

from __future__ import annotations

import codecs
import io
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from evenkeel.serve.contract.line_budget import LineBudget
from evenkeel.serve.contract.logline import MESSAGE_CHARS_MAX, log, sink


class LogStream(io.TextIOBase):
    """`event` is that of its lines. A line without an end waits for it, or for a flush."""

    encoding, errors = "utf-8", "backslashreplace"
    mode, closed, line_buffering, write_through = "w", False, True, True

    def __init__(self, name: str, event: str = "user_output") -> None:
        self.name, self._event, self._rest = name, event, ""
        self._budget, self._lock = LineBudget(), threading.RLock()
        self.buffer = LogBytes(self)

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            lines = (self._rest + text).split("\n")
            self._rest = lines.pop()[-MESSAGE_CHARS_MAX:]
        for printed in lines:
            self._log(printed)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            rest, self._rest = self._rest, ""
        if rest:
            self._log(rest)

    def reconfigure(self, **how: Any) -> None:
        """Lines go out as they end, in UTF-8, whatever was wished."""
        self.flush()

    def close(self) -> None:
        self.flush()

    def detach(self) -> LogBytes:  # type: ignore[override]
        return self.buffer

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return sys.__stderr__.fileno() if sys.__stderr__ else 2

    def _log(self, printed: str) -> None:
        if not self._budget.take(len(printed), time.monotonic()):
            sink().count(1)
            return
        log_left_out(self._budget, self.name)
        log(self._event, printed, stream=self.name)


class LogBytes(io.BufferedIOBase):
    """The same stream for those who write bytes. A character may come in pieces."""

    mode, closed = "wb", False

    def __init__(self, text: LogStream) -> None:
        self._text, self._decoder = text, codecs.getincrementaldecoder("utf-8")("backslashreplace")

    @property
    def name(self) -> str:
        return self._text.name

    @property
    def raw(self) -> io.RawIOBase:
        return self  # type: ignore[return-value]  # it has no buffer of its own

    def write(self, data: Any, /) -> int:
        written = bytes(data)
        self._text.write(self._decoder.decode(written).replace("\r\n", "\n"))
        return len(written)

    def writelines(self, lines: Iterable[Any], /) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._text.flush()

    def close(self) -> None:
        self.flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()


def log_left_out(budget: LineBudget, source: str) -> None:
    """Say once how many lines of a source were too many, when the next one fits."""
    if left_out := budget.told():
        log("lines_left_out", f"{left_out} lines of {source} were left out: it writes too much", level="warning",
            lines=left_out, source=source)  # fmt: skip
