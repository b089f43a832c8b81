"""What a handler said of its answer, out of the bytes that its engine sent. Pure.

The engine has checked it; but user code runs there, so whatever it says, no line of the head may come from there.
"""

from __future__ import annotations

import json

from evenkeel.serve.front.http.request_head import ok_start

LINES = ("text/csv", "application/jsonlines")
UNKNOWN_TYPE = "application/octet-stream"
CHARS_MAX = 1024  # of a value that becomes part of a head


def raw_answer(data: memoryview, batch: bool) -> tuple[bytes, bytes, bytes]:
    """Start, body and extra headers of a handler's answer."""
    size = int.from_bytes(data[:4], "little")
    kind, extra = content_headers(bytes(data[4 : 4 + size]))
    body = bytes(data[4 + size :])
    if batch and kind in LINES and not body.endswith(b"\n"):
        body += b"\n"  # batch transform puts the answers of many requests behind one another
    return ok_start(kind), body, extra


def content_headers(meta: bytes) -> tuple[str, bytes]:
    """The content type, and the headers that come with it. What cannot be read says nothing."""
    try:
        fields = json.loads(meta)
        kind, attributes = (_one_line(fields[name] or "") for name in ("content_type", "custom_attributes"))
    except (ValueError, LookupError, TypeError, AttributeError):
        return UNKNOWN_TYPE, b""
    return kind.decode("ascii"), b"x-amzn-sagemaker-custom-attributes: " + attributes + b"\r\n" if attributes else b""


def _one_line(text: str) -> bytes:
    return text.encode("ascii", "replace").replace(b"\r", b"").replace(b"\n", b"")[:CHARS_MAX]
