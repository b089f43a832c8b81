"""What a child writes on its stdout and stderr, below our log: user code, native libraries, a crash's last words.

Read here, in the supervisor, because it must also be read when the child has just died. Each line becomes one
event. A child may print without end: a read takes a bounded amount, lines over the budget of a second are
counted and left out, and the pipe then rests between reads. It is read all the same, since a full pipe would
stop the child.
"""

from __future__ import annotations

import os
import time

from evenkeel.serve.contract.line_budget import LineBudget
from evenkeel.serve.contract.log_stream import log_left_out
from evenkeel.serve.contract.logline import log, sink

READ_BYTES = 65536  # as much as a pipe holds
LINE_BYTES_MAX = 3000  # of a line without an end; the rest follows as a line of its own
REST_S = 0.005  # between reads of a child that is over its budget: 13 MB/s are taken off it, for little CPU
LAST_LINES = 40  # that a child wrote before it ended are logged whatever its budget: they say why


class ChildOutput:
    """One child's pipe. Owner of its reading end."""

    def __init__(self, fd: int, source: str) -> None:
        os.set_blocking(fd, False)
        self.fd, self._source, self._rest = fd, source, b""
        self._budget = LineBudget()
        self._resting_until_s = 0.0

    def due_s(self, now_s: float) -> float:
        """Seconds until it is to be read again; 0: now."""
        return max(0.0, self._resting_until_s - now_s)

    def read(self) -> bool:
        """Log what has come, as far as one read takes it. False at the end of the pipe."""
        now_s = time.monotonic()
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if data and self._budget.spent(now_s):
            self._leave_out(data)
        else:
            self._log(self._lines(data), now_s)
        if self._budget.spent(now_s):
            self._resting_until_s = now_s + REST_S
        return bool(data)

    def close(self) -> None:
        """The child has ended: what is left in the pipe is read, its end in any case."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except OSError:  # nothing is there, or others hold the pipe open and write nothing
            data = b""
        lines = self._lines(data)
        if self._rest:
            lines, self._rest = [*lines, self._rest], b""
        self._log(lines[:-LAST_LINES], time.monotonic())
        log_left_out(self._budget, self._source)
        for line in lines[-LAST_LINES:]:
            self._log_line(line)
        os.close(self.fd)

    def _lines(self, data: bytes) -> list[bytes]:
        """Those that are complete with these bytes, without empty ones."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > LINE_BYTES_MAX:
            lines, self._rest = [*lines, self._rest], b""
        lines = [line.rstrip(b"\r") for line in lines]
        return [line[i : i + LINE_BYTES_MAX] for line in lines for i in range(0, len(line), LINE_BYTES_MAX)]

    def _leave_out(self, data: bytes) -> None:
        """Count its lines without looking at them. What follows the last one is kept: maybe a crash's first words."""
        lines = data.count(b"\n")
        if lines:
            self._rest = data[data.rindex(b"\n") + 1 :][-LINE_BYTES_MAX:]
        else:
            lines, self._rest = 1, b""
        self._budget.left_out += lines
        sink().count(lines)

    def _log(self, lines: list[bytes], now_s: float) -> None:
        for i, line in enumerate(lines):
            if not self._budget.take(len(line), now_s):
                self._budget.left_out += len(lines) - i - 1
                sink().count(len(lines) - i)
                return
            log_left_out(self._budget, self._source)
            self._log_line(line)

    def _log_line(self, line: bytes) -> None:
        log("output", line.decode("utf-8", "backslashreplace"), source=self._source)
