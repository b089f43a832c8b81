"""STORY 1: what happens to a request: admit, decode, claim a slot, submit, await, encode, release.

`Invocations.begin` is called with a whole body and returns at once; the engine's reply comes to `finish`. There is no
task and no future per request, only an entry in the flight. This file owns every request in flight; Intake owns the
arena's slots, and Crowd is the same story for many plain requests at once. Each request is answered exactly once, and
each slot released exactly once: when no engine can write to it any more. Nothing here sees a socket, or knows more of
HTTP than status, content type and body.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from serve.codec import Body, Decoded
from serve.contract.logline import log
from serve.contract.status import Block, Engine, Front, Main, StatusPage, time_bucket
from serve.errors import (
    FAMILIES,
    NUMBER,
    DeadlineExceeded,
    EngineLost,
    EvenkeelError,
    NotReady,
    OutOfMemory,
    Overloaded,
    PoisonedRequest,
    TooManyBytes,
    WaitTooLong,
)  # fmt: skip
from serve.front import execution
from serve.front.admission import Accepted, row_cost, rows_sure
from serve.front.crowd import ROW_BODY_MAX, Arrival, Crowd
from serve.front.heads import ok_start
from serve.front.intake import Intake
from serve.front.links import EngineLink, Model
from serve.front.request import Flight, Invocation, model_of
from serve.front.streams import Stream
from serve.settings import Limits
from serve.transport import descriptor
from serve.transport.arena import read_spill
from serve.transport.channel import NO_FD
from serve.transport.descriptor import AGAIN, FINITE, OVERFLOW, REPLY, REQUEST, START, STREAMED, SUSPECT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from serve.contract.signature import Signature
    from serve.front.rehearsal import Rehearsal

SWEEP_S = 0.05  # how late a deadline may be noticed
CRASHES_MAX = 2  # a request that ran when an engine ended runs again, alone; when that ends the engine too, it was the cause
SUBMITS_MAX = 6  # to one engine after the other, each of which ended before it ran the request
DECODED_ASIDE_FROM = 1 << 20  # bytes of body from which decoding would hold up other requests noticeably
LINES = ("text/csv", "application/jsonlines")
EARLY_MAX = 256  # requests held by a worker that has not met an engine yet

_ANSWER, _PART = int(descriptor.ANSWER), int(descriptor.PART)
_OK, _LATENCY, _ERRORS = int(Front.OK), int(Front.LATENCY), int(Front.ERRORS)
_LATENCY_SUM = int(Front.LATENCY_SUM_S)
_IN_FLIGHT, _QUEUE_ROWS, _SLOT_BYTES = int(Front.IN_FLIGHT), int(Front.QUEUE_ROWS), int(Front.SLOT_BYTES)
_SERVING = int(Main.SERVING)
_ROW_COST, _ENGINE_ROWS = int(Engine.ROW_COST_S), int(Engine.QUEUE_ROWS)
_RUN_STARTED, _RUN_ROWS = int(Engine.RUN_STARTED_S), int(Engine.RUN_ROWS)


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
        self._intake = Intake(limits)
        self._page = page
        self._loop = asyncio.get_running_loop()
        self._arrived: list[Arrival] = []  # in this turn of the event loop
        self._lone = False  # the last turn in which something arrived brought one request
        self._early: list[tuple[Invocation, Body]] = []  # came while this worker had not met an engine yet
        self._held: list[Invocation] = []  # accepted while the only engine restarts
        # Ids are unique among all living fronts: an engine knows requests by their id alone.
        self._flight = Flight(os.getpid() << 32 if first_id is None else first_id)
        self._crowd = Crowd(self._flight, self._intake, limits, clock, self._encode)
        self._thread = ThreadPoolExecutor(1, "decode")
        self._aside: set[asyncio.Task[None]] = set()
        self._aside_bytes = 0
        self._rows_max, self._bytes_max = limits.queue_rows_max, limits.queue_bytes_max
        self._timeout_s = limits.request_timeout_s
        self._accepted = Accepted.start(self._timeout_s, clock())
        self._model: Model | None = None  # set from the first HELLO of an engine that serves on
        self._edition = page.main.count[Main.SERVING]  # of the version to which everything is sent
        self._count[Front.FOLLOWS] = self._edition
        self._sha256 = (0, "")  # the edition whose sum was learnt last, and the sum
        self._up: list[EngineLink] = []  # the engines of that edition that take requests
        self._only_up: EngineLink | None = None  # the engine that is up, when exactly one is
        self._rehearsing: EngineLink | None = None  # everything goes there for the moment
        self.rehearsal: Rehearsal | None = None
        self._links = [
            EngineLink(path, page.engine(i), self._intake.arena, functools.partial(page.tally, place), self.finish,
                       self._engine_up, self._engine_lost)
            for i, path in enumerate(sockets)
        ]  # fmt: skip

    # ---- the story -----------------------------------------------------------------------------------------------
    # For any request, one at a time. Crowd does the same for many plain ones together.

    def arrive(self, invocation: Invocation, body: bytes) -> None:
        """A whole request is here. What comes in one turn of the event loop is taken together at its end.

        One that is alone, as the one before it was, has nobody to wait for: 4 us less of some 100.
        """
        if self._lone and not self._flight.pending and not self._arrived:
            self.begin(invocation, body, lone=True)
            return
        if not self._arrived:
            self._loop.call_soon(self._take_arrived)
        self._arrived.append((invocation, body))

    def _take_arrived(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._lone = len(arrived) == 1
        for invocation, body in self._crowd.take(arrived, self._model, self._only_up):
            if invocation.caller is not None:
                self.begin(invocation, body)

    def begin(self, invocation: Invocation, body: Body, decoded: Decoded | None = None, lone: bool = False) -> None:
        """Admit, decode, claim, submit. Any refusal is answered here and now.

        A large body is decoded aside, and comes back here with `decoded`. `lone`: nothing else is going to be submitted in
        this turn of the event loop.
        """
        now_s = self._clock()
        if decoded is None:
            invocation.started_s = now_s
        try:
            model = self._model
            if model is None:
                self._wait_for_model(invocation, body)
                return
            invocation.model = model
            if self._flight.rows >= self._rows_max:
                raise self._overloaded(
                    f"{self._flight.rows} rows wait already, the limit is {self._rows_max} (EVENKEEL_QUEUE_ROWS)"
                )
            decode_row, plan = invocation.head.decode_row, model.row_plan
            packed = None
            if decode_row is not None and plan is not None and len(body) <= ROW_BODY_MAX:
                packed = decode_row(body, plan)
            if packed is not None:
                self._intake.take_row(invocation, model, packed)
            elif not self._take_any(invocation, model, body, decoded):
                return
            link = self._only_up
            if link is None or link.rows >= link.rows_sure:
                link = self._choose()
        except EvenkeelError as error:
            self._intake.release(invocation)
            self._refuse(invocation, error)
            return
        self._flight.last_id = invocation.id = id = self._flight.last_id + 1
        invocation.link = link
        invocation.deadline_s = now_s + self._timeout_s
        self._flight.pending[id] = invocation
        self._flight.rows += invocation.rows
        self._submit(invocation, lone)

    def finish(self, link: EngineLink, records: bytes) -> None:
        """Replies of an engine: encode and answer each, and have the slots back."""
        if self._crowd.finish(link, records):
            return
        for kind, flags, family, rows, id, offset, size, _, _, _, _ in REPLY.iter_unpack(records):
            invocation = self._flight.pending.pop(id)
            assert invocation.link is link, "an engine replies once to each request that it was given"
            if kind == _PART:  # and the slot stays the engine's
                self._flight.pending[id] = invocation
                self._take_part(invocation, flags, offset, size)
                continue
            self._flight.rows -= rows
            link.rows -= rows
            if invocation.caller is None:
                if flags & OVERFLOW and (fd := link.take_fd()) != NO_FD:
                    os.close(fd)
            elif kind != _ANSWER or flags & OVERFLOW or invocation.model.signature is None:
                self._answer_otherwise(invocation, kind, flags, family, offset, size)
            else:
                self._encode(invocation, offset, flags & FINITE != 0)
            self._intake.release(invocation)

    # ---- admit, decode, claim, submit ----------------------------------------------------------------------------

    def _take_any(self, invocation: Invocation, model: Model, body: Body, decoded: Decoded | None) -> bool:
        """Everything but one plain row. False: the body is being decoded aside, and will come back to `begin`."""
        head = invocation.head
        if model.signature is None:
            self._intake.take_raw(invocation, body, model.reads_headers)
            return True
        if head.wrong is not None:
            raise head.wrong
        if decoded is None:
            if len(body) > DECODED_ASIDE_FROM:
                self._decode_aside(invocation, body, model, model.signature)
                return False
            decoded = head.decoder.decode(body, model.signature, head.params)
        self._intake.take(invocation, model, decoded)
        return True

    def _decode_aside(self, invocation: Invocation, body: Body, model: Model, signature: Signature) -> None:
        """Decode in a thread: a body of 25 MB takes most of a second, and /ping must not wait for it."""
        if self._aside_bytes > self._bytes_max:
            held = f"{self._aside_bytes >> 20} MiB of requests are being decoded already (EVENKEEL_QUEUE_MB)"
            raise self._overloaded(held, TooManyBytes)
        self._aside_bytes += len(body)
        task = asyncio.get_running_loop().create_task(self._decode(invocation, body, model, signature))
        self._aside.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._aside.discard)

    async def _decode(self, invocation: Invocation, body: Body, model: Model, signature: Signature) -> None:
        head, loop = invocation.head, asyncio.get_running_loop()
        try:
            decoded = await loop.run_in_executor(self._thread, head.decoder.decode, body, signature, head.params)
        except EvenkeelError as error:
            self._refuse(invocation, error)
        else:
            if invocation.caller is not None:  # another version may take the traffic by now
                fits = self._model is None or self._model.takes(model)
                self.begin(invocation, body, decoded if fits else None)
        finally:
            self._aside_bytes -= len(body)

    def _wait_for_model(self, invocation: Invocation, body: Body) -> None:
        """No engine has greeted this worker. If the container is ready, one soon will: this worker is new."""
        if not self._page.verdict().ready or len(self._early) >= EARLY_MAX:
            raise NotReady("the model is still loading or warming; /ping turns 200 when it is ready", retry_after_s=1)
        self._early.append((invocation, body))

    def _choose(self) -> EngineLink | None:
        """The least loaded engine. Refuses now what could only be answered after its deadline.

        None: no engine is up; the request is held until one is back, within its deadline.
        """
        if not self._up:
            return None
        link = min(self._up, key=_rows_of)
        if link.rows >= link.rows_sure:
            ahead = max(link.rows, link.block.count[_ENGINE_ROWS])
            now_s = self._clock()
            wait_s, accepted = ahead * self._row_cost(link, now_s), self._accepted
            if wait_s > accepted.limit_s:
                self._accepted = accepted.refused(now_s)
                raise self._overloaded(
                    f"the wait would be about {wait_s:.1f} s; {accepted.limit_s:.2g} s are accepted now, with a deadline of "
                    f"{self._timeout_s:g} s", WaitTooLong)  # fmt: skip
        return link

    def _row_cost(self, link: EngineLink, now_s: float) -> float:
        count, value = link.block.count, link.block.value
        started_s = value[_RUN_STARTED]
        return row_cost(value[_ROW_COST], count[_RUN_ROWS], now_s - started_s if started_s else 0.0)

    def _look_at_waits(self, now_s: float) -> None:
        """What may be accepted without a look, and with one: twenty times a second, so that no request has to ask."""
        up = [(link, link.model, self._row_cost(link, now_s)) for link in self._up if link.model is not None]
        batch_s = max((model.rows_max * cost_s for _, model, cost_s in up), default=0.0)
        self._accepted = self._accepted.later(now_s, batch_s)
        for link, _, cost_s in up:
            link.rows_sure = rows_sure(self._accepted.limit_s, cost_s)

    def _submit(self, invocation: Invocation, now: bool = False) -> None:
        link, slot = invocation.link, invocation.slot
        if link is None:
            self._held.append(invocation)
            return
        assert slot is not None, "a request is submitted with its slot"
        flags = 0 if invocation.submits == 0 else SUSPECT if invocation.crashes else AGAIN
        invocation.submits += 1
        link.rows += invocation.rows
        link.submit(REQUEST.pack(
            descriptor.SUBMIT, flags, 0, invocation.rows, invocation.id, slot.offset, slot.capacity, invocation.used, link.epoch,
            invocation.deadline_s, invocation.started_s), now)  # fmt: skip

    # ---- encode, answer, release ---------------------------------------------------------------------------------

    def _encode(self, invocation: Invocation, offset: int, finite: bool, memory: memoryview | None = None) -> None:
        """One reply on its own, from its slot or from `memory`."""
        model, head = invocation.model, invocation.head
        assert model.signature is not None, "handlers encode for themselves"
        try:
            arrays = model.outputs.unpack(memory or self._intake.memory, offset, invocation.rows)
            body = head.encoder.encode(arrays, model.signature, invocation.form, finite)
        except EvenkeelError as error:
            self._refuse(invocation, error)
        except Exception:  # a bug of ours must cost this caller only, not those whose replies come after it
            log("answer_failed", "a reply could not be answered", trace=traceback.format_exc(limit=-6))
            self._refuse(invocation, EvenkeelError("an internal error; the log has its trace"))
        else:
            self._answer(invocation, model.starts[head.answer_start], body)

    def _answer_otherwise(self, invocation: Invocation, kind: int, flags: int, family: int, offset: int, size: int) -> None:
        """The less common answers: faults, answers larger than their slot, and those that a handler encoded."""
        memory, link, model = self._intake.memory, invocation.link, invocation.model
        if flags & OVERFLOW:
            assert link is not None, "the reply came over a link"
            fd = link.take_fd()
            if fd == NO_FD:
                self._refuse(invocation, OutOfMemory("the answer came, but this process has no file descriptor left to take it"))
                return
            memory, offset = memoryview(read_spill(fd, size)), 0
            os.close(fd)
        if kind == descriptor.FAULT:
            self._refuse(invocation, FAMILIES[family](bytes(memory[offset : offset + size]).decode("utf-8", "replace")))
        elif flags & STREAMED:
            self._end_stream(invocation)
        elif model.signature is None:
            start, body, extra = _raw_answer(memory[offset : offset + size], self.limits.batch)
            self._answer(invocation, model.starts.once(start), body, extra)
        else:
            self._encode(invocation, offset, flags & FINITE != 0, memory)

    # ---- an answer in parts ----------------------------------------------------------------------------------------

    def _take_part(self, invocation: Invocation, flags: int, offset: int, size: int) -> None:
        """Write it out, and ask for more unless the client is behind: then when it has caught up, see `resume`."""
        caller, now_s = invocation.caller, self._clock()
        if caller is None:
            return
        part = bytes(self._intake.memory[offset : offset + size])
        if flags & START:
            kind, extra = _said(part)
            invocation.stream = Stream(kind, now_s - invocation.started_s, now_s + self.limits.stream_timeout_s)
            caller.open_stream(invocation, kind, extra)
            keeps_up = True
        else:
            keeps_up = caller.write_part(invocation, part)
        stream = invocation.stream
        assert stream is not None, "the first part says what the stream is"
        stream.between = part.endswith(b"\n") or flags & START != 0
        invocation.deadline_s = min(now_s + self._timeout_s, stream.ends_s)
        stream.owed += 1
        if keeps_up:
            self.resume(invocation)

    def resume(self, invocation: Invocation) -> None:
        """The client takes its answer again: the engine may write where the parts were that it has had."""
        stream, link = invocation.stream, invocation.link
        if stream is None or not stream.owed or link is None or invocation.caller is None:
            return
        link.submit(REQUEST.pack(descriptor.MORE, 0, 0, stream.owed, invocation.id, 0, 0, 0, link.epoch, 0.0, 0.0))
        stream.owed = 0
        invocation.deadline_s = min(self._clock() + self._timeout_s, stream.ends_s)

    def _end_stream(self, invocation: Invocation) -> None:
        """The last part is out. What counts as its latency is when the first was there."""
        caller, stream = invocation.caller, invocation.stream
        assert caller is not None and stream is not None, "somebody waits, and has had the first part"
        invocation.caller = None
        self._note_ok(invocation, stream.first_s)
        caller.end_stream(invocation)

    def end_streams(self) -> None:
        """The worker stops, and will not wait longer for answers that go on."""
        for invocation in [i for i in self._flight.pending.values() if i.stream is not None and i.caller is not None]:
            self._refuse(invocation, NotReady("the container stops; this answer was not complete", retry_after_s=1))
            self._cancel(invocation)

    def _too_late(self, invocation: Invocation, now_s: float) -> EvenkeelError | None:
        """What to tell a caller whose deadline has passed. None: it is the client who is slow, and the stream has time."""
        stream = invocation.stream
        if stream is None:
            return DeadlineExceeded(f"no answer within {self._timeout_s:g} s (EVENKEEL_REQUEST_TIMEOUT_S)")
        if now_s >= stream.ends_s:
            return DeadlineExceeded(
                f"the answer was not complete within {self.limits.stream_timeout_s:g} s (EVENKEEL_STREAM_TIMEOUT_S)"
            )
        if stream.owed:
            invocation.deadline_s = min(now_s + self._timeout_s, stream.ends_s)
            return None
        return DeadlineExceeded(f"no further part within {self._timeout_s:g} s (EVENKEEL_REQUEST_TIMEOUT_S)")

    # ---- answer, refuse --------------------------------------------------------------------------------------------

    def _answer(self, invocation: Invocation, start: bytes, body: bytes, extra: bytes = b"") -> None:
        caller = invocation.caller
        assert caller is not None, "only those who wait are answered"
        invocation.caller = None
        self._note_ok(invocation, self._clock() - invocation.started_s)
        caller.answer(invocation, start, body, extra)

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
            log("request_failed", error.message, code=error.code, request_id=invocation.head.request_id)
        invocation.caller = None
        caller.answer_error(invocation, error)

    def count_error(self, error: EvenkeelError, model: Model | None = None) -> None:
        """Under the version whose request it was; what never met one counts for the version that serves."""
        model = model or self._model
        count = model.tally.count if model is not None else self._count
        count[_ERRORS + NUMBER[type(error)]] += 1

    def _overloaded(self, message: str, kind: type[Overloaded] = Overloaded) -> Overloaded:
        costs = [link.rows * link.block.value[_ROW_COST] for link in self._up]
        return kind(message, retry_after_s=max(1, math.ceil(min(costs, default=1.0))))

    # ---- callers leave, deadlines pass, engines come and go ------------------------------------------------------

    def abandon(self, invocation: Invocation) -> None:
        """The client has hung up. Its place in the engine's queue is freed; the slot comes back with the reply."""
        invocation.caller = None
        if invocation.slot is not None:
            invocation.model.tally.count[Front.ABANDONED] += 1
            self._cancel(invocation)

    def _cancel(self, invocation: Invocation) -> None:
        link = invocation.link
        if link is None:  # no engine has it: it is over at once
            if self._flight.pending.pop(invocation.id, None) is not None and invocation in self._held:
                self._held.remove(invocation)
                self._flight.rows -= invocation.rows
                self._intake.release(invocation)
        elif link.model is not None:
            link.submit(REQUEST.pack(descriptor.CANCEL, 0, 0, 0, invocation.id, 0, 0, 0, link.epoch, 0.0, 0.0))

    def sweep(self) -> None:
        """Follow the version that serves. Answer those whose deadline has passed, wherever their request is now."""
        if self._page.main.count[_SERVING] != self._edition:
            self._follow()
        now_s = self._clock()
        late = [i for i in self._flight.pending.values() if i.deadline_s <= now_s and i.caller is not None]
        for invocation in late:
            error = self._too_late(invocation, now_s)
            if error is not None:
                self._refuse(invocation, error)
                self._cancel(invocation)
        for invocation, _ in self._early:
            if invocation.started_s + self._timeout_s <= now_s:
                self._refuse(invocation, NotReady("no engine became ready within the deadline", retry_after_s=1))
        self._early = [(i, body) for i, body in self._early if i.caller is not None]
        self._look_at_waits(now_s)
        for link in self._links:
            link.look_again()
        self._count[_IN_FLIGHT] = len(self._flight.pending)
        self._count[_QUEUE_ROWS] = self._flight.rows
        self._count[_SLOT_BYTES] = self._intake.slots.held_bytes

    def _engine_up(self, link: EngineLink) -> None:
        assert link.model is not None, "called after HELLO"
        self._know(link)
        if link.model.edition != self._edition:
            if self.rehearsal is not None:  # it has no traffic, and those who have shall not be sent there
                self.rehearsal.excuse(self._links.index(link))
            self._follow()
            return
        self._model = link.model
        self._note_up()
        self._look_at_waits(self._clock())
        if self.rehearsal is not None and link.model.rehearsals:
            self.rehearsal.engine_up(self._links.index(link), link)
        self._take_held()
        early, self._early = self._early, []
        for invocation, body in early:  # behind those held, whose ids are lower: ids ascend as they are submitted
            if invocation.caller is not None:
                self.begin(invocation, body)

    def _take_held(self) -> None:
        held, self._held = self._held, []
        for invocation in held:
            self._give(invocation)

    def _follow(self) -> None:
        """Go over to the edition that the supervisor has named, as soon as an engine of it has greeted: what is begun from
        now on goes there, what was given to the others is answered by them."""
        serving = self._page.main.count[_SERVING]
        up = [link for link in self._links if link.model is not None and link.model.edition == serving]
        if serving == self._edition or not up:
            return
        self._edition = self._count[Front.FOLLOWS] = serving
        self._rehearsing, self._model = None, up[0].model
        self._note_up()
        self._take_held()

    def _give(self, invocation: Invocation) -> None:
        """Submit a request that no engine has: to one that serves, or else to one of its own version, which once served. Its
        inputs lie in the slot as its version wanted them."""
        wanted = invocation.model
        fitting = [link for link in self._up if link.model is not None and link.model.takes(wanted)]
        fitting = fitting or [o for o in self._links if o.model is not None and o.model.edition == wanted.edition]
        if not fitting and self._up:
            self._drop(invocation, EngineLost("its engine has gone, and the version that serves now takes other inputs"))
            return
        invocation.link = link = min(fitting, key=_rows_of) if fitting else None
        if link is not None:
            assert link.model is not None, "it has greeted"
            invocation.model = link.model
        self._submit(invocation)

    def _drop(self, invocation: Invocation, error: EvenkeelError | None) -> None:
        """Of a request that no engine has."""
        del self._flight.pending[invocation.id]
        self._flight.rows -= invocation.rows
        if error is not None:
            self._refuse(invocation, error)
        self._intake.release(invocation)

    def _know(self, link: EngineLink) -> None:
        """The sum of the model's files, which the engine writes on the status page when it has it."""
        model = link.model
        if model is not None and not model.starts.sha256:
            told = self._page.read_text(self._links.index(link), looks=1).get("model") or {}
            if told.get("sha256") and told.get("version") == model.version:
                self._sha256 = (model.edition, str(told["sha256"]))
            edition, sha256 = self._sha256
            if edition == model.edition and sha256:  # an engine that was started again has the same files
                model.starts.know(sha256)

    def _engine_lost(self, link: EngineLink) -> None:
        """Run its requests again: the inputs are still in their slots, and nobody else can write there now.

        Whoever may have run in its last batch does so alone from now on. If that ends an engine once more, it is known who
        did it: nobody who only shared a batch with such a request, or waited behind it, is refused for that.
        """
        if self.rehearsal is not None:
            self.rehearsal.engine_lost(self._links.index(link))
        if self._rehearsing is link:
            self._rehearsing = None
        self._note_up()
        self._follow()
        orphans = [i for i in self._flight.pending.values() if i.link is link]
        ran = link.may_have_run()
        for invocation in orphans:
            invocation.link = None
            invocation.crashes += ran(invocation.id)
            error = _no_more(invocation)
            if invocation.caller is None or error is not None:
                self._drop(invocation, error)
                continue
            self._count[Front.RESUBMITTED] += 1
            self._give(invocation)

    def _note_up(self) -> None:
        self._up = up = [link for link in self._links if link.model is not None and link.model.edition == self._edition]
        self._only_up = self._rehearsing or (up[0] if len(up) == 1 else None)

    def rehearse_with(self, link: EngineLink | None) -> None:
        self._rehearsing = link
        self._note_up()

    def trim(self) -> None:
        self._intake.trim()
        for link in self._links:
            self._know(link)

    async def keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    @property
    def idle(self) -> bool:
        """Nothing in flight and no slot held."""
        return not self._arrived and not self._flight.pending and not self._aside and self._intake.slots.held == 0

    def execution(self) -> dict[str, int | str]:
        """What batch transform should send. Raises NotReady while no engine has said what it runs."""
        model = self._model
        if model is None:
            raise NotReady("the model is still loading or warming; /ping turns 200 when it is ready", retry_after_s=1)
        costs = [link.block.value[_ROW_COST] for link in self._up] or [0.0]
        return execution.parameters(execution.Known(model.signature, len(costs), max(costs)), self.limits)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        for link in self._links:
            link.close()


def _rows_of(link: EngineLink) -> int:
    return link.rows


def _no_more(invocation: Invocation) -> EvenkeelError | None:
    """Why a request whose engine has ended is not run again; None: it is."""
    if invocation.stream is not None:
        return EngineLost("the engine ended in the middle of the answer; what has been sent of it cannot be taken back")
    if invocation.crashes >= CRASHES_MAX:
        return PoisonedRequest("the engine ended twice while it ran this request, the second time alone; it is not tried again")
    if invocation.submits >= SUBMITS_MAX:
        return EngineLost(f"{SUBMITS_MAX} engines ended, one after the other, while this request waited in them")
    return None


def _raw_answer(data: memoryview, batch: bool) -> tuple[bytes, bytes, bytes]:
    """Start, body and extra headers of a handler's answer."""
    size = int.from_bytes(data[:4], "little")
    kind, extra = _said(bytes(data[4 : 4 + size]))
    body = bytes(data[4 + size :])
    if batch and kind in LINES and not body.endswith(b"\n"):
        body += b"\n"  # batch transform puts the answers of many requests behind one another
    return ok_start(kind), body, extra


def _said(meta: bytes) -> tuple[str, bytes]:
    """What a handler said of its answer: content type, and the headers that come with it.

    The engine has checked them; whatever it says, no line of the head may come from there.
    """
    said = json.loads(meta)
    kind, attributes = (_one_line(said[name] or "") for name in ("content_type", "custom_attributes"))
    return kind.decode("ascii"), b"x-amzn-sagemaker-custom-attributes: " + attributes + b"\r\n" if attributes else b""


def _one_line(text: str) -> bytes:
    return text.encode("ascii", "replace").replace(b"\r", b"").replace(b"\n", b"")[:1024]
