"""One request in a front, from its head to its answer, who waits for it, and the path that takes it on. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from evenkeel.serve.codec import Form
from evenkeel.serve.errors import EvenkeelError
from evenkeel.serve.front.http.request_head import Head
from evenkeel.serve.transport.slots import Slot

if TYPE_CHECKING:
    from evenkeel.serve.codec import Body, Decoded
    from evenkeel.serve.front.request.suspects import LastRun
    from evenkeel.serve.front.routing.destination import Destination
    from evenkeel.serve.front.routing.engine_channel import EngineChannel, ServedVersion


@dataclass(slots=True)
class AnswerStream:
    """`owed`: parts that were read from the slot and not yet given back to the engine, because the client is slow."""

    content_type: str
    first_s: float  # how long the first part took
    ends_s: float
    owed: int = 0
    between: bool = True  # records: the last part ended with a newline


class Caller(Protocol):
    """The connection that waits: it is answered once, unless it has left."""

    def answer(self, invocation: Invocation, start: bytes, body: bytes, extra: bytes = b"") -> None: ...

    def answer_error(self, invocation: Invocation, error: EvenkeelError) -> None: ...

    def open_stream(self, invocation: Invocation, content_type: str, extra: bytes) -> None: ...

    def write_part(self, invocation: Invocation, part: bytes) -> bool: ...

    def end_stream(self, invocation: Invocation) -> None: ...


class RequestPath(Protocol):
    """What takes any request on from its body, and any reply: Invocations."""

    def begin(
        self, invocation: Invocation, body: Body, to: Destination, decoded: Decoded | None = None, now: bool = False
    ) -> None: ...

    def replied(self, link: EngineChannel, records: bytes) -> None: ...


class Invocation:
    """One request from its head to its answer. The connection fills the first group, the request's path the second.

    The values here are those of nearly every request; setting only what differs is a third of the cost of making one.
    """

    caller: Caller | None  # None once answered or left: nobody waits any more
    refused: EvenkeelError | None = None  # why it will not be served, known from its head
    single_piece = b""  # the body, where it came in one piece; else it grows in `body`
    body: bytearray | memoryview | None = None
    length: int | None = 0  # of the body, where it came in parts; None: chunked
    received = 0  # bytes of `body` that have come
    skipped = 0  # bytes of the body of a refused request, which are thrown away

    id: int
    model: ServedVersion
    rows = 1
    beyond = 0  # of its rows, those beyond one batch: it takes turns, and nobody waits behind these
    form = Form.INSTANCES
    used: int  # bytes of input in the slot
    started_s = 0.0
    deadline_s: float
    submits = 0  # to how many engines it was given, one after the other
    crashes = 0  # ends of engines that ran it, or may have, and for which it may be to blame
    kills = 0  # such ends that blame nobody
    end: LastRun | None = None  # the last such end, until it is known who is to blame
    slot: Slot | None = None
    request_id = ""  # under which the handler's log has it, where the client gave none
    link: EngineChannel | None = None
    stream: AnswerStream | None = None  # once the answer has begun to come in parts
    uncounted = False  # this worker asks itself
    left = False  # the caller is gone and the rows count no more, though an engine has them still
    delimited = True  # HTTP/1.1, so that chunks can end an answer; else only the end of the connection can

    def __init__(self, caller: Caller, head: Head, head_bytes: bytes = b"") -> None:
        self.caller = caller
        self.head = head
        self.head_bytes = head_bytes  # as they came, for what only handlers and logs ask
        self.keep_alive = head.keep_alive


def model_of(invocation: Invocation) -> ServedVersion | None:
    """The version that answers it, or decoded it; None while it has met none."""
    return getattr(invocation, "model", None)
