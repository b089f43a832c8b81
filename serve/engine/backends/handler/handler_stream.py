"""A handler that yields: its values become the parts of a stream, one record each.

str and bytes go out as the script gave them. Anything else is one record in the stream's format: an event of
`text/event-stream` or a line of JSON. A script that names no type gets that of Accept if it can be streamed, else JSON
Lines. What the script sets on its context before its first yield holds for the whole answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from evenkeel.serve.contract.logline import log
from evenkeel.serve.engine.backends.base import RawStream
from evenkeel.serve.engine.backends.handler.handler_defaults import JSON, encoded_json, first_type
from evenkeel.serve.engine.foreign import plain
from evenkeel.serve.engine.script_guard import guarded, judged
from evenkeel.serve.errors import EvenkeelError

EVENTS, LINES = "text/event-stream", "application/jsonlines"
_END = object()


def stream(name: str, values: Iterator[Any], accept: str, head: Callable[[str], tuple[str, str | None]]) -> RawStream:
    """What `name` yields. `head`: from the type that the stream has if the script names none, its type and custom attributes;
    raises when the script has set a status of an error."""
    reply = RawStream(parts=iter(()))  # type: ignore[arg-type]
    reply.parts = _parts(name, reply, values, accept, head)
    return reply


def _parts(
    name: str, stream: RawStream, values: Iterator[Any], accept: str, head: Callable[[str], tuple[str, str | None]]
) -> Generator[bytes, None, None]:
    try:
        value = guarded(name, next, values, _END)
        kind = first_type(accept)
        stream.content_type, stream.custom_attributes = guarded(name, head, LINES if kind == JSON else kind)
        while value is not _END:
            yield judged(name, value, _record, value, stream.content_type)  # also an empty one, so that others have their turn
            value = guarded(name, next, values, _END)
    finally:
        _close(values)


def _record(value: Any, content_type: str) -> bytes:
    content = plain(value)
    if content is not None:
        return content.encode("utf-8", "replace") if isinstance(content, str) else content
    text = encoded_json(value)
    return b"data: " + text + b"\n\n" if content_type.startswith(EVENTS) else text + b"\n"


def _close(values: Iterator[Any]) -> None:
    """A generator sees GeneratorExit. What it raises then concerns nobody any more but its author."""
    try:
        guarded("the handler's close", _closed, values)
    except EvenkeelError as e:
        log("stream_close_failed", f"a handler whose answer was left did not end well: {e.message}")


def _closed(values: Any) -> None:
    close = getattr(values, "close", None)
    if callable(close):
        close()
