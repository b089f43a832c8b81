"""A handler that yields: its values become the parts of a stream, one record each.

str and bytes go out as the script gave them. Anything else is one record in the stream's format: an event of
`text/event-stream` or a line of JSON. A script that names no type gets that of Accept if it can be streamed, else JSON
Lines. What the script sets on its context before its first yield holds for the whole answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from serve.contract.logline import log
from serve.engine.backends.base import RawStream
from serve.engine.backends.handler_defaults import JSON, encoded_json, first_type

EVENTS, LINES = "text/event-stream", "application/jsonlines"
T = TypeVar("T")
_END = object()


def stream(
    values: Iterator[Any], accept: str, head: Callable[[str], tuple[str, str | None]], guard: Callable[..., Any]
) -> RawStream:
    """`head`: from the type that the stream has if the script names none, its type and custom attributes; raises when the
    script has set a status of an error. `guard(name, function, *arguments)` calls the script."""
    found = RawStream(parts=iter(()))  # type: ignore[arg-type]
    found.parts = _parts(found, values, accept, head, guard)
    return found


def _parts(
    found: RawStream, values: Iterator[Any], accept: str, head: Callable[[str], tuple[str, str | None]],
    guard: Callable[..., Any],
) -> Generator[bytes, None, None]:  # fmt: skip
    try:
        value = guard("the handler", next, values, _END)
        kind = first_type(accept)
        found.content_type, found.custom_attributes = head(LINES if kind == JSON else kind)
        while value is not _END:
            part = guard("the handler", _record, value, found.content_type)
            if part:  # an empty chunk would be the end of the answer
                yield part
            value = guard("the handler", next, values, _END)
    finally:
        _close(values, guard)


def _record(value: Any, content_type: str) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    text = encoded_json(value).encode("utf-8")
    return b"data: " + text + b"\n\n" if content_type.startswith(EVENTS) else text + b"\n"


def _close(values: Iterator[Any], guard: Callable[..., Any]) -> None:
    """A generator sees GeneratorExit. What it raises then concerns nobody any more but its author."""
    close = getattr(values, "close", None)
    if not callable(close):
        return
    try:
        guard("the handler's close", close)
    except Exception as e:
        log("stream_close_failed", f"a handler whose answer was left did not end well: {e}")
