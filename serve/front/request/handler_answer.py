"""What a handler said of its answer, out of the bytes that its engine sent. Pure.

The engine has checked it; but user code runs there, so whatever it says, no line of the head may come from there.
"""

from __future__ import annotations

import json
from functools import lru_cache

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from evenkeel.serve.front.http.request_head import ok_start

LINES = ("text/csv", "application/jsonlines")
UNKNOWN_TYPE = "application/octet-stream"
CHARS_MAX = 1024  # of a value that becomes part of a head
SAID_REMEMBERED, SAID_BYTES_REMEMBERED = 64, 256  # most handlers always say the same of their answers


def raw_answer(data: memoryview, batch: bool) -> tuple[bytes, bytes, bytes]:
    """Start, body and extra headers of a handler's answer."""
    end = 4 + int.from_bytes(data[:4], "little")
    said = bytes(data[4:end])
    start, extra, kind = _heads(said) if len(said) <= SAID_BYTES_REMEMBERED else _heads.__wrapped__(said)
    body = bytes(data[end:])
    if batch and kind in LINES and not body.endswith(b"\n"):
        body += b"\n"  # batch transform puts the answers of many requests behind one another
    return start, body, extra


@lru_cache(SAID_REMEMBERED)
def _heads(said: bytes) -> tuple[bytes, bytes, str]:
    kind, extra, status = content_headers(said)
    return ok_start(kind, STATUS_LINE[status]), extra, kind


def content_headers(meta: bytes) -> tuple[str, bytes, int]:
    """The content type, the headers that come with it, and the status. What cannot be read says nothing."""
    try:
        fields = json.loads(meta)
        kind, attributes = (_one_line(fields[name] or "") for name in ("content_type", "custom_attributes"))
        status = int(fields.get("status", 200))
    except (ValueError, LookupError, TypeError, AttributeError):
        return UNKNOWN_TYPE, b"", 200
    extra = b"x-amzn-sagemaker-custom-attributes: " + attributes + b"\r\n" if attributes else b""
    return kind.decode("ascii"), extra, status if 200 <= status < 300 else 200


def _one_line(text: str) -> bytes:
    return text.encode("ascii", "replace").replace(b"\r", b"").replace(b"\n", b"")[:CHARS_MAX]
