"""A file as an answer: the whole of what it holds, as one body.

An open file and a BytesIO are iterators over lines. Nobody who returns one means that: the bytes are meant, from the first
on, also when the place in the file is where the script has stopped to write. Reading may run foreign code; it is called
inside a guard.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from evenkeel.serve.engine.foreign import kind_of, plain
from evenkeel.serve.engine.script_guard import Unfit

FILE_BYTES_MAX = 256 << 20  # it is read into memory as a whole
FILE_READ_BYTES, FILE_READS_MAX = 1 << 20, 1 << 17
# Never taken for a file or a response, whatever attributes they have: plain data, and dicts whose keys are attributes.
DATA = (str, bytes, bytearray, memoryview, dict, list, tuple, set, int, float, type(None))


def is_file(x: Any) -> bool:
    return not isinstance(x, DATA) and callable(getattr(x, "read", None))


def content_of(file: Any) -> str | bytes:
    """All that it holds, wherever it stands: who has just written a buffer means what is in it."""
    if callable(getattr(file, "getvalue", None)):
        content = _read(file.getvalue())
        _bound(len(content))
        return content
    with suppress(AttributeError, OSError):  # a pipe, or an answer of another server: from where it stands
        file.seek(0)
    try:
        part = _read(file.read(FILE_READ_BYTES))
    except TypeError:  # one that only knows read()
        return _read(file.read())
    parts, size = [part], len(part)
    while part and len(parts) < FILE_READS_MAX:
        part = _read(file.read(FILE_READ_BYTES))
        parts.append(part)
        size += len(part)
        _bound(size)
    if part:
        raise Unfit(f"a file-like answer is read at most {FILE_READS_MAX} times; yield its parts to stream it")
    return part.join(parts)  # type: ignore[arg-type]  # the last one is empty


def _read(part: Any) -> str | bytes:
    content = plain(part)
    if content is None:
        raise Unfit(f"it is read as a file, and gave {kind_of(part)} where str or bytes belong")
    return content


def _bound(size: int) -> None:
    if size > FILE_BYTES_MAX:
        raise Unfit(f"a file-like answer may hold {FILE_BYTES_MAX >> 20} MB; yield its parts to stream it")
