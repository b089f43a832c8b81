"""An answer in parts, as the front sees it: what is owed to the engine, until when a part may come, and how it ends badly.

Pure but for the state of one stream. Three clocks bound it. The request's deadline is that of the first part; from then on
every further part has as long, counted from the one before, unless the client is the one who is slow; and the whole has
EVENKEEL_STREAM_TIMEOUT_S. A client who takes nothing at all is the connection's to notice (EVENKEEL_BODY_TIMEOUT_S).
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from serve.errors import EvenkeelError

EVENTS = "text/event-stream"
LINES = ("application/jsonlines", "application/jsonlines+json", "application/x-ndjson", "application/ndjson", "application/jsonl")


@dataclass(slots=True)
class Stream:
    """`owed`: parts that were read from the slot and not yet given back to the engine, because the client is slow."""

    content_type: str
    first_s: float  # how long the first part took
    ends_s: float
    owed: int = 0
    between: bool = True  # records: the last part ended with a newline


def last_words(stream: Stream, error: EvenkeelError) -> bytes:
    """The error as one more record, for a client that has its 200 already. Empty where the format has no place for it."""
    record = orjson.dumps({"error": {"code": error.code, "message": error.message[:2000]}})
    kind = stream.content_type.partition(";")[0].strip().lower()
    if kind == EVENTS:
        return (b"" if stream.between else b"\n\n") + b"event: error\ndata: " + record + b"\n\n"
    return (b"" if stream.between else b"\n") + record + b"\n" if kind in LINES else b""
