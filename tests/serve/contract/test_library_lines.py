"""What libraries say by themselves: log lines of ours, with a level, and not without end."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.library_lines import LIBRARY_LINES_PER_S, capture
from evenkeel.serve.contract.logline import setup


class Events:
    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK)
        setup("tester", text=False, fd=self.write_fd)

    def read(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in os.read(self.read_fd, 1 << 20).splitlines()]
        except BlockingIOError:
            return []


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[Events]:
    before = (logline._process, logline._text, logline._fd)
    handlers, level = logging.root.handlers[:], logging.root.level
    for owner, name in ((sys, "stdout"), (sys, "stderr"), (sys, "excepthook"), (sys, "unraisablehook"),
                        (threading, "excepthook"), (warnings, "showwarning"), (logging, "raiseExceptions")):  # fmt: skip
        monkeypatch.setattr(owner, name, getattr(owner, name))
    found = Events()
    capture()
    yield found
    logging.captureWarnings(False)
    logging.root.handlers[:], logging.root.level = handlers, level
    for fd in (found.read_fd, found.write_fd):
        os.close(fd)
    setup(before[0], text=before[1], fd=before[2])


def test_a_line_of_a_library_is_one_of_ours_with_its_level(events: Events) -> None:
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request %s\n", "received.")
    logging.getLogger("uvicorn.error").info("nothing that anybody has to know")
    (event,) = events.read()
    assert (event["event"], event["logger"], event["level"]) == ("library", "uvicorn.error", "warning")
    assert event["message"] == "Invalid HTTP request received.\n"


def test_an_error_comes_with_its_traceback(events: Events) -> None:
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logging.getLogger("asyncio").exception("it broke")
    (event,) = events.read()
    assert event["level"] == "error" and "ZeroDivisionError" in event["trace"]


def test_arguments_that_do_not_fit_cost_nothing(events: Events) -> None:
    logging.getLogger("odd").error("%d rows", "many")
    assert [e["message"] for e in events.read()] == ["%d rows"]


def test_a_library_that_complains_without_end_is_limited_and_counted(events: Events) -> None:
    lost = logline.sink().lost
    for _ in range(20 * LIBRARY_LINES_PER_S):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("another").warning("is heard all the same")
    found = events.read()
    ours = [e for e in found if e.get("logger") == "uvicorn.error"]
    assert len(ours) <= 3 * LIBRARY_LINES_PER_S, "the loop may cross from one second to the next"
    assert logline.sink().lost - lost == 20 * LIBRARY_LINES_PER_S - len(ours)
    assert [e["message"] for e in found if e.get("logger") == "another"] == ["is heard all the same"]


def test_warnings_prints_and_lost_errors_are_log_lines(events: Events) -> None:
    capture()  # again: pytest has put its own sys.stdout there meanwhile
    warnings.warn("this way is old", stacklevel=1)
    print("printed")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    found = events.read()
    assert [(e["event"], e["level"]) for e in found] == [("library", "warning"), ("output", "info"), ("library", "error")]
    assert "this way is old" in found[0]["message"] and "ZeroDivisionError" in found[2]["trace"]


def test_the_error_that_ends_a_process_is_its_last_line(events: Events) -> None:
    try:
        raise RuntimeError("no way on")
    except RuntimeError as e:
        sys.excepthook(RuntimeError, e, e.__traceback__)
    (event,) = events.read()
    assert (event["event"], event["level"]) == ("crashed", "error") and "no way on" in event["trace"]
