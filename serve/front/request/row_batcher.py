"""The hot path of STORY 1: requests of one plain row, many at a time.

What arrives in one turn of the event loop is decoded, placed and submitted in one loop, and replies that come together
are encoded in one call. Each loop is written out in one piece: a call costs more here than its work. Whatever is not a
plain row is left to Invocations, which does the same for any request, one at a time.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from evenkeel.serve.codec import Codec, Form
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Front, time_bucket
from evenkeel.serve.front.request.invocation import InFlightRequests, Invocation
from evenkeel.serve.front.request.slot_writer import SlotWriter
from evenkeel.serve.front.routing.engine_channel import EngineChannel, ServedVersion
from evenkeel.serve.settings import Limits
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.descriptor import FINITE, RECORD_BYTES, REPLY, REQUEST, ROW_REQUEST
from evenkeel.serve.transport.slots import STEP

TOGETHER_FROM = 6  # requests or replies from which handling them together is faster
ROW_BODY_MAX = 64 * 1024  # longer bodies take the general path, where a few microseconds more do not matter
INSTANCES = Form.INSTANCES
ID_WORD, OFFSET_WORD, MODEL_WORD = 1, 2, 5  # of a record as 8-byte words
SINGLE_ANSWER = REPLY.pack(descriptor.ANSWER, FINITE, 0, 1, 0, 0, 0, 0)[:8]
SUBMIT = int(descriptor.SUBMIT)
_OK, _LATENCY, _LATENCY_SUM = int(Front.OK), int(Front.LATENCY), int(Front.LATENCY_SUM_S)

Arrival = tuple[Invocation, bytes]
Words = np.ndarray[Any, np.dtype[np.uint64]]
EncodeAlone = Callable[[Invocation, int, bool], None]  # a request, the offset of its reply, whether that is finite


class RowBatcher:
    """Shares flight and slots with Invocations; owns nothing."""

    def __init__(
        self, flight: InFlightRequests, intake: SlotWriter, limits: Limits, clock: Callable[[], float], encode_alone: EncodeAlone
    ) -> None:
        self._flight, self._slot_writer, self._clock = flight, intake, clock
        self._rows_max, self._timeout_s = limits.queue_rows_max, limits.request_timeout_s
        self._encode_alone = encode_alone

    def take(self, arrived: list[Arrival], model: ServedVersion | None, link: EngineChannel | None) -> list[Arrival]:
        """Decode, claim and submit the plain rows among them. Returns the rest: to be begun one by one, or refused."""
        flight, plan = self._flight, model.row_plan if model is not None else None
        if len(arrived) < TOGETHER_FROM or model is None or plan is None or link is None:
            return arrived
        if link.rows >= link.rows_sure or flight.rows + len(arrived) > self._rows_max:
            return arrived
        slots = self._slot_writer.claim_rows(model, len(arrived))
        if slots is None:
            return arrived
        now_s, pack, size = self._clock(), ROW_REQUEST.pack, model.inputs.row_bytes
        deadline_s = now_s + self._timeout_s
        like = REQUEST.pack(SUBMIT, 0, 1, 0, 0, slots[0].capacity, size, model.ref, deadline_s)
        first, last = like[:8], like[24:]  # what all their records share; the slots are all of one size
        memory, pending, id = self._slot_writer.memory, flight.pending, flight.last_id
        records: list[bytes] = []
        rest: list[Arrival] = []
        for each in arrived:
            invocation, body = each
            decode_row = invocation.head.decode_row
            row = decode_row(body, plan) if decode_row is not None and len(body) <= ROW_BODY_MAX else None
            if row is None or invocation.caller is None:
                rest.append(each)
                continue
            invocation.slot = slot = slots.pop()
            at = slot.offset
            memory[at : at + size] = row
            id += 1
            invocation.id = id
            invocation.used = size
            invocation.model = model
            invocation.link = link
            invocation.started_s = now_s
            invocation.deadline_s = deadline_s
            invocation.submits = 1
            pending[id] = invocation
            records.append(pack(first, id, at, last))
        flight.last_id = id
        flight.rows += len(records)
        link.rows += len(records)
        if records:
            link.send(records)
        self._slot_writer.slots.release_all(slots)
        return rest

    def finish(self, link: EngineChannel, records: bytes) -> bool:
        """Encode and answer replies that are all single rows of one plain output. False, and nothing done: they are not."""
        together = self._encoded(link, records) if len(records) >= TOGETHER_FROM * RECORD_BYTES else None
        if together is None:
            return False
        encoder, words, bodies = together
        model = link.model
        assert model is not None, "it has just replied"
        pending, slots, start = self._flight.pending, [], b""
        now_s, started_s, alike, left = self._clock(), 0.0, 0, 0
        for n, id in enumerate(words[:, ID_WORD].tolist()):
            invocation = pending.pop(id)
            assert invocation.link is link, "an engine replies once to each request that it was given"
            assert invocation.slot is not None, "the engine had it until now"
            slots.append(invocation.slot)
            caller, head = invocation.caller, invocation.head
            if caller is None:
                left += invocation.left
                continue
            if head.encoder is not encoder or invocation.form is not INSTANCES:
                self._encode_alone(invocation, int(words[n, OFFSET_WORD]), True)
                continue
            invocation.caller = None
            if invocation.started_s != started_s:  # many were taken together, so they took equally long
                _note_ok(model, alike, now_s - started_s)
                started_s, alike = invocation.started_s, 0
            alike += 1
            start = start or model.starts[head.answer_start]  # one encoder, so one head for all
            try:
                caller.answer(invocation, start, bodies[n])
            except Exception:  # a bug of ours must cost this caller only, not those whose replies come after it
                log("answer_failed", "a reply could not be answered", trace=traceback.format_exc(limit=-6))
        _note_ok(model, alike, now_s - started_s)
        self._flight.rows_left -= left
        self._flight.rows -= len(bodies) - left
        link.rows -= len(bodies) - left
        self._slot_writer.slots.release_all(slots)
        return True

    def _encoded(self, link: EngineChannel, records: bytes) -> tuple[Codec, Words, list[bytes]] | None:
        """The bodies of many replies at once, and the records as words, if all are single rows of one plain output.

        In the format of the first of them; whoever asked for another is answered on its own.
        """
        model = link.model
        if model is None or not model.rows_together:
            return None
        words = np.frombuffer(records, np.uint64).reshape(-1, RECORD_BYTES // 8)
        if words[:, MODEL_WORD].tobytes() != model.ref.to_bytes(8, "little") * len(words):
            return None
        encoder = self._flight.pending[int(words[0, ID_WORD])].head.encoder
        offsets = words[:, OFFSET_WORD]
        shift = int(offsets[0]) % STEP
        alike = words[:, 0].tobytes() == SINGLE_ANSWER * len(words) and (offsets % STEP == shift).all()
        encode_rows = getattr(encoder, "encode_rows", None)  # of a RowsCodec; isinstance would cost more than it says
        if not alike or encode_rows is None:
            return None
        outputs = model.outputs
        view = self._slot_writer.shared_rows.view(shift, outputs.row_bytes // outputs.dtypes[0].itemsize, outputs.dtypes[0])
        return encoder, words, encode_rows(view[offsets // STEP])


def _note_ok(model: ServedVersion, requests: int, latency_s: float) -> None:
    if not requests:
        return
    tally = model.tally
    tally.count[_OK] += requests
    tally.count[_LATENCY + time_bucket(latency_s)] += requests
    tally.value[_LATENCY_SUM] += requests * latency_s
