"""STORY 1: what happens to a request: admit, decode, claim a slot, submit, await, encode, release.

`Invocations.begin` is called with a whole body and returns at once; the engine's reply comes to `finish`. There is no
task and no future per request, only an entry among those in flight, which this file owns; SlotWriter owns the
arena's slots, and RowBatcher is the same story for many plain requests at once. Each request is answered exactly once, and
each slot released exactly once: when no engine can write to it any more. Nothing here sees a socket, or knows more of
HTTP than status, content type and body.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from evenkeel.serve.codec import Body, Decoded
from evenkeel.serve.contract import engine_ends
from evenkeel.serve.contract.engine_ends import Ended
from evenkeel.serve.contract.lifecycle import Reason
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Front, Main, StatusBlock, StatusPage, time_bucket
from evenkeel.serve.errors import (  # fmt: skip
    FAMILIES,
    NUMBER,
    BodyTooLarge,
    DeadlineExceeded,
    EngineLost,
    EvenkeelError,
    NotReady,
    OutOfMemory,
    PoisonedRequest,
    TooManyBytes,
)
from evenkeel.serve.front.request.answer_streams import AnswerStreams
from evenkeel.serve.front.request.handler_answer import raw_answer
from evenkeel.serve.front.request.invocation import InFlightRequests, Invocation, model_of
from evenkeel.serve.front.request.offload import Offload, Work, translated
from evenkeel.serve.front.request.poison_check import Poisons
from evenkeel.serve.front.request.row_batcher import ROW_BODY_MAX, Arrival, RowBatcher
from evenkeel.serve.front.request.slot_writer import SlotWriter
from evenkeel.serve.front.request.suspects import JUDGED_WITHIN_S, LastRun, SuspectRecord, no_more, poisoned_again
from evenkeel.serve.front.routing.engine_channel import EngineChannel, ServedVersion
from evenkeel.serve.front.routing.router import Router
from evenkeel.serve.settings import Limits
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.arena import read_spill
from evenkeel.serve.transport.channel import NO_FD
from evenkeel.serve.transport.descriptor import AGAIN, FINITE, OVERFLOW, RECORD_BYTES, REPLY, REQUEST, STREAMED, SUSPECT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evenkeel.serve.contract.signature import Signature

SWEEP_S = 0.05  # how late a deadline may be noticed
OFFLOADED_FROM = 1 << 20  # bytes of body that are decoded in the thread without a look at what they are
EARLY_MAX = 256  # requests held by a worker that has not met an engine yet

_ANSWER, _PART = int(descriptor.ANSWER), int(descriptor.PART)
_OK, _LATENCY, _ERRORS = int(Front.OK), int(Front.LATENCY), int(Front.ERRORS)
_LATENCY_SUM = int(Front.LATENCY_SUM_S)
_IN_FLIGHT, _QUEUE_ROWS, _SLOT_BYTES = int(Front.IN_FLIGHT), int(Front.QUEUE_ROWS), int(Front.SLOT_BYTES)


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
        self._block: StatusBlock = page.front(place)
        self._count = self._block.count
        self._slot_writer = SlotWriter(limits)
        self._page = page
        self._loop = asyncio.get_running_loop()
        self._arrived: list[Arrival] = []  # in this turn of the event loop
        self._came_single = False  # the last turn in which something arrived brought one request
        self._early: list[tuple[Invocation, Body]] = []  # came while this worker had not met an engine yet
        self._held: list[Invocation] = []  # accepted while the only engine restarts
        # Ids are unique among all living fronts: an engine knows requests by their id alone.
        self._flight = InFlightRequests(os.getpid() << 32 if first_id is None else first_id)
        self._row_batcher = RowBatcher(self._flight, self._slot_writer, limits, clock, self._encode)
        self._offload = Offload(self._loop)
        self._rows_max, self._bytes_max = limits.queue_rows_max, limits.queue_bytes_max
        self._timeout_s = limits.request_timeout_s
        self._poisons = Poisons(page, place, self._slot_writer.memory)
        self.streams = AnswerStreams(self._slot_writer.memory, limits, clock)
        self.engines = Router(
            page, place, sockets, self._slot_writer.arena, limits, clock, self.finish, self._engine_lost, self._engine_serves
        )
        self._poisons.look(self.engines.edition, clock())

    # ---- the story -----------------------------------------------------------------------------------------------
    # For any request, one at a time. RowBatcher does the same for many plain ones together.

    def arrive(self, invocation: Invocation, body: bytes) -> None:
        """A whole request is here. What comes in one turn of the event loop is taken together at its end.

        One that is alone, as the one before it was, has nobody to wait for: 4 us less of some 100.
        """
        if self._came_single and not self._flight.pending and not self._arrived:
            self.begin(invocation, body, single=True)
            return
        if not self._arrived:
            self._loop.call_soon(self._take_arrived)
        self._arrived.append((invocation, body))

    def _take_arrived(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._came_single = len(arrived) == 1
        if not self._poisons.known:  # else each has to be looked at
            arrived = self._row_batcher.take(arrived, self.engines.model, self.engines.only_up)
        for invocation, body in arrived:
            if invocation.caller is not None:
                self.begin(invocation, body)

    def begin(self, invocation: Invocation, body: Body, decoded: Decoded | None = None, single: bool = False) -> None:
        """Admit, decode, claim, submit. Any refusal is answered here and now.

        A large body is decoded aside, and comes back here with `decoded`. Its time has been running since it first came.
        `single`: nothing else is going to be submitted in this turn of the event loop.
        """
        if not invocation.started_s:
            invocation.started_s = self._clock()
        try:
            model = self.engines.model
            if model is None:
                self._wait_for_model(invocation, body)
                return
            invocation.model = model
            if self._flight.rows >= self._rows_max:
                self._refuse_beyond_rows_max()
            decode_row, plan = invocation.head.decode_row, model.row_plan
            packed = None
            if decode_row is not None and plan is not None and len(body) <= ROW_BODY_MAX:
                packed = decode_row(body, plan)
            if packed is not None:
                self._slot_writer.take_row(invocation, model, packed)
            elif not self._take_any(invocation, model, body, decoded):
                return
            if self._poisons.known and self._poisons.has(invocation):
                raise poisoned_again()
            link = self.engines.only_up
            if link is None or link.rows + invocation.rows > link.rows_sure:
                # None: it is held until one is back, within its deadline.
                link = self.engines.choose(invocation.rows, invocation.started_s, len(self._flight.pending))
        except Exception as error:
            self._slot_writer.release(invocation)
            self._refuse(invocation, translated(error))
            # Its frames hold the body, and it: a cycle for each refusal, or, where a head keeps its error, a list without end.
            error.__traceback__ = None
            return
        self._flight.last_id = invocation.id = id = self._flight.last_id + 1
        invocation.link = link
        invocation.deadline_s = invocation.started_s + self._timeout_s
        self._flight.pending[id] = invocation
        self._flight.rows += invocation.rows
        if invocation.beyond:
            self._flight.beyond += invocation.beyond
        self._submit(invocation, single)

    def finish(self, link: EngineChannel, records: bytes) -> None:
        """Replies of an engine: encode and answer each, and have the slots back."""
        if len(records) > RECORD_BYTES and self._row_batcher.finish(link, records):
            return
        for kind, flags, family, _, id, offset, size, ref in REPLY.iter_unpack(records):
            invocation = self._flight.pending.pop(id)
            assert invocation.link is link, "an engine replies once to each request that it was given"
            if invocation.model.ref != ref:  # it is of another model than was asked, so not of this request
                self._ignore(invocation, link, flags)
                continue
            if kind == _PART:  # and the slot stays the engine's
                self._flight.pending[id] = invocation
                self.streams.take_part(invocation, flags, offset, size)
                continue
            if invocation.caller is None:
                if flags & OVERFLOW and (fd := link.take_fd()) != NO_FD:
                    os.close(fd)
            elif kind != _ANSWER or flags & OVERFLOW or invocation.model.signature is None:
                self._answer_otherwise(invocation, kind, flags, family, offset, size)
            elif size > invocation.head.encoder.quick_output_bytes:
                self._encode_offloaded(invocation, offset, size, flags & FINITE != 0, None)
            else:
                self._encode(invocation, offset, flags & FINITE != 0)
            self._uncount(invocation)
            self._slot_writer.release(invocation)

    def _ignore(self, invocation: Invocation, link: EngineChannel, flags: int) -> None:
        log("stray_reply", "a reply names a model that its request was not for; it is ignored", level="warning")
        self._flight.pending[invocation.id] = invocation
        if flags & OVERFLOW and (fd := link.take_fd()) != NO_FD:
            os.close(fd)

    # ---- admit, decode, claim, submit ----------------------------------------------------------------------------

    def _refuse_beyond_rows_max(self) -> None:
        counted = self._flight.rows - self._flight.beyond
        if counted >= self._rows_max:
            raise self.engines.overloaded(f"{counted} rows wait already, the limit is {self._rows_max} (EVENKEEL_QUEUE_ROWS)")

    def _take_any(self, invocation: Invocation, model: ServedVersion, body: Body, decoded: Decoded | None) -> bool:
        """Everything but one plain row. False: the body is being decoded aside, and will come back to `begin`."""
        head = invocation.head
        if model.signature is None:
            self._slot_writer.take_raw(invocation, body, model.reads_headers)
            return True
        if head.wrong is not None:
            raise head.wrong
        if decoded is None:
            if not self.engines.directed and self._is_slow(invocation, body, model.signature):
                self._decode_offloaded(invocation, body, model, model.signature)
                return False
            decoded = head.decoder.decode(body, model.signature, head.params)
        self._slot_writer.take(invocation, model, decoded)
        invocation.beyond = max(0, invocation.rows - model.rows_max)
        return True

    def _is_slow(self, invocation: Invocation, body: Body, signature: Signature) -> bool:
        return len(body) > OFFLOADED_FROM or not invocation.head.decoder.is_quick(body, signature)

    def _decode_offloaded(self, invocation: Invocation, body: Body, model: ServedVersion, signature: Signature) -> None:
        """A body of 25 MB takes most of a second, and /ping must not wait for it."""
        if self._offload.bytes > self._bytes_max:
            held = f"{self._offload.bytes >> 20} MiB of requests are being decoded already (EVENKEEL_QUEUE_MB)"
            raise self.engines.overloaded(held, TooManyBytes)

        def decode() -> Decoded:
            return self._decode(invocation, body, signature)

        def begin(decoded: Decoded) -> None:  # another version may take the traffic by now
            fits = self.engines.model is None or self.engines.model.takes(model)
            self.begin(invocation, body, decoded if fits else None)

        self._offload.start(invocation, Work(len(body), decode, begin, self._refuse))

    def _decode(self, invocation: Invocation, body: Body, signature: Signature) -> Decoded:
        """In the thread. What it may take is what is left for requests: one body may become far more than it weighs."""
        head, room = invocation.head, self._bytes_max - self._slot_writer.slots.held_bytes - self._offload.bytes
        try:
            return head.decoder.decode(body, signature, head.params, max(room, 0))
        except BodyTooLarge as error:
            if 0 < error.needed <= self._bytes_max - len(body):  # at another time it would fit
                raise self.engines.overloaded(f"{error.message} that are left (EVENKEEL_QUEUE_MB)", TooManyBytes) from error
            raise

    def _wait_for_model(self, invocation: Invocation, body: Body) -> None:
        """No engine has greeted this worker. If the container is ready, or would be but for that, one soon will."""
        verdict = self._page.verdict()
        expected = verdict.ready or verdict.reason is Reason.NOT_CONNECTED
        if not expected or len(self._early) >= EARLY_MAX:
            raise NotReady("the model is still loading or warming; /ping turns 200 when it is ready", retry_after_s=1)
        if len(body) + sum(len(waiting) for _, waiting in self._early) > self._bytes_max:
            raise TooManyBytes("many requests wait for an engine already (EVENKEEL_QUEUE_MB)", retry_after_s=1)
        self._early.append((invocation, body))

    def _submit(self, invocation: Invocation, now: bool = False) -> None:
        link, slot = invocation.link, invocation.slot
        if link is None:
            self._held.append(invocation)
            return
        assert slot is not None, "a request is submitted with its slot"
        flags = 0 if invocation.submits == 0 else self._again(invocation)
        invocation.submits += 1
        link.rows += invocation.rows
        if invocation.beyond:
            link.large += 1
            link.beyond += invocation.beyond
        link.submit(REQUEST.pack(
            descriptor.SUBMIT, flags, invocation.rows, invocation.id, slot.offset, slot.capacity, invocation.used,
            invocation.model.ref, invocation.deadline_s), now)  # fmt: skip

    def _again(self, invocation: Invocation) -> int:
        """The flag of a request that another engine held when it ended."""
        self._count[Front.RESUBMITTED] += 1
        return SUSPECT if invocation.crashes or invocation.kills else AGAIN

    # ---- encode, answer, release ---------------------------------------------------------------------------------

    def _encode(self, invocation: Invocation, offset: int, finite: bool, memory: memoryview | None = None) -> None:
        """One reply on its own, from its slot or from `memory`."""
        try:
            body = self._encoded(invocation, offset, finite, memory or self._slot_writer.memory)
        except Exception as error:
            self._refuse(invocation, translated(error))
        else:
            self._answer(invocation, invocation.model.starts[invocation.head.answer_start], body)

    def _encoded(self, invocation: Invocation, offset: int, finite: bool, memory: memoryview) -> bytes:
        model = invocation.model
        assert model.signature is not None, "handlers encode for themselves"
        arrays = model.outputs.unpack(memory, offset, invocation.rows)
        return invocation.head.encoder.encode(arrays, model.signature, invocation.form, finite)

    def _encode_offloaded(self, invocation: Invocation, offset: int, size: int, finite: bool, memory: memoryview | None) -> None:
        """A large answer. Its slot is no longer the request's: it is free once the thread has read it."""
        slot, invocation.slot = invocation.slot, None
        start = invocation.model.starts[invocation.head.answer_start]

        def encode() -> bytes:
            return self._encoded(invocation, offset, finite, memory or self._slot_writer.memory)

        def answer(body: bytes) -> None:
            self._answer(invocation, start, body)

        def free() -> None:
            if slot is not None:
                self._slot_writer.free(slot)

        self._offload.start(invocation, Work(size, encode, answer, self._refuse, free))

    def _answer_otherwise(self, invocation: Invocation, kind: int, flags: int, family: int, offset: int, size: int) -> None:
        """The less common answers: faults, answers larger than their slot, and those that a handler encoded."""
        memory, link, model = self._slot_writer.memory, invocation.link, invocation.model
        if flags & OVERFLOW:
            assert link is not None, "the reply came over a link"
            fd = link.take_fd()
            if fd == NO_FD:
                no_file = "the answer came, but this process has no file descriptor left to take it"
                self._refuse(invocation, OutOfMemory(no_file, retry_after_s=1))
                return
            memory, offset = memoryview(read_spill(fd, size)), 0
            os.close(fd)
        if kind == descriptor.FAULT:
            self._refuse(invocation, FAMILIES[family](bytes(memory[offset : offset + size]).decode("utf-8", "replace")))
        elif flags & STREAMED:
            self._note_ok(invocation, self.streams.end(invocation))
        elif model.signature is None:
            start, body, extra = raw_answer(memory[offset : offset + size], self.limits.batch)
            self._answer(invocation, model.starts.once(start), body, extra)
        elif size > invocation.head.encoder.quick_output_bytes:
            self._encode_offloaded(invocation, offset, size, flags & FINITE != 0, memory)
        else:
            self._encode(invocation, offset, flags & FINITE != 0, memory)

    # ---- answer, refuse --------------------------------------------------------------------------------------------

    def _answer(self, invocation: Invocation, start: bytes, body: bytes, extra: bytes = b"") -> None:
        caller = invocation.caller
        assert caller is not None, "only those who wait are answered"
        invocation.caller = None
        caller.answer(invocation, start, body, extra)  # and nobody needs to wait while we count
        self._note_ok(invocation, self._clock() - invocation.started_s)

    def _note_ok(self, invocation: Invocation, latency_s: float) -> None:
        tally = invocation.model.tally
        tally.count[_OK] += 1
        tally.count[_LATENCY + time_bucket(latency_s)] += 1
        tally.value[_LATENCY_SUM] += latency_s

    def _refuse(self, invocation: Invocation, error: EvenkeelError) -> None:
        caller = invocation.caller
        if caller is None:
            return
        self.count_error(error, model_of(invocation))
        if error.status >= 500 and error.code not in ("not_ready", "deadline_exceeded"):
            log("request_failed", error.message, code=error.code,
                request_id=invocation.request_id or invocation.head.request_id)  # fmt: skip
        invocation.caller = None
        caller.answer_error(invocation, error)

    def count_error(self, error: EvenkeelError, model: ServedVersion | None = None) -> None:
        """Under the version whose request it was; what never met one counts for the version that serves."""
        model = model or self.engines.model
        count = model.tally.count if model is not None else self._count
        count[_ERRORS + NUMBER[type(error)]] += 1

    # ---- callers leave, deadlines pass, engines come and go ------------------------------------------------------

    def abandon(self, invocation: Invocation) -> None:
        """The client has hung up. Its place in the queue is free at once; the slot comes back with the reply."""
        invocation.caller = None
        model = model_of(invocation)
        if model is not None:
            model.tally.count[Front.ABANDONED] += 1
        if invocation.slot is not None:
            self._cancel(invocation)

    def _cancel(self, invocation: Invocation) -> None:
        link = invocation.link
        if link is None:  # no engine has it: it is over at once
            if invocation.id in self._flight.pending:
                self._held.remove(invocation)
                self._drop(invocation, None)
        elif link.model is not None:
            link.submit(REQUEST.pack(descriptor.CANCEL, 0, 0, invocation.id, 0, 0, 0, invocation.model.ref, 0.0))
            if self._flight.rows_left < self._rows_max:  # who comes and leaves for ever does not fill the engine's queue
                self._uncount(invocation)
                invocation.left = True
                self._flight.rows_left += invocation.rows

    def _uncount(self, invocation: Invocation) -> None:
        """Its rows wait no more, or nobody waits for them."""
        rows, link = invocation.rows, invocation.link
        if invocation.left:
            self._flight.rows_left -= rows
            return
        self._flight.rows -= rows
        if link is not None:
            link.rows -= rows
        if invocation.beyond:
            self._flight.beyond -= invocation.beyond
            if link is not None:
                link.large -= 1
                link.beyond -= invocation.beyond

    def end_all(self) -> None:
        """The worker stops, and will not wait longer: whoever is not answered yet is told so."""
        for invocation in [i for i in self._flight.pending.values() if i.caller is not None]:
            what = "this answer was not complete" if invocation.stream is not None else "this request was not done in time"
            self._refuse(invocation, NotReady(f"the container stops; {what}", retry_after_s=1))
            self._cancel(invocation)
        for invocation in self._offload.waiting:
            self._refuse(invocation, NotReady("the container stops; this request was not done in time", retry_after_s=1))
        for invocation, _ in self._early:
            self._refuse(invocation, NotReady("the container stops before an engine was ready", retry_after_s=1))

    def _give_up_held(self) -> None:
        """No engine comes back: the container gives up, and those who wait for one need not wait for its end."""
        for invocation in list(self._held):
            self._refuse(invocation, EngineLost("the container gives up; its log says why", retry_after_s=1))
            self._cancel(invocation)

    def sweep(self) -> None:
        """Answer those whose deadline has passed, wherever their request is now. Then look after the engines."""
        now_s = self._clock()
        late = [i for i in self._flight.pending.values() if i.deadline_s <= now_s and i.caller is not None]
        for invocation in late:
            error = self.streams.too_late(invocation, now_s)
            if error is not None:
                self._refuse(invocation, error)
                self._cancel(invocation)
        for invocation in self._offload.waiting:
            if invocation.started_s + self._timeout_s <= now_s:
                self._refuse(
                    invocation, DeadlineExceeded("the request was still being decoded, or its answer encoded, at its deadline")
                )
        for invocation, _ in self._early:
            if invocation.started_s + self._timeout_s <= now_s:
                self._refuse(invocation, NotReady("no engine became ready within the deadline", retry_after_s=1))
        self._early = [(i, body) for i, body in self._early if i.caller is not None]
        self.engines.sweep(now_s, len(self._flight.pending))
        self._poisons.look(self.engines.edition, now_s)
        if self._held and self.engines.up:
            self._give_held()
        if self._held and self._page.main.count[Main.LEAVING] == Reason.FAILED:
            self._give_up_held()
        self._count[_IN_FLIGHT] = len(self._flight.pending)
        self._count[_QUEUE_ROWS] = self._flight.rows
        self._count[_SLOT_BYTES] = self._slot_writer.slots.held_bytes

    def _engine_serves(self) -> None:
        """Whoever waited for an engine is given to one."""
        self._give_held()
        early, self._early = self._early, []
        for invocation, body in early:  # behind those held, whose ids are lower: ids ascend as they are submitted
            if invocation.caller is not None:
                self.begin(invocation, body)

    def _give_held(self) -> None:
        held, self._held = self._held, []
        for invocation in held:
            self._give(invocation)

    def _give(self, invocation: Invocation) -> None:
        """Submit a request that no engine has; or hold it, or give it up."""
        if invocation.end is not None and not self._judge(invocation, invocation.end):
            return
        if self._poisons.known and self._poisons.has(invocation):
            self._drop(invocation, poisoned_again())
            return
        if invocation.crashes and not self.engines.another_is_up:
            self._held.append(invocation)
            return
        choose = self.engines.choose_for_suspect if invocation.crashes else self.engines.choose_for
        invocation.link = link = choose(invocation.model)
        if link is None and self.engines.up:
            self._drop(invocation, EngineLost("its engine has gone, and the version that serves now takes other inputs"))
            return
        if link is not None:
            assert link.model is not None, "it has greeted"
            invocation.model = link.model
        self._submit(invocation)

    def _judge(self, invocation: Invocation, end: LastRun) -> bool:
        """Whether a request that ran when its engine ended is to run again. If nobody has said yet why the engine ended, it is
        held until then."""
        ended = engine_ends.read(end.block, end.epoch)
        if ended is None:
            if self._clock() - end.lost_s < JUDGED_WITHIN_S:
                self._held.append(invocation)
                return False
            ended = Ended.UNKNOWN
        was = SuspectRecord(invocation.submits, invocation.crashes, invocation.kills)
        only = end.held_only(invocation.id)
        now = was.after(ended, end.answered, only)
        invocation.end, invocation.crashes, invocation.kills = None, now.crashes, now.kills
        alone = only and now.crashes > was.crashes
        error = no_more(now, alone)
        if isinstance(error, PoisonedRequest):
            self._poisons.remember(invocation, self._clock())
        if error is not None:
            self._drop(invocation, error)
        return error is None

    def _drop(self, invocation: Invocation, error: EvenkeelError | None) -> None:
        """Of a request that no engine has."""
        del self._flight.pending[invocation.id]
        self._uncount(invocation)
        if error is not None:
            self._refuse(invocation, error)
        self._slot_writer.release(invocation)

    def _engine_lost(self, link: EngineChannel) -> None:
        """Run its requests again: the inputs are still in their slots, and nobody else can write there now.

        Whoever may have run in its last batch is a suspect, see suspects.py: nobody who only shared a batch with such a request,
        or waited behind it, is refused for that.
        """
        orphans = [i for i in self._flight.pending.values() if i.link is link]
        run = link.last_run(self._clock())
        for invocation in orphans:
            invocation.link = None
            if run.may_hold(invocation.id):
                invocation.end = run
        for invocation in sorted(orphans, key=_has_no_end):  # first those who may be refused: others may have the same bytes
            error = _cannot_run_again(invocation)
            if invocation.caller is None or error is not None:
                self._drop(invocation, error)
            else:
                self._give(invocation)

    def trim(self) -> None:
        self._slot_writer.trim()
        self.engines.know()

    async def keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    @property
    def idle(self) -> bool:
        """Nothing in flight and no slot held."""
        return not self._arrived and not self._flight.pending and not self._offload.waiting and self._slot_writer.slots.held == 0

    def waits_at(self, link: EngineChannel) -> bool:
        """Whether requests of ours have had nothing from that engine yet. It looks at all: not for the hot path."""
        return any(i.link is link and i.stream is None for i in self._flight.pending.values())

    def execution(self) -> dict[str, int | str]:
        """What batch transform should send. Raises NotReady while no engine has said what it runs."""
        found = self.engines.execution()
        if found is None:
            raise NotReady("the model is still loading or warming; /ping turns 200 when it is ready", retry_after_s=1)
        return found

    def close(self) -> None:
        self._offload.close()
        self.engines.close()


def _has_no_end(invocation: Invocation) -> bool:
    return invocation.end is None


def _cannot_run_again(invocation: Invocation) -> EvenkeelError | None:
    """Whatever ended its engine."""
    if invocation.stream is not None:
        return EngineLost("the engine ended in the middle of the answer; what has been sent of it cannot be taken back")
    return no_more(SuspectRecord(invocation.submits, invocation.crashes, invocation.kills)) if invocation.end is None else None
