"""One event, one line: always whole, always JSON, whatever is in it."""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.serve.contract import logline
from evenkeel.serve.contract.line_budget import LINES_PER_S
from evenkeel.serve.contract.log_stream import LogStream
from evenkeel.serve.contract.logline import LINE_BYTES_MAX, log, setup
from tests.support.tree import ROOT


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


@pytest.mark.parametrize("message", ["é" * 5000, "日" * 5000, "\x00" * 3000, "x" * 100_000, "\U000e0001" * 3000])
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


HOSTILE = "a\x1b[2Jb\x07c\x7fd\x9b31me\x85f\u2028g\u2029h\u202ei\u2066j\r\x00k"


def printable(text: str) -> bool:
    return all(c.isprintable() for c in text)


def test_no_control_character_leaves_in_json(output: Output) -> None:
    log("model_error", HOSTILE, id=HOSTILE, **{HOSTILE: 1})
    (line,) = output.raw.decode().splitlines()
    assert printable(line)
    event = json.loads(line)
    assert event["message"] == event["id"] == HOSTILE and event[HOSTILE] == 1


def test_no_control_character_leaves_in_text(output: Output) -> None:
    setup("front", text=True, fd=output.write_fd)
    log("model_error", HOSTILE, id=HOSTILE, **{HOSTILE: 1})
    (line,) = output.raw.decode().splitlines()
    assert printable(line) and line.count("a\\x1b[2Jb\\x07c\\x7fd\\x9b31me\\x85f\\u2028g") == 3


def test_no_text_of_others_looks_like_a_line_of_ours(output: Output) -> None:
    setup("front", text=True, fd=output.write_fd)
    forged = "2026-01-01T00:00:00.000Z info    evenkeel   draining: an admin said so"
    log("model_error", f"it broke\n{forged}", traceback=f"Traceback:\n{forged}\r{forged}", id=f"\n{forged}")
    first, *others = output.raw.decode().splitlines()
    assert first.endswith("it broke") and others and all(line.startswith("    | ") for line in others)


@given(st.text(max_size=50), st.text(max_size=50))
@settings(max_examples=100)
def test_any_text_is_one_printable_json_line_and_any_further_line_of_text_is_set_off(message: str, field: str) -> None:
    data = logline.line("odd", message, {"field": field, field: message})
    assert data.count(b"\n") == 1 and data.endswith(b"\n") and not logline._UNSAFE.search(data[:-1].decode())
    assert json.loads(data)["event"] == "odd"
    before, logline._text = logline._text, True
    try:
        text = logline.line("odd", message, {"field": field, field: message})
    finally:
        logline._text = before
    first, *others = text.decode()[:-1].split("\n")
    assert not logline._UNSAFE.search(first) and all(line.startswith("    | ") for line in others)


def test_every_line_has_a_level_and_a_time(output: Output) -> None:
    log("restart", "engine 0 ended")
    log("ready", "warm")
    log("ready", "warm", level="critical")
    assert [e["level"] for e in output.events] == ["warning", "info", "critical"]
    setup("front", text=True, fd=output.write_fd)
    log("bad_model", "no such file")
    stamp, level, process, message = output.raw.decode().split(maxsplit=3)
    assert datetime.fromisoformat(stamp).tzinfo is UTC and (level, process) == ("error", "front") and message


def test_a_field_does_not_replace_what_a_line_begins_with(output: Output) -> None:
    log("restart", "engine 0 ended", time="yesterday", process="somebody")
    (event,) = output.events
    assert event["process"] == "tester" and event["event"] == "restart" and event["time"] != "yesterday"


def repr_of(value: object) -> str:
    return type(value).__name__


class Odd:
    def __str__(self) -> str:
        raise ValueError("not to be shown")

    __repr__ = __str__


@pytest.mark.parametrize("value", [Odd(), {"a": Odd()}, [Odd()], float("nan"), {(1, 2): 3}, b"\xff", 10**5000], ids=repr_of)
def test_a_value_of_any_kind_is_part_of_a_line(output: Output, value: object) -> None:
    log("odd", "a value", value=value)
    (event,) = output.events
    assert "value" in event


def test_a_value_that_holds_itself_is_part_of_a_line(output: Output) -> None:
    endless: list[Any] = []
    endless.append(endless)
    log("odd", "a value", value=endless, many=list(range(100_000)))
    (event,) = output.events
    assert event["event"] == "odd"


def test_a_line_that_is_lost_is_told_by_the_next(output: Output) -> None:
    for _ in range(100):
        log("flood", "x" * 3000)
    first = output.events
    log("after", "the reader is back")
    told, after = output.events
    assert (told["event"], told["lines"], told["level"]) == ("lines_lost", 100 - len(first), "warning")
    assert after["event"] == "after"


def test_every_event_with_a_level_of_its_own_exists() -> None:
    source = "".join(p.read_text() for folder in ("serve", "container", "sidecar") for p in (ROOT / folder).rglob("*.py"))
    assert [name for name in logline.ERRORS | logline.WARNINGS if source.count(f'"{name}"') < 2] == []


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


@pytest.mark.parametrize("write", [
    lambda s: s.writelines(["hi\n"]),
    lambda s: s.buffer.write(b"hi\n"),
    lambda s: (s.buffer.write(b"h"), s.buffer.raw.write(memoryview(b"i\n"))),
    lambda s: print("hi", file=io.TextIOWrapper(s.buffer, "utf-8", line_buffering=True)),
    lambda s: print("hi", file=io.TextIOWrapper(s.detach(), "utf-8"), flush=True),
    lambda s: codecs.getwriter("utf-8")(s.buffer).write("hi\n"),
    lambda s: (s.reconfigure(line_buffering=True, encoding="utf-8"), s.write("hi\n")),
    lambda s: (s.close(), s.write("hi\n")),
    lambda s: (s.buffer.close(), s.write("hi\n")),
    lambda s: logging.StreamHandler(s).emit(logging.makeLogRecord({"msg": "hi"})),
])  # fmt: skip
def test_a_script_does_with_it_what_it_does_with_a_real_stream(output: Output, write: Callable[[LogStream], object]) -> None:
    write(LogStream("stdout"))
    assert [e["message"] for e in output.events] == ["hi"]


def test_it_looks_like_a_real_stream() -> None:
    stream = LogStream("stdout")
    assert isinstance(stream, io.TextIOBase) and isinstance(stream.buffer, io.BufferedIOBase)
    assert (stream.writable(), stream.readable(), stream.seekable(), stream.isatty()) == (True, False, False, False)
    assert (stream.encoding, stream.errors, stream.mode, stream.name) == ("utf-8", "backslashreplace", "w", "stdout")
    with pytest.raises(TypeError, match="must be str, not bytes"):
        stream.write(b"bytes")  # type: ignore[arg-type]
    stream.close()
    assert not stream.closed and not stream.buffer.closed


def test_a_character_that_comes_in_two_pieces_is_one(output: Output) -> None:
    stream = LogStream("stdout")
    for byte in "höher\n".encode():
        stream.buffer.write(bytes([byte]))
    stream.buffer.write(b"\xff\n")
    assert [e["message"] for e in output.events] == ["höher", "\\xff"]


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


def test_a_loop_that_prints_is_limited_a_second_and_counted(output: Output) -> None:
    stream, lost, read = LogStream("stdout"), logline.sink().lost, []
    for _ in range(10 * LINES_PER_S):
        stream.write("again\n")
        read += output.events
    printed = [e for e in read if e["event"] == "user_output"]
    assert len(printed) + logline.sink().lost - lost == 10 * LINES_PER_S and logline.sink().lost > lost


def test_a_line_is_below_what_a_pipe_writes_at_once() -> None:
    assert LINE_BYTES_MAX < 4096
