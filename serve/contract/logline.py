"""One event, one line on stdout: JSON for machines, or text for a person at a terminal. Never a payload.

Each process names itself once with `setup`. A line is written in one piece (it is below the 4096 bytes that a
pipe takes atomically, or is cut), so lines of different processes do not mix. No line waits for its reader,
see log_sink.py.

Whatever stands in a message or a field came from anybody: a client, a model, a library. So no control
character and nothing that looks like another line leaves here. JSON escapes it; text shows it as \\x1b and
sets off every further line of an event.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import time
from typing import Any, NoReturn

from evenkeel.serve.contract.log_sink import Sink

LINE_BYTES_MAX = 4000
MESSAGE_CHARS_MAX = 3000
FIELD_CHARS_MAX = 4000  # of a text among the fields; its end is kept
FIELDS_MAX = 64
FIELD_NAME_CHARS_MAX = 64
CONTINUED = "\n    | "  # before each further line of an event in text

ERRORS = frozenset({
    "answer_failed", "bad_hello", "bad_model", "crashed", "device_lost", "engine_failed", "giving_up", "handler_error",
    "model_error", "request_failed", "sidecar_error", "stream_close_failed", "stuck", "swap_failed", "watch_failed",
})  # fmt: skip
WARNINGS = frozenset({
    "bad_shape_log", "engine_lost", "few_files", "io_binding_off", "killed", "leak", "lines_lost", "no_fingerprint",
    "no_rehearsal", "no_shape_log", "no_successor", "out_of_memory", "restart", "standby_lost", "swap_given_up",
    "warmup_unsettled", "woken",
})  # fmt: skip

_UNSAFE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls but for tab and line feed; JSON escapes those below \x20 by itself
    "\u2028-\u202e\u061c\u200e\u200f\u2066-\u2069"  # separators of lines and paragraphs, and what turns text around
    "\ud800-\udfff"  # halves of surrogate pairs
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible marks and tags
    "]"
)

_process = "evenkeel"
_text = False
_fd = 1
_sink: Sink | None = None


def setup(process: str, *, text: bool, fd: int = 1) -> None:
    """Name this process, and where its lines go."""
    global _process, _text, _fd, _sink
    if _sink is not None:
        _sink.close()
    _process, _text, _fd = process, text, fd
    _sink = Sink(fd, lines_lost)


def rename(process: str) -> None:
    """The same log under another name: of a process that was forked."""
    global _process
    _process = process


def sink() -> Sink:
    global _sink
    if _sink is None:
        _sink = Sink(_fd, lines_lost)
    return _sink


def log(event: str, message: str = "", **fields: Any) -> None:
    """Write one event. `event` is a stable name; `message` is for people; `level` may be among the fields."""
    sink().write(line(event, message, fields))


def line(event: str, message: str, fields: dict[str, Any]) -> bytes:
    """The whole line of an event, with its end. Never raises, whatever the fields are."""
    shape = _as_text if _text else _as_json
    level = str(fields.pop("level", "") or level_of(event))
    fields = {key[:FIELD_NAME_CHARS_MAX]: _plain(value) for key, value in list(fields.items())[:FIELDS_MAX]}
    data = shape(event, level, message[:MESSAGE_CHARS_MAX], fields)
    while len(data) > LINE_BYTES_MAX and _shorten(fields):
        data = shape(event, level, message[: LINE_BYTES_MAX // 4], fields)
    shown = LINE_BYTES_MAX // 8
    while len(data) > LINE_BYTES_MAX:  # a character may be written as twelve
        data = shape(event, level, message[:shown], {})
        shown //= 2
    return data + b"\n"


def say(text: str, fd: int = 2) -> None:
    """A plain word to the person who typed a command. In one write, since `podman logs --tail` loses what comes
    before a lone line end."""
    out = Sink(fd, lines_lost)
    out.write(safe(text).encode() + b"\n")
    out.flush()


def leave(code: int) -> NoReturn:
    """End this process at once, but not before its last line."""
    flush()
    os._exit(code)


@atexit.register
def flush() -> None:
    """What is queued goes out now, if that is quick."""
    if _sink is not None:
        _sink.flush()


def level_of(event: str) -> str:
    return "error" if event in ERRORS else "warning" if event in WARNINGS else "info"


def safe(text: str) -> str:
    """The same with all visible that would move a cursor, turn text around or begin a line elsewhere."""
    return _UNSAFE.sub(_visible, text).replace("\t", "    ")


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xD800 <= code < 0xE000:
        return "\ufffd"  # half a surrogate pair is no character; strict readers refuse its escape
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: numbers and short lists stay, the rest becomes text."""
    if isinstance(value, str):
        return value[-FIELD_CHARS_MAX:]
    for shape in (_encode, str):
        with contextlib.suppress(Exception):  # objects of user code may raise from anything
            text = shape(value)
            return json.loads(text) if shape is _encode and len(text) <= FIELD_CHARS_MAX else text[-FIELD_CHARS_MAX:]
    return f"<{type(value).__name__}>"


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str).encode


def _shorten(fields: dict[str, Any]) -> bool:
    """Halve the longest text among the fields, keeping its end, where a traceback says what happened."""
    longest = max(fields, key=lambda k: len(str(fields[k])), default=None)
    if longest is None or len(str(fields[longest])) < 64:
        return False
    text = str(fields[longest])
    fields[longest] = "…" + text[-(len(text) // 2) :]
    return True


def _now() -> str:
    """ISO 8601, UTC, to the millisecond."""
    millis = time.time_ns() // 1_000_000
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(millis // 1000)) + f".{millis % 1000:03d}Z"


def _as_json(event: str, level: str, message: str, fields: dict[str, Any]) -> bytes:
    record: dict[str, Any] = {"time": _now(), "level": level, "process": _process, "event": event}
    if message:
        record["message"] = message
    text = _encode(record | {key: value for key, value in fields.items() if key not in record})
    return _UNSAFE.sub(_escaped, text).encode()


def _as_text(event: str, level: str, message: str, fields: dict[str, Any]) -> bytes:
    """Fields of several lines, tracebacks, follow the line; they do not stand in it."""
    short = " ".join(f"{k}={v}" for k, v in fields.items() if "\n" not in str(v))
    long = "".join(f"\n{v}" for v in fields.values() if "\n" in str(v))
    text = f"{message or event}" + (f"  ({short})" if short else "") + long.rstrip()
    return f"{_now()} {level:<7} {_process:<10} {safe(text).replace(chr(10), CONTINUED)}".encode()


def lines_lost(lines: int) -> bytes:
    what = "1 line was" if lines == 1 else f"{lines} lines were"
    return line("lines_lost", f"{what} lost: the log took no more", {"lines": lines})
