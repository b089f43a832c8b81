"""One event, one line: always whole, always JSON, whatever is in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.contract import logline
from serve.contract.logline import LINE_BYTES_MAX, LogStream, log, setup


class Output:
    """The reading end of a log."""

    def __init__(self, text: bool) -> None:
        self.read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
        self.write_fd = write_fd
        setup("tester", text=text, fd=write_fd)

    @property
    def raw(self) -> bytes:
        try:
            return os.read(self.read_fd, 1 << 20)
        except BlockingIOError:
            return b""

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw.splitlines()]

    def close(self) -> None:
        for fd in (self.read_fd, self.write_fd):
            os.close(fd)


@pytest.fixture
def output() -> Iterator[Output]:
    before = (logline._process, logline._text, logline._fd)
    out = Output(text=False)
    yield out
    out.close()
    setup(before[0], text=before[1], fd=before[2])


def test_an_event_is_one_json_object_on_one_line(output: Output) -> None:
    log("restart", "line one\nline two", place=3, path=os)
    (event,) = output.events
    assert event["event"] == "restart" and event["process"] == "tester" and event["place"] == 3
    assert event["message"] == "line one\nline two" and datetime.fromisoformat(event["time"]).tzinfo is UTC


@pytest.mark.parametrize(
    "fields",
    [
        {"traceback": "x" * 10_000},
        {"a": "x" * 2500, "b": "y" * 2500},
        {"traceback": "\n" * 3000},
    ],
    ids=["one long field", "two long fields", "many escapes"],
)
def test_a_line_with_long_fields_is_still_json_and_short_enough_to_be_atomic(output: Output, fields: dict[str, str]) -> None:
    log("model_error", "it broke", **fields)
    raw = output.raw
    assert len(raw) <= 4096 and raw.endswith(b"\n") and raw.count(b"\n") == 1
    assert json.loads(raw)["event"] == "model_error"


@pytest.mark.parametrize("message", ["é" * 5000, "日" * 5000, "\x00" * 3000, "x" * 100_000])
def test_a_long_message_is_cut_and_the_line_is_still_json(output: Output, message: str) -> None:
    log("model_error", message)
    raw = output.raw
    assert len(raw) <= 4096
    event = json.loads(raw)
    assert event["message"] and event["message"][:10] == message[:10]


def test_what_is_no_text_does_not_break_the_line(output: Output) -> None:
    log("odd", "\ud800 and \x00", value=object())
    raw = output.raw
    assert raw.count(b"\n") == 1 and json.loads(raw)["event"] == "odd"


def test_a_log_that_nobody_reads_stops_nothing(output: Output) -> None:
    for _ in range(100):
        log("flood", "x" * 3000)
    assert all(line.endswith(b"}") for line in output.raw.splitlines()[:-1])


def test_a_closed_log_stops_nothing() -> None:
    before = (logline._process, logline._text, logline._fd)
    read_end, write_end = os.pipe()
    os.close(read_end)
    os.close(write_end)
    setup("tester", text=False, fd=write_end)
    log("into the void")
    setup(before[0], text=before[1], fd=before[2])


def test_a_person_gets_the_message_and_the_details(output: Output) -> None:
    setup("front", text=True, fd=output.write_fd)
    log("ready", "warm and proven", seconds=1.5)
    line = output.raw.decode()
    assert "front" in line and "warm and proven" in line and "(seconds=1.5)" in line and "ready" not in line


# ---- user code prints ------------------------------------------------------------------------------------------------


def test_each_printed_line_is_one_event(output: Output) -> None:
    print("hello\nworld", file=LogStream("stdout"))
    assert [(e["event"], e["message"], e["stream"]) for e in output.events] == [
        ("user_output", "hello", "stdout"), ("user_output", "world", "stdout")]  # fmt: skip


def test_an_unfinished_line_waits_for_its_end_or_a_flush(output: Output) -> None:
    stream = LogStream("stderr")
    stream.write("half")
    assert output.events == []
    stream.write(" a line\nrest")
    assert [e["message"] for e in output.events] == ["half a line"]
    stream.flush()
    stream.flush()
    assert [e["message"] for e in output.events] == ["rest"]


def test_a_line_without_end_is_kept_in_bounds() -> None:
    stream = LogStream("stdout")
    for _ in range(100):
        stream.write("x" * 1000)
    assert len(stream._rest) <= logline.MESSAGE_CHARS_MAX


@given(st.lists(st.text(st.characters(exclude_characters="\r", exclude_categories=("Cs",)), max_size=20), max_size=20))
@settings(max_examples=40)
def test_whatever_is_printed_in_pieces_arrives_line_by_line(pieces: list[str]) -> None:
    before = (logline._process, logline._text, logline._fd)
    out = Output(text=False)
    stream = LogStream("stdout")
    for piece in pieces:
        assert stream.write(piece) == len(piece)
    stream.flush()
    lines = "".join(pieces).split("\n")
    if lines[-1] == "":
        lines.pop()
    raw = out.raw
    assert [e.get("message", "") for e in (json.loads(x) for x in raw.split(b"\n") if x)] == lines
    out.close()
    setup(before[0], text=before[1], fd=before[2])


def test_a_line_is_below_what_a_pipe_writes_at_once() -> None:
    assert LINE_BYTES_MAX < 4096
