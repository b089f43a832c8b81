"""What children write below our log: read in bounded pieces, limited a second, and never without their last
words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from evenkeel.container.supervise import child_output as outputs
from evenkeel.container.supervise.child_output import LAST_LINES, LINE_BYTES_MAX, READ_BYTES, ChildOutput
from evenkeel.serve.contract import logline
from evenkeel.serve.contract.line_budget import LINES_PER_S, LineBudget
from evenkeel.serve.contract.logline import setup
from tests.support.clock import ManualClock


class Child:
    """The writing end of a child's pipe, and the log that the supervisor makes of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(outputs.time, "monotonic", lambda: self.now_s)
        self.log_fd, self._log = os.pipe2(os.O_NONBLOCK)
        os.set_blocking(self._log, False)
        setup("supervisor", text=False, fd=self._log)
        read_fd, self.fd = os.pipe2(os.O_NONBLOCK)
        self.output = ChildOutput(read_fd, "engine 0")

    def says(self, data: bytes) -> None:
        os.write(self.fd, data)

    def events(self) -> list[dict[str, Any]]:
        """So far; called often enough that the pipe behind the log never fills."""
        found = b""
        try:
            while data := os.read(self.log_fd, 1 << 20):
                found += data
        except BlockingIOError:
            pass
        return [json.loads(line) for line in found.splitlines()]

    def lines(self) -> list[str]:
        return [e["message"] for e in self.events() if e["event"] == "output"]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    before = (logline._process, logline._text, logline._fd)
    yield Child(monkeypatch)
    setup(before[0], text=before[1], fd=before[2])


def test_each_line_is_an_event_that_names_its_child(child: Child) -> None:
    child.says(b"one\r\n\ntwo \xff\nha")
    assert child.output.read()
    child.says(b"lf\n")
    assert child.output.read()
    assert [(e["message"], e["source"]) for e in child.events()] == [
        ("one", "engine 0"), ("two \\xff", "engine 0"), ("half", "engine 0")]  # fmt: skip


def test_a_read_takes_no_more_than_one_piece(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    read = os.read

    def endless(fd: int, size: int) -> bytes:
        if fd != child.output.fd:
            return read(fd, size)
        sizes.append(size)
        return b"y\n" * (size // 2)

    monkeypatch.setattr(os, "read", endless)
    assert child.output.read() and sizes == [READ_BYTES]


def flood(child: Child, lines: int = 8000) -> None:
    child.says(b"y\n" * lines)
    child.output.read()


def test_a_child_that_prints_without_end_is_limited_a_second_and_counted(child: Child) -> None:
    lost, seen = logline.sink().lost, 0
    for _ in range(5):
        flood(child)
        seen += len(child.lines())
    # The pipe behind the log of this test holds fewer lines than the budget: those are lost too.
    assert 0 < seen <= LINES_PER_S and logline.sink().lost - lost == 5 * 8000 - seen
    child.now_s += 1.0
    child.says(b"and then\n")
    child.output.read()
    told = child.events()
    assert [e["event"] for e in told if e["event"] != "lines_lost"] == ["lines_left_out", "output"]


def test_its_pipe_rests_between_reads_and_is_read_all_the_same(child: Child) -> None:
    assert child.output.due_s(child.now_s) == 0
    flood(child)
    rest_s = child.output.due_s(child.now_s)
    assert 0 < rest_s <= 0.01, "a full pipe stops the child"
    child.now_s += rest_s
    assert child.output.due_s(child.now_s) == 0
    child.now_s += 1.0
    child.says(b"calm again\n")
    child.output.read()
    assert child.output.due_s(child.now_s) == 0


def test_what_a_child_wrote_last_is_logged_whatever_it_wrote_before(child: Child) -> None:
    flood(child)
    child.events()
    child.says(b"noise\n" * 100 + b"Fatal Python error: Aborted\n  File inference.py")
    child.output.close()
    assert child.lines()[-2:] == ["Fatal Python error: Aborted", "  File inference.py"]


def test_the_last_words_are_bounded(child: Child) -> None:
    flood(child)
    child.events()
    child.says(b"noise\n" * 1000)
    child.output.close()
    assert len(child.lines()) == LAST_LINES


def test_a_line_without_end_comes_in_parts(child: Child) -> None:
    child.says(b"z" * (2 * LINE_BYTES_MAX + 5))
    child.output.read()
    assert [len(line) for line in child.lines()] == [LINE_BYTES_MAX, LINE_BYTES_MAX, 5]


def test_the_end_of_the_pipe_is_noticed_in_a_flood_too(child: Child) -> None:
    flood(child)
    os.close(child.fd)
    assert not child.output.read()


def test_a_budget_is_for_one_second() -> None:
    clock, budget = ManualClock(5.0), LineBudget(lines=2, size=100)
    assert [budget.take(10, clock.now_s) for _ in range(4)] == [True, True, False, False]
    assert budget.told() == 2 and budget.told() == 0
    assert budget.take(1000, 6.0), "the first line of a second always fits"
    assert not budget.take(1, 6.5) and budget.spent(6.5) and not budget.spent(7.0)
