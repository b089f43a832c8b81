"""The hot path of STORY 1: requests of one plain row, many at a time.

What arrives in one turn of the event loop is decoded, placed and submitted in one loop, and replies that come together
are encoded in one call. Each loop is written out in one piece: a call costs more here than its work. Whatever is not a
plain row goes on to Invocations, which does the same for any request, one at a time.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING

from evenkeel.serve.codec import Form
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Front, time_bucket
from evenkeel.serve.front.routing.admission import spread
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.descriptor import FINITE, REF, REPLY, REQUEST, ROW_REPLY, ROW_REQUEST
from evenkeel.serve.transport.rows import SharedRows
from evenkeel.serve.transport.slots import STEP

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.serve.codec import Body, Codec
    from evenkeel.serve.front.request.failover import Failover
    from evenkeel.serve.front.request.in_flight import InFlightRequests
    from evenkeel.serve.front.request.invocation import Invocation, RequestPath
    from evenkeel.serve.front.request.outcomes import Outcomes
    from evenkeel.serve.front.request.slot_writer import SlotWriter
    from evenkeel.serve.front.routing.destination import Destination
    from evenkeel.serve.front.routing.engine_channel import EngineChannel, ServedVersion
    from evenkeel.serve.front.routing.router import Router
    from evenkeel.serve.settings import Limits
    from evenkeel.serve.transport.rows import Array

    Arrival = tuple[Invocation, Body]

ROW_BODY_MAX = 64 * 1024  # longer bodies take the general path, where a few microseconds more do not matter
INSTANCES = Form.INSTANCES
ROW_ANSWER = REPLY.pack(descriptor.ANSWER, FINITE, 0, 1, 0, 0, 0, 0)[:8]
SUBMIT = int(descriptor.SUBMIT)
_ARRIVED, _IN_ROWS = int(Front.ARRIVED), int(Front.IN_ROWS)
_OK, _LATENCY, _LATENCY_SUM = int(Front.OK), int(Front.LATENCY), int(Front.LATENCY_SUM_S)


class RowBatcher:
    """Owner of what has arrived in this turn of the event loop. `path`: where everything else goes."""

    def __init__(
        self, in_flight: InFlightRequests, slot_writer: SlotWriter, engines: Router, failover: Failover, outcomes: Outcomes,
        limits: Limits, clock: Callable[[], float], count: memoryview, path: RequestPath,
    ) -> None:  # fmt: skip
        self._in_flight, self._engines = in_flight, engines
        self._slots, self._memory, self._shared_rows = slot_writer.slots, slot_writer.memory, SharedRows(slot_writer.memory)
        self._poisons, self._outcomes, self._clock, self._path = failover.poisons, outcomes, clock, path
        self._rows_max, self._bytes_max, self._timeout_s = limits.queue_rows_max, limits.queue_bytes_max, limits.request_timeout_s
        self._loop, self._count = asyncio.get_running_loop(), count
        self.arrived: list[Arrival] = []
        self._outputs: Array | None = None  # as rows, where the replies of that model lay last, from that byte of a slot
        self._outputs_of: ServedVersion | None = None
        self._outputs_at = -1
        self._came_single = False  # the last turn in which something arrived brought one request

    # ---- requests ------------------------------------------------------------------------------------------------

    def arrive(self, invocation: Invocation, body: Body) -> None:
        """A whole request is here. What comes in one turn of the event loop is taken together at its end.

        One that is alone, as the one before it was, has nobody to wait for: 4 us less of some 100.
        """
        if self._came_single and not self.arrived and not self._in_flight.pending:
            self.take([(invocation, body)], self._engines.serving)
            return
        if not self.arrived:
            self._loop.call_soon(self._take_arrived)
        self.arrived.append((invocation, body))

    def _take_arrived(self) -> None:
        arrived, self.arrived = self.arrived, []
        self._came_single = len(arrived) == 1
        self.take(arrived, self._engines.serving)

    def take(self, arrived: list[Arrival], to: Destination) -> None:
        """Submit the plain rows among them, and begin the others one by one."""
        model, count, rest = to.model, len(arrived), arrived
        self._count[_ARRIVED] += count
        # While poisoned requests are known, each has to be looked at; and close to the limit of rows, too.
        if model is not None and not self._poisons.count and self._in_flight.rows + count <= self._rows_max:
            if to.only is not None:
                rest = self._submit(arrived, model, to.only)
            elif to.up:
                rest, at = [], 0
                for link, share in zip(to.up, spread([link.rows for link in to.up], count), strict=True):
                    rest += self._submit(arrived[at : at + share], model, link)
                    at += share
        for invocation, body in rest:
            if invocation.caller is not None:
                self._path.begin(invocation, body, to, now=len(rest) == 1)

    def _submit(self, arrived: list[Arrival], model: ServedVersion, link: EngineChannel) -> list[Arrival]:
        """Decode, claim and submit the plain rows among them, to that engine. Returns the rest."""
        in_flight, plan = self._in_flight, model.row_plan
        if plan is None or link.rows >= link.rows_sure:
            return arrived
        slots = self._slots.claim_all(model.slot_bytes, len(arrived))
        if not slots:
            return arrived
        if self._slots.held_bytes > self._bytes_max:
            self._slots.release_all(slots)
            return arrived
        now_s, pack, size = self._clock(), ROW_REQUEST.pack, model.inputs.row_bytes
        deadline_s = now_s + self._timeout_s
        like = REQUEST.pack(SUBMIT, 0, 1, 0, 0, slots[0].capacity, size, model.ref, deadline_s)
        first, last = like[:8], like[24:]  # what all their records share; the slots are all of one size
        memory, pending, id = self._memory, in_flight.pending, in_flight.last_id
        records: list[bytes] = []
        rest: list[Arrival] = []
        for each in arrived:
            invocation, body = each
            decode_row = invocation.head.formats.decode_row
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
        in_flight.last_id = id
        in_flight.rows += len(records)
        link.rows += len(records)
        if records:
            self._count[_IN_ROWS] += len(records)
            link.send(records)
        if slots:
            self._slots.release_all(slots)
        return rest

    # ---- replies -------------------------------------------------------------------------------------------------

    def replied(self, link: EngineChannel, records: bytes) -> None:
        """Encode and answer replies that are all single rows of one plain output; others go on."""
        model = link.model or link.models.get(REF.unpack_from(records)[0])
        encoded = self._encoded(model, records) if model is not None and model.rows_together else None
        if model is None or encoded is None:
            self._path.replied(link, records)
            return
        encoder, ids, offsets, bodies = encoded
        pending, slots, start = self._in_flight.pending, [], b""
        now_s, started_s, alike, left = self._clock(), 0.0, 0, 0
        for id, offset, body in zip(ids, offsets, bodies, strict=True):
            invocation = pending.pop(id)
            assert invocation.link is link, "an engine replies once to each request that it was given"
            assert invocation.slot is not None, "the engine had it until now"
            slots.append(invocation.slot)
            caller, formats = invocation.caller, invocation.head.formats
            if caller is None:
                left += invocation.left
                continue
            if formats.encoder is not encoder or invocation.form is not INSTANCES:
                self._outcomes.encode(invocation, self._memory, offset, True)
                continue
            invocation.caller = None
            if invocation.started_s != started_s or invocation.model is not model:
                if alike:
                    _note_ok(model, alike, now_s - started_s)  # those that were taken together took equally long
                started_s, model, alike = invocation.started_s, invocation.model, 0
            alike += 1
            start = start or model.starts[formats.answer_start]  # one encoder, so one head for all
            try:
                caller.answer(invocation, start, body)
            except Exception:  # a bug of ours must cost this caller only, not those whose replies come after it
                log("answer_failed", "a reply could not be answered", trace=traceback.format_exc(limit=-6))
        if alike:
            _note_ok(model, alike, now_s - started_s)
        self._in_flight.rows_left -= left
        self._in_flight.rows -= len(slots) - left
        link.rows -= len(slots) - left
        self._slots.release_all(slots)

    def _encoded(self, model: ServedVersion, records: bytes) -> tuple[Codec, list[int], list[int], list[bytes]] | None:
        """The bodies of these replies, with their ids and offsets, if all are single rows of one plain output.

        In the format of the first of them; one that asked for another is answered on its own.
        """
        ids, offsets, numbers, ref, shift = [], [], [], model.ref, -1
        for word, id, offset, of in ROW_REPLY.iter_unpack(records):
            if shift < 0:
                shift = offset % STEP
            if word != ROW_ANSWER or of != ref or offset % STEP != shift:
                return None
            ids.append(id)
            offsets.append(offset)
            numbers.append(offset // STEP)
        encoder = self._in_flight.pending[ids[0]].head.formats.encoder
        encode_rows = getattr(encoder, "encode_rows", None)  # of a RowsCodec; isinstance would cost more than it says
        if encode_rows is None:
            return None
        outputs = self._outputs
        if outputs is None or shift != self._outputs_at or model is not self._outputs_of:
            layout, dtype = model.outputs, model.outputs.dtypes[0]
            outputs = self._shared_rows.view(shift, layout.row_bytes // dtype.itemsize, dtype)
            self._outputs, self._outputs_at, self._outputs_of = outputs, shift, model
        rows = outputs[numbers] if len(numbers) > 1 else outputs[numbers[0] : numbers[0] + 1]  # one is no copy
        return encoder, ids, offsets, encode_rows(rows)


def _note_ok(model: ServedVersion, requests: int, latency_s: float) -> None:
    counters = model.counters
    counters.count[_OK] += requests
    counters.count[_LATENCY + time_bucket(latency_s)] += requests
    counters.value[_LATENCY_SUM] += requests * latency_s
