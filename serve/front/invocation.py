"""STORY 1: what happens to a request: admit, decode, claim a slot, submit, await, encode, release.

`Invocations.begin` is called with a whole body and returns at once; the engine's reply comes to `finish`. There is no
task and no future per request, only an entry in `_pending`. This file owns the arena's slots and every request in
flight. It answers each request exactly once, and releases each slot exactly once: when no engine can write to it any
more. It never sees a socket and knows HTTP only as status, content type and body.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np
import orjson

from serve.codec import Body, Codec, Decoded, Form
from serve.contract.logline import log
from serve.contract.status import Block, Engine, Front, StatusPage, bucket
from serve.errors import (
    FAMILIES,
    NUMBER,
    BodyTooLarge,
    DeadlineExceeded,
    EngineLost,
    EvenkeelError,
    NotReady,
    Overloaded,
)  # fmt: skip
from serve.front.heads import Head, new_request_id, ok_start
from serve.front.links import EngineLink, Model
from serve.settings import Limits
from serve.transport import descriptor
from serve.transport.arena import Arena, read_spill
from serve.transport.descriptor import FINITE, OVERFLOW, RECORD_BYTES, REPLY, REQUEST
from serve.transport.layout import aligned
from serve.transport.rows import SharedRows
from serve.transport.slots import RETURN_PAGES_FROM, SLOT_BYTES_MAX, STEP, Slot, Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from serve.contract.signature import Signature

SWEEP_S = 0.05  # how late a deadline may be noticed
ATTEMPTS_MAX = 2  # a request runs again once after a crash; one that was in two crashes is suspect
DECODED_ASIDE_FROM = 1 << 20  # bytes of body from which decoding would hold up other requests noticeably
EARLY_MAX = 256  # requests held by a worker that has not met an engine yet
RAW_ROOM = 16 * 1024  # room for the answer of a handler beside its input; longer answers come in a file of their own
CHECK_WAIT_FROM_ROWS = 64  # below this many rows ahead the predicted wait cannot matter

INSTANCES = Form.INSTANCES
TOGETHER_FROM = 6  # replies from which encoding them together is faster
ID_WORD, OFFSET_WORD = 1, 2  # of a record as 8-byte words
SINGLE_ANSWER = int.from_bytes(REPLY.pack(descriptor.ANSWER, FINITE, 0, 1, 0, 0, 0, 0, 0.0, 0.0, 0)[:8], "little")
_ANSWER = int(descriptor.ANSWER)
_OK, _LATENCY, _ERRORS = int(Front.OK), int(Front.LATENCY), int(Front.ERRORS)
_IN_FLIGHT, _QUEUE_ROWS, _SLOT_BYTES = int(Front.IN_FLIGHT), int(Front.QUEUE_ROWS), int(Front.SLOT_BYTES)
_ROW_COST, _ENGINE_ROWS = int(Engine.ROW_COST_S), int(Engine.QUEUE_ROWS)


class Caller(Protocol):
    """The connection that waits: it is answered once, unless it has left."""

    def answer(self, invocation: Invocation, start: bytes, body: bytes, extra: bytes = b"") -> None: ...

    def answer_error(self, invocation: Invocation, error: EvenkeelError) -> None: ...


class Invocation:
    """One request from its head to its answer. The protocol fills the first group, this file the second."""

    __slots__ = (
        "attempts", "body", "caller", "complete", "deadline_s", "form", "head", "id", "keep_alive", "link", "model",
        "received", "refused", "response_complete", "rows", "slot", "started_s", "turn", "used",
    )  # fmt: skip

    id: int
    model: Model
    rows: int
    form: Form
    used: int  # bytes of input in the slot
    deadline_s: float

    def __init__(self, caller: Caller, head: Head) -> None:
        self.caller: Caller | None = caller  # None once answered or left: nobody waits any more
        self.head = head
        self.keep_alive = head.keep_alive
        self.response_complete = False
        self.complete = True  # the whole body is here
        self.turn = True  # every earlier request of the connection has been answered
        self.refused: EvenkeelError | None = None
        self.body: bytearray | None = None
        self.received = 0  # bytes of `body` that have come

        self.started_s = 0.0
        self.attempts = 0
        self.slot: Slot | None = None
        self.link: EngineLink | None = None


class Invocations:
    """All requests of one front worker."""

    def __init__(
        self,
        page: StatusPage,
        place: int,
        sockets: Sequence[str],
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        first_id: int | None = None,
    ) -> None:
        self.limits = limits
        self._clock = clock
        self._block: Block = page.front(place)
        self._count = self._block.count
        self._arena = Arena.create()
        self._memory = self._arena.memory
        self._shared_rows = SharedRows(self._memory)
        self._slots = Slots()
        self._page = page
        self._early: list[tuple[Invocation, Body]] = []  # came while this worker had not met an engine yet
        self._pending: dict[int, Invocation] = {}
        self._held: list[Invocation] = []  # accepted while the only engine restarts
        self._next_id = (
            os.getpid() << 32 if first_id is None else first_id
        )  # unique among all living fronts: an engine knows requests by their id alone
        self._rows = 0
        self._thread = ThreadPoolExecutor(1, "decode")
        self._aside: set[asyncio.Task[None]] = set()
        self._aside_bytes = 0
        self._rows_max, self._bytes_max = limits.queue_rows_max, limits.queue_bytes_max
        self._timeout_s = limits.request_timeout_s
        self._model: Model | None = None  # set from the first HELLO on
        self._only_up: EngineLink | None = None  # the engine that is up, when exactly one is
        self._links = [
            EngineLink(path, page.engine(i), self._arena, self.finish, self._engine_up, self._engine_lost)
            for i, path in enumerate(sockets)
        ]

    # ---- the story -----------------------------------------------------------------------------------------------
    # begin and finish are the hot path. They are written out in one piece: a call costs more here than its work.

    def begin(self, invocation: Invocation, body: Body, decoded: Decoded | None = None) -> None:
        """Admit, decode, claim, submit. Any refusal is answered here and now.

        A large body is decoded aside, and comes back here with `decoded`.
        """
        now_s = self._clock()
        if decoded is None:
            invocation.started_s = now_s
        try:
            model = self._model
            if model is None:
                self._wait_for_model(invocation, body)
                return
            if self._rows >= self._rows_max:
                raise self._overloaded(f"{self._rows} rows wait already, the limit is {self._rows_max} (EVENKEEL_QUEUE_ROWS)")
            if model.signature is None:
                self._accept_raw(invocation, model, body)
            else:
                head = invocation.head
                if head.wrong is not None:
                    raise head.wrong
                if decoded is None:
                    if len(body) > DECODED_ASIDE_FROM:
                        self._decode_aside(invocation, body, model.signature)
                        return
                    decoded = head.decoder.decode(body, model.signature, head.params)
                invocation.rows = rows = decoded.rows
                invocation.form = decoded.form
                layout = model.inputs
                if layout.single and rows == 1:
                    size, room = layout.row_bytes, model.slot_bytes
                elif decoded.packed is not None:
                    size = len(decoded.packed)
                    room = aligned(size) + (model.outputs.fixed_bytes(rows) if model.outputs.fixed else size)
                else:
                    size = layout.bytes_of(decoded.arrays, rows)
                    room = aligned(size) + (model.outputs.fixed_bytes(rows) if model.outputs.fixed else size)
                slot = self._slots.claim(room)
                if slot is None or self._slots.held_bytes > self._bytes_max:
                    slot = self._claim_without_room(slot, size)
                invocation.slot = slot
                packed, at = decoded.packed, slot.offset
                if packed is not None:
                    self._memory[at : at + size] = packed
                    invocation.used = size
                else:
                    invocation.used = layout.pack(decoded.arrays, self._memory, at)
            link = self._only_up
            if link is None or link.rows >= CHECK_WAIT_FROM_ROWS:
                link = self._choose()
        except EvenkeelError as error:
            self._drop_slot(invocation)
            self._refuse(invocation, error)
            return
        self._next_id += 1
        invocation.id = self._next_id
        invocation.model = model
        invocation.link = link
        invocation.deadline_s = now_s + self._timeout_s
        self._pending[invocation.id] = invocation
        self._rows += invocation.rows
        self._submit(invocation)

    def finish(self, link: EngineLink, records: bytes) -> None:
        """Replies of an engine: encode and answer each, and have the slots back."""
        now_s, count, take, release = self._clock(), self._count, self._pending.pop, self._slots.release
        together = self._encode_together(link, records) if len(records) >= TOGETHER_FROM * RECORD_BYTES else None
        encoder, bodies = together or (None, [])
        for n, (kind, flags, family, rows, id, offset, size, _, _, _, _) in enumerate(REPLY.iter_unpack(records)):
            invocation = take(id)
            assert invocation.link is link, "an engine replies once to each request that it was given"
            self._rows -= rows
            link.rows -= rows
            caller, head, model = invocation.caller, invocation.head, invocation.model
            if caller is not None:
                try:
                    if kind != _ANSWER or flags & OVERFLOW or model.signature is None:
                        self._answer_otherwise(invocation, kind, flags, family, offset, size)
                    else:
                        if head.encoder is encoder and invocation.form == INSTANCES:
                            body = bodies[n]
                        else:
                            arrays = model.outputs.unpack(self._memory, offset, rows)
                            body = head.encoder.encode(arrays, model.signature, invocation.form, flags & FINITE != 0)
                        invocation.caller = None
                        count[_OK] += 1
                        count[_LATENCY + int((now_s - invocation.started_s) * 1e6).bit_length()] += 1
                        caller.answer(invocation, head.answer_start, body)
                except EvenkeelError as error:
                    self._refuse(invocation, error)
                except Exception:  # a bug of ours must cost this caller only, not those whose replies come after it
                    log("answer_failed", "a reply could not be answered", trace=traceback.format_exc(limit=-6))
                    self._refuse(invocation, EvenkeelError("an internal error; the log has its trace"))
            elif flags & OVERFLOW:
                os.close(link.take_fd())
            slot = invocation.slot
            assert slot is not None, "the engine had it until now"
            if slot.capacity >= RETURN_PAGES_FROM:
                self._arena.give_back(slot)
            release(slot)
            invocation.slot = None

    def _encode_together(self, link: EngineLink, records: bytes) -> tuple[Codec, list[bytes]] | None:
        """The bodies of many replies at once, if all are single rows of one output: one call instead of one each.

        In the format of the first of them; whoever asked for another is answered on its own.
        """
        model = link.model
        if model is None or not model.rows_together:
            return None
        words = np.frombuffer(records, np.uint64).reshape(-1, RECORD_BYTES // 8)
        encoder = self._pending[int(words[0, ID_WORD])].head.encoder
        offsets = words[:, OFFSET_WORD]
        shift = int(offsets[0]) % STEP
        alike = (words[:, 0] == SINGLE_ANSWER).all() and (offsets % STEP == shift).all()
        encode_rows = getattr(encoder, "encode_rows", None)  # of a RowsCodec; isinstance would cost more than it says
        if not alike or encode_rows is None:
            return None
        outputs = model.outputs
        view = self._shared_rows.view(shift, outputs.row_bytes // outputs.dtypes[0].itemsize, outputs.dtypes[0])
        return encoder, encode_rows(view[offsets // STEP])

    # ---- admit, decode, claim, submit ----------------------------------------------------------------------------

    def _decode_aside(self, invocation: Invocation, body: Body, signature: Signature) -> None:
        """Decode in a thread: a body of 25 MB takes most of a second, and /ping must not wait for it."""
        if self._aside_bytes > self._bytes_max:
            raise self._overloaded(f"{self._aside_bytes >> 20} MiB of requests are being decoded already (EVENKEEL_QUEUE_MB)")
        self._aside_bytes += len(body)
        task = asyncio.get_running_loop().create_task(self._decode(invocation, body, signature))
        self._aside.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._aside.discard)

    async def _decode(self, invocation: Invocation, body: Body, signature: Signature) -> None:
        head, loop = invocation.head, asyncio.get_running_loop()
        try:
            decoded = await loop.run_in_executor(self._thread, head.decoder.decode, body, signature, head.params)
        except EvenkeelError as error:
            self._refuse(invocation, error)
        else:
            if invocation.caller is not None:
                self.begin(invocation, body, decoded)
        finally:
            self._aside_bytes -= len(body)

    def _accept_raw(self, invocation: Invocation, model: Model, body: Body) -> None:
        """The user's handler decodes: the body goes as it came, behind what the handler may ask about it."""
        head = invocation.head
        if head.encoded and head.wrong is not None:
            raise head.wrong
        meta = orjson.dumps({
            "content_type": head.content_type, "accept": head.accept, "headers": head.headers,
            "request_id": head.request_id or new_request_id(),
        })  # fmt: skip
        size = 4 + len(meta) + len(body)
        invocation.rows = 1
        slot = self._slots.claim(aligned(size) + RAW_ROOM)
        if slot is None or self._slots.held_bytes > self._bytes_max:
            slot = self._claim_without_room(slot, size)
        invocation.slot = slot
        at = slot.offset
        self._memory[at : at + 4] = len(meta).to_bytes(4, "little")
        self._memory[at + 4 : at + 4 + len(meta)] = meta
        self._memory[at + 4 + len(meta) : at + size] = body
        invocation.used = size

    def _wait_for_model(self, invocation: Invocation, body: Body) -> None:
        """No engine has greeted this worker. If the container is ready, one soon will: this worker is new."""
        if not self._page.verdict().ready or len(self._early) >= EARLY_MAX:
            raise NotReady("the model is still loading or warming; /ping turns 200 when it is ready", retry_after_s=1)
        self._early.append((invocation, body))

    def _claim_without_room(self, slot: Slot | None, size: int) -> Slot:
        """No slot with room for the answer too: one for the input alone will do, since an answer can come in a file."""
        if slot is not None:  # there was one, but it is more than may be held
            self._slots.release(slot)
        elif size > SLOT_BYTES_MAX:
            raise BodyTooLarge(f"the decoded request takes {size} bytes, over the limit of {SLOT_BYTES_MAX}")
        elif (slot := self._slots.claim(size)) is not None and self._slots.held_bytes <= self._bytes_max:
            return slot
        elif slot is not None:
            self._slots.release(slot)
        raise self._overloaded(f"{self._slots.held_bytes >> 20} MiB of requests are waiting already (EVENKEEL_QUEUE_MB)")

    def _choose(self) -> EngineLink | None:
        """The least loaded engine. Refuses now what could only be answered after its deadline.

        None: no engine is up; the request is held until one is back, within its deadline.
        """
        up = [link for link in self._links if link.model is not None]
        if not up:
            return None
        link = min(up, key=_rows_of)
        if link.rows >= CHECK_WAIT_FROM_ROWS:
            ahead = max(link.rows, link.block.count[_ENGINE_ROWS])
            wait_s = ahead * link.block.value[_ROW_COST]
            if wait_s > self._timeout_s:
                raise self._overloaded(
                    f"the wait would be about {wait_s:.1f} s, longer than the deadline of {self._timeout_s:g} s"
                )
        return link

    def _submit(self, invocation: Invocation) -> None:
        link, slot = invocation.link, invocation.slot
        if link is None:
            self._held.append(invocation)
            return
        assert slot is not None, "a request is submitted with its slot"
        invocation.attempts += 1
        link.rows += invocation.rows
        link.submit(REQUEST.pack(
            descriptor.SUBMIT, 0, 0, invocation.rows, invocation.id, slot.offset, slot.capacity, invocation.used, link.epoch,
            invocation.deadline_s, invocation.started_s))  # fmt: skip

    # ---- encode, answer, release ---------------------------------------------------------------------------------

    def _answer_otherwise(self, invocation: Invocation, kind: int, flags: int, family: int, offset: int, size: int) -> None:
        """The less common answers: faults, answers larger than their slot, and those that a handler encoded.

        Raises what the client is to be told instead of an answer.
        """
        memory, link = self._memory, invocation.link
        if flags & OVERFLOW:
            assert link is not None, "the reply came over a link"
            fd = link.take_fd()
            memory, offset = memoryview(read_spill(fd, size)), 0
            os.close(fd)
        if kind == descriptor.FAULT:
            raise FAMILIES[family](bytes(memory[offset : offset + size]).decode("utf-8", "replace"))
        caller, model, head, extra = invocation.caller, invocation.model, invocation.head, b""
        assert caller is not None, "only those who wait are answered"
        if model.signature is None:
            start, body, extra = _raw_answer(memory[offset : offset + size])
        else:
            arrays = model.outputs.unpack(memory, offset, invocation.rows)
            body = head.encoder.encode(arrays, model.signature, invocation.form, flags & FINITE != 0)
            start = head.answer_start
        invocation.caller = None
        self._count[_OK] += 1
        self._count[_LATENCY + bucket((self._clock() - invocation.started_s) * 1e6)] += 1
        caller.answer(invocation, start, body, extra)

    def _refuse(self, invocation: Invocation, error: EvenkeelError) -> None:
        caller = invocation.caller
        if caller is None:
            return
        self.count_error(error)
        if error.status >= 500 and error.code not in ("not_ready", "deadline_exceeded"):
            log("request_failed", error.message, code=error.code, request_id=invocation.head.request_id)
        invocation.caller = None
        caller.answer_error(invocation, error)

    def count_error(self, error: EvenkeelError) -> None:
        self._count[_ERRORS + NUMBER[type(error)]] += 1

    def _drop_slot(self, invocation: Invocation) -> None:
        if invocation.slot is not None:
            if invocation.slot.capacity >= RETURN_PAGES_FROM:
                self._arena.give_back(invocation.slot)
            self._slots.release(invocation.slot)
            invocation.slot = None

    def _overloaded(self, message: str) -> Overloaded:
        costs = [link.rows * link.block.value[_ROW_COST] for link in self._links if link.model is not None]
        return Overloaded(message, retry_after_s=max(1, math.ceil(min(costs, default=1.0))))

    # ---- callers leave, deadlines pass, engines come and go ------------------------------------------------------

    def abandon(self, invocation: Invocation) -> None:
        """The client has hung up. Its place in the engine's queue is freed; the slot comes back with the reply."""
        invocation.caller = None
        if invocation.slot is not None:
            self._count[Front.ABANDONED] += 1
            self._cancel(invocation)

    def _cancel(self, invocation: Invocation) -> None:
        link = invocation.link
        if link is None:  # no engine has it: it is over at once
            if self._pending.pop(invocation.id, None) is not None and invocation in self._held:
                self._held.remove(invocation)
                self._rows -= invocation.rows
                self._drop_slot(invocation)
        elif link.model is not None:
            link.submit(REQUEST.pack(descriptor.CANCEL, 0, 0, 0, invocation.id, 0, 0, 0, link.epoch, 0.0, 0.0))

    def sweep(self) -> None:
        """Answer those whose deadline has passed, wherever their request is now."""
        now_s = self._clock()
        late = [i for i in self._pending.values() if i.deadline_s <= now_s and i.caller is not None]
        for invocation in late:
            seconds = self._timeout_s
            self._refuse(invocation, DeadlineExceeded(f"no answer within {seconds:g} s (EVENKEEL_REQUEST_TIMEOUT_S)"))
            self._cancel(invocation)
        for invocation, _ in self._early:
            if invocation.started_s + self._timeout_s <= now_s:
                self._refuse(invocation, NotReady("no engine became ready within the deadline", retry_after_s=1))
        self._early = [(i, body) for i, body in self._early if i.caller is not None]
        self._count[_IN_FLIGHT] = len(self._pending)
        self._count[_QUEUE_ROWS] = self._rows
        self._count[_SLOT_BYTES] = self._slots.held_bytes

    def _engine_up(self, link: EngineLink) -> None:
        assert link.model is not None, "called after HELLO"
        self._model = link.model
        self._note_up()
        early, self._early = self._early, []
        for invocation, body in early:
            if invocation.caller is not None:
                self.begin(invocation, body)
        held, self._held = self._held, []
        for invocation in held:
            invocation.link = link
            self._submit(invocation)

    def _engine_lost(self, link: EngineLink) -> None:
        """Run its requests again, once: the inputs are still in their slots, and nobody else can write there now."""
        self._note_up()
        orphans = [i for i in self._pending.values() if i.link is link]
        ran = link.ran_last()
        up = [other for other in self._links if other.model is not None]
        for invocation in orphans:
            invocation.link = None
            if ran and invocation.id not in ran:
                invocation.attempts -= 1  # it only waited there: this crash was not its own
            if invocation.caller is None or invocation.attempts >= ATTEMPTS_MAX:
                del self._pending[invocation.id]
                self._rows -= invocation.rows
                self._refuse(invocation, EngineLost("the engine ended twice while it ran this request; it was not tried again"))
                self._drop_slot(invocation)
                continue
            self._count[Front.RESUBMITTED] += 1
            invocation.link = min(up, key=_rows_of) if up else None
            self._submit(invocation)

    def _note_up(self) -> None:
        up = [link for link in self._links if link.model is not None]
        self._only_up = up[0] if len(up) == 1 else None

    async def keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    @property
    def idle(self) -> bool:
        """Nothing in flight and no slot held."""
        return not self._pending and not self._aside and self._slots.held == 0

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        for link in self._links:
            link.close()


def _rows_of(link: EngineLink) -> int:
    return link.rows


def _raw_answer(data: memoryview) -> tuple[bytes, bytes, bytes]:
    """Start, body and extra headers of a handler's answer."""
    size = int.from_bytes(data[:4], "little")
    meta = json.loads(bytes(data[4 : 4 + size]))
    extra = b""
    if meta["custom_attributes"]:
        value = meta["custom_attributes"].encode("ascii", "replace").replace(b"\r", b"").replace(b"\n", b"")[:1024]
        extra = b"x-amzn-sagemaker-custom-attributes: " + value + b"\r\n"
    return ok_start(meta["content_type"].replace("\r", "").replace("\n", "")), bytes(data[4 + size :]), extra
