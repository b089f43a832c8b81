"""What becomes of a request: an engine's reply, or an error, to the answer that its caller gets, once; and it is counted.

Owner of nothing. A large answer is encoded in a thread, and its slot freed when that has read it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Front, time_bucket
from evenkeel.serve.errors import FAMILIES, NUMBER, EvenkeelError, OutOfMemory, with_status
from evenkeel.serve.front.http.request_head import request_id
from evenkeel.serve.front.request.answer_streams import AnswerStreams
from evenkeel.serve.front.request.handler_answer import raw_answer
from evenkeel.serve.front.request.invocation import model_of
from evenkeel.serve.front.request.offload import Offload, Work, translated
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.arena import read_spill
from evenkeel.serve.transport.channel import NO_FD
from evenkeel.serve.transport.descriptor import FINITE, OVERFLOW, STREAMED

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.serve.contract.status_page import StatusBlock
    from evenkeel.serve.front.request.invocation import Invocation
    from evenkeel.serve.front.request.slot_writer import SlotWriter
    from evenkeel.serve.front.routing.engine_channel import ServedVersion
    from evenkeel.serve.front.routing.router import Router
    from evenkeel.serve.settings import Limits
    from evenkeel.serve.transport.descriptor import Reply

_FAULT = int(descriptor.FAULT)
_OK, _LATENCY, _ERRORS = int(Front.OK), int(Front.LATENCY), int(Front.ERRORS)
_LATENCY_SUM = int(Front.LATENCY_SUM_S)
UNLOGGED = ("not_ready", "deadline_exceeded")  # errors of 500 and more that a request may well meet


class Outcomes:
    """Answers callers. `streams`: those whose answer comes in parts."""

    def __init__(
        self, slot_writer: SlotWriter, offload: Offload, engines: Router, block: StatusBlock, limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._slot_writer, self._offload, self._engines = slot_writer, offload, engines
        self._count, self._clock, self._batch = block.count, clock, limits.batch
        self.streams = AnswerStreams(slot_writer.memory, limits, clock, block.count)

    # ---- an engine has replied -----------------------------------------------------------------------------------

    def take(self, invocation: Invocation, reply: Reply) -> None:
        """The last reply to a request, in its slot or in a file that came with it."""
        if invocation.caller is None:
            _close_file(invocation, reply)
            return
        memory, offset = self._slot_writer.memory, reply.offset
        if reply.flags & OVERFLOW:
            assert invocation.link is not None, "the reply came over a link"
            fd = invocation.link.take_fd()
            if fd == NO_FD:
                no_file = "the answer came, but this process has no file descriptor left to take it"
                self.refuse(invocation, OutOfMemory(no_file, retry_after_s=1))
                return
            memory, offset = memoryview(read_spill(fd, reply.bytes)), 0
            os.close(fd)
        if reply.kind == _FAULT:
            message = bytes(memory[offset : offset + reply.bytes]).decode("utf-8", "replace")
            error = with_status(FAMILIES[reply.family](message), reply.status)
            self.refuse(invocation, self._engines.meant(error, invocation.model))
        elif reply.flags & STREAMED:
            self._note_ok(invocation, self.streams.end(invocation))
        elif invocation.model.signature is None:
            start, body, extra = raw_answer(memory[offset : offset + reply.bytes], self._batch)
            self._answer(invocation, invocation.model.starts.chosen(start), body, extra)
        elif reply.bytes > invocation.head.formats.encoder.quick_output_bytes:
            self._encode_offloaded(invocation, memory, reply)
        else:
            self.encode(invocation, memory, offset, reply.flags & FINITE != 0)

    def encode(self, invocation: Invocation, memory: memoryview, offset: int, finite: bool) -> None:
        """A request's outputs, which lie there, to its answer."""
        try:
            body = _encoded(invocation, memory, offset, finite)
        except Exception as error:
            self.refuse(invocation, translated(error))
        else:
            self._answer(invocation, invocation.model.starts[invocation.head.formats.answer_start], body)

    def _encode_offloaded(self, invocation: Invocation, memory: memoryview, reply: Reply) -> None:
        """A large answer. Its slot is no longer the request's: it is free once the thread has read it."""
        slot, invocation.slot = invocation.slot, None
        start = invocation.model.starts[invocation.head.formats.answer_start]
        offset = 0 if reply.flags & OVERFLOW else reply.offset

        def encode() -> bytes:
            return _encoded(invocation, memory, offset, reply.flags & FINITE != 0)

        def answer(body: bytes) -> None:
            self._answer(invocation, start, body)

        def free() -> None:
            if slot is not None:
                self._slot_writer.free(slot)

        self._offload.start(invocation, Work(reply.bytes, encode, answer, self.refuse, free))

    def discard(self, invocation: Invocation, reply: Reply) -> None:
        """A reply that is none to this request."""
        log("stray_reply", "a reply names a model that its request was not for; it is ignored", level="warning")
        _close_file(invocation, reply)

    # ---- answer, refuse --------------------------------------------------------------------------------------------

    def _answer(self, invocation: Invocation, start: bytes, body: bytes, extra: bytes = b"") -> None:
        caller = invocation.caller
        assert caller is not None, "only those who wait are answered"
        invocation.caller = None
        caller.answer(invocation, start, body, extra)  # and nobody needs to wait while we count
        self._note_ok(invocation, self._clock() - invocation.started_s)

    def _note_ok(self, invocation: Invocation, latency_s: float) -> None:
        counters = invocation.model.counters
        counters.count[_OK] += 1
        counters.count[_LATENCY + time_bucket(latency_s)] += 1
        counters.value[_LATENCY_SUM] += latency_s

    def fail(self, invocation: Invocation, error: Exception) -> None:
        """It cannot be served, for whatever reason."""
        self.refuse(invocation, translated(error))
        # Its frames hold the body, and it: a cycle for each refusal, or, where a head keeps its error, a list without end.
        error.__traceback__ = None

    def refuse(self, invocation: Invocation, error: EvenkeelError) -> None:
        """Tell its caller, if that waits still."""
        caller = invocation.caller
        if caller is None:
            return
        self.count_error(error, model_of(invocation))
        if error.status >= 500 and error.code not in UNLOGGED:
            log("request_failed", error.message, code=error.code,
                request_id=invocation.request_id or request_id(invocation.head_bytes))  # fmt: skip
        invocation.caller = None
        caller.answer_error(invocation, error)

    def count_error(self, error: EvenkeelError, model: ServedVersion | None = None) -> None:
        """Under the version whose request it was; what never met one counts for the version that serves."""
        model = model or self._engines.serving.model
        count = model.counters.count if model is not None else self._count
        count[_ERRORS + NUMBER[type(error)]] += 1

    def count_abandoned(self, invocation: Invocation) -> None:
        """Its client has left. One that met no version is nobody's."""
        model = model_of(invocation)
        if model is not None:
            model.counters.count[Front.ABANDONED] += 1


def _encoded(invocation: Invocation, memory: memoryview, offset: int, finite: bool) -> bytes:
    model = invocation.model
    assert model.signature is not None, "handlers encode for themselves"
    arrays = model.outputs.unpack(memory, offset, invocation.rows)
    return invocation.head.formats.encoder.encode(arrays, model.signature, invocation.form, finite)


def _close_file(invocation: Invocation, reply: Reply) -> None:
    """Nobody reads what came with the reply."""
    if reply.flags & OVERFLOW and invocation.link is not None and (fd := invocation.link.take_fd()) != NO_FD:
        os.close(fd)
