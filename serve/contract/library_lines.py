"""What libraries and the interpreter print in a process of ours becomes log lines: logging, warnings, errors.

Engines set up less: there user code may do with `logging` what it likes (engine/backends/handler/script_surroundings.py).
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any

from evenkeel.serve.contract.line_budget import LineBudget
from evenkeel.serve.contract.log_stream import LogStream, log_left_out
from evenkeel.serve.contract.logline import log, sink

LIBRARY_LINES_PER_S = 10  # of one logger: a client can make the HTTP parser complain as often as it likes
LOGGERS_MAX = 64  # with a budget of their own; the others share one


def capture() -> None:
    """From now on nothing but the log writes, as long as it is written in Python."""
    sys.stdout, sys.stderr = LogStream("stdout", "output"), LogStream("stderr", "output")
    sys.excepthook = log_crash
    threading.excepthook = lambda args: _log_error(f"a thread ended: {args.exc_value!r}", args.exc_value)
    sys.unraisablehook = lambda args: _log_error(f"{args.err_msg or 'an ignored error'}: {args.exc_value!r}", args.exc_value)
    logging.raiseExceptions = False
    logging.basicConfig(handlers=[LibraryHandler()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log("crashed", f"this process ends on an error: {error!r}", trace="".join(traceback.format_exception(kind, error, trace)))


def _log_error(message: str, error: BaseException | None) -> None:
    log("library", message, level="error", trace="".join(traceback.format_exception(error)) if error else "")


class LibraryHandler(logging.Handler):
    """The root logger's only handler. `lines` a second of each logger become events called `event`."""

    def __init__(self, event: str = "library", lines: int = LIBRARY_LINES_PER_S) -> None:
        super().__init__()
        self._event, self._lines = event, lines
        self._budgets: dict[str, LineBudget] = {}

    def emit(self, record: logging.LogRecord) -> None:
        budget = self._budget(record.name)
        if not budget.take(0, time.monotonic()):
            sink().count(1)
            return
        log_left_out(budget, record.name)
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["trace"] = "".join(traceback.format_exception(record.exc_info[1]))
        log(self._event, _message(record), level=record.levelname.lower(), **fields)

    def _budget(self, name: str) -> LineBudget:
        if name not in self._budgets and len(self._budgets) >= LOGGERS_MAX:
            name = ""
        return self._budgets.setdefault(name, LineBudget(lines=self._lines))


def _message(record: logging.LogRecord) -> str:
    with contextlib.suppress(Exception):  # arguments that do not fit their format
        return record.getMessage()
    return str(record.msg)
