"""What a handler said of its answer, out of the bytes that its engine sent. Pure.

The engine has checked it; but user code runs there, so whatever it says, no line of the head may come from there.
"""

from __future__ import annotations

import json

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from evenkeel.serve.front.http.request_head import ok_start

LINES = ("text/csv", "application/jsonlines")
UNKNOWN_TYPE = "application/octet-stream"
CHARS_MAX = 1024  # of a value that becomes part of a head


def raw_answer(data: memoryview, batch: bool) -> tuple[bytes, bytes, bytes]:
    """Start, body and extra headers of a handler's answer."""
    size = int.from_bytes(data[:4], "little")
    kind, extra, status = content_headers(bytes(data[4 : 4 + size]))
    body = bytes(data[4 + size :])
    if batch and kind in LINES and not body.endswith(b"\n"):
        body += b"\n"  # batch transform puts the answers of many requests behind one another
    return ok_start(kind, STATUS_LINE[status]), body, extra


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
