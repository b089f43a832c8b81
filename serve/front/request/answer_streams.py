"""An answer in parts, as the front sees it: what is owed to the engine, until when a part may come, and how it ends badly.

Three clocks bound it. The request's deadline is that of the first part; from then on
every further part has as long, counted from the one before, unless the client is the one who is slow; and the whole has
EVENKEEL_STREAM_TIMEOUT_S. A client who takes nothing at all is the connection's to notice (EVENKEEL_BODY_TIMEOUT_S).
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from evenkeel.serve.contract.status_page import Front
from evenkeel.serve.errors import DeadlineExceeded, EvenkeelError
from evenkeel.serve.front.request.handler_answer import content_headers
from evenkeel.serve.front.request.invocation import AnswerStream, Invocation
from evenkeel.serve.settings import Limits
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.descriptor import REQUEST, START

EVENTS = "text/event-stream"
LINES = ("application/jsonlines", "application/jsonlines+json", "application/x-ndjson", "application/ndjson", "application/jsonl")


def last_words(stream: AnswerStream, error: EvenkeelError) -> bytes:
    """The error as one more record, for a client that has its 200 already. Empty where the format has no place for it."""
    record = orjson.dumps({"error": {"code": error.code, "message": error.message[:2000]}})
    kind = stream.content_type.partition(";")[0].strip().lower()
    if kind == EVENTS:
        return (b"" if stream.between else b"\n\n") + b"event: error\ndata: " + record + b"\n\n"
    return (b"" if stream.between else b"\n") + record + b"\n" if kind in LINES else b""


class AnswerStreams:
    """Steps of a stream. What it is lies in its invocation; the parts lie in the arena until the engine is told MORE."""

    def __init__(self, memory: memoryview, limits: Limits, clock: Callable[[], float], count: memoryview) -> None:
        self._memory, self._limits, self._clock, self._count = memory, limits, clock, count

    def take_part(self, invocation: Invocation, flags: int, offset: int, size: int) -> None:
        """Write it out, and ask for more unless the client is behind: then when it has caught up, see `resume`."""
        caller, now_s = invocation.caller, self._clock()
        if caller is None:
            return
        part = bytes(self._memory[offset : offset + size])
        if flags & START:
            kind, extra, _ = content_headers(part)
            invocation.stream = AnswerStream(kind, now_s - invocation.started_s, now_s + self._limits.stream_timeout_s)
            caller.open_stream(invocation, kind, extra)
            keeps_up = True
        else:
            keeps_up = caller.write_part(invocation, part)
        stream = invocation.stream
        assert stream is not None, "the first part says what the stream is"
        stream.between = part.endswith(b"\n") or flags & START != 0
        self._give_time(invocation, stream, now_s)
        stream.owed += 1
        if keeps_up:
            self.resume(invocation)

    def resume(self, invocation: Invocation) -> None:
        """The client takes its answer again: the engine may write where the parts were that it has had."""
        stream, link = invocation.stream, invocation.link
        if stream is None or not stream.owed or link is None or invocation.caller is None:
            return
        link.submit(REQUEST.pack(descriptor.MORE, 0, stream.owed, invocation.id, 0, 0, 0, invocation.model.ref, 0.0))
        stream.owed = 0
        self._give_time(invocation, stream, self._clock())

    def end(self, invocation: Invocation) -> float:
        """The last part is out. Returns what counts as its latency: when the first was there."""
        caller, stream = invocation.caller, invocation.stream
        assert caller is not None and stream is not None, "somebody waits, and has had the first part"
        invocation.caller = None
        self._count[Front.IN_PARTS] += 1
        caller.end_stream(invocation)
        return stream.first_s

    def too_late(self, invocation: Invocation, now_s: float) -> EvenkeelError | None:
        """What to tell a caller whose deadline has passed. None: it is the client who is slow, and the stream has time."""
        stream, timeout_s = invocation.stream, self._limits.request_timeout_s
        if stream is None:
            return DeadlineExceeded(f"no answer within {timeout_s:g} s (EVENKEEL_REQUEST_TIMEOUT_S)")
        if now_s >= stream.ends_s:
            return DeadlineExceeded(
                f"the answer was not complete within {self._limits.stream_timeout_s:g} s (EVENKEEL_STREAM_TIMEOUT_S)"
            )
        if stream.owed:
            self._give_time(invocation, stream, now_s)
            return None
        return DeadlineExceeded(f"no further part within {timeout_s:g} s (EVENKEEL_REQUEST_TIMEOUT_S)")

    def _give_time(self, invocation: Invocation, stream: AnswerStream, now_s: float) -> None:
        invocation.deadline_s = min(now_s + self._limits.request_timeout_s, stream.ends_s)
