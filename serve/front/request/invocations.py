"""STORY 1: what happens to a request: decode, claim a slot, admit, submit, await, encode, release.

`Invocations.begin` is called with a whole body and returns at once; the engine's reply comes to `replied`. There is no
task and no future per request, only an entry among those in flight. Each request is answered exactly once, and each slot
released exactly once: when no engine can write to it any more. Nothing here sees a socket, or knows more of HTTP than
status, content type and body.

RowBatcher is the same story for many plain rows at once, and the first to see what arrives and what is replied.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from evenkeel.serve.contract.status_page import Front
from evenkeel.serve.front.request.cancellation import Cancellation
from evenkeel.serve.front.request.decoding import BodyDecoder
from evenkeel.serve.front.request.early_requests import EarlyRequests
from evenkeel.serve.front.request.failover import Failover
from evenkeel.serve.front.request.in_flight import InFlightRequests
from evenkeel.serve.front.request.offload import Offload
from evenkeel.serve.front.request.outcomes import Outcomes
from evenkeel.serve.front.request.row_batcher import RowBatcher
from evenkeel.serve.front.request.slot_writer import SlotWriter
from evenkeel.serve.front.routing.router import Router
from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.descriptor import REPLY, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evenkeel.serve.codec import Body, Decoded
    from evenkeel.serve.contract.status_page import StatusPage
    from evenkeel.serve.front.request.invocation import Invocation
    from evenkeel.serve.front.routing.destination import Destination
    from evenkeel.serve.front.routing.engine_channel import EngineChannel
    from evenkeel.serve.front.routing.named_models import NamedModels
    from evenkeel.serve.settings import Limits

SWEEP_S = 0.05  # how late a deadline may be noticed
_PART, _MODELS = int(descriptor.PART), int(descriptor.MODELS)


class Invocations:
    """All requests of one front worker, and the parts that a request goes through."""

    def __init__(
        self,
        page: StatusPage,
        place: int,
        sockets: Sequence[str],
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        first_id: int | None = None,
        access_log: float = 0.0,
        named: NamedModels | None = None,
    ) -> None:
        """`named`: where there are many models."""
        block = page.front(place)
        self._count, self._clock, self._limits = block.count, clock, limits
        # Ids are unique among all living fronts: an engine knows requests by their id alone.
        self.in_flight = InFlightRequests(os.getpid() << 32 if first_id is None else first_id, limits.queue_rows_max)
        self.slot_writer = SlotWriter(limits)
        self.offload = Offload(asyncio.get_running_loop())
        self.engines = Router(page, place, limits, clock, named)
        self.outcomes = Outcomes(self.slot_writer, self.offload, self.engines, block, limits, clock)
        self.early = EarlyRequests(page, self.outcomes, limits)
        self.decoder = BodyDecoder(self.slot_writer, self.offload, self.engines, self.outcomes, limits, block.count, path=self)
        self.failover = Failover(page, place, self.in_flight, self.slot_writer, self.engines, self.outcomes, clock)
        self.cancellation = Cancellation(self.in_flight, self.failover, self.offload, self.outcomes, limits)
        batcher = logged_arrivals(access_log) if access_log else RowBatcher
        self.row_batcher = batcher(
            self.in_flight, self.slot_writer, self.engines, self.failover, self.outcomes, limits, clock, block.count, path=self
        )
        self.engines.connect(sockets, self.slot_writer.arena, replies=self.row_batcher, events=self)

    # ---- the story -----------------------------------------------------------------------------------------------
    # For any request, one at a time.

    def begin(
        self, invocation: Invocation, body: Body, to: Destination, decoded: Decoded | None = None, now: bool = False
    ) -> None:
        """Admit, decode, claim, submit. Any refusal is answered here and now.

        A large body is decoded in a thread, and comes back here with `decoded`. Its time has been running since it first came.
        `now`: nothing else is going to be submitted in this turn of the event loop.
        """
        if not invocation.started_s:
            invocation.started_s = self._clock()
        try:
            if to.model is None:
                self.early.wait(invocation, body)
                return
            invocation.model = to.model
            self._check_rows()
            if not self.decoder.place(invocation, to, body, decoded):
                return
            self.failover.poisons.check(invocation)
            link = self.engines.choose(to, invocation.rows, invocation.started_s, len(self.in_flight.pending))
        except Exception as error:
            self.slot_writer.release(invocation)
            self.outcomes.fail(invocation, error)
            return
        invocation.deadline_s = invocation.started_s + self._limits.request_timeout_s
        self.in_flight.add(invocation)
        if link is not None:
            self.in_flight.submit(invocation, link, now)
        else:
            self.failover.held.append(invocation)  # until an engine is back, within its deadline

    def begin_named(self, invocation: Invocation, body: Body) -> None:
        """For the model that its path names, of many."""
        named, name = self.engines.named, invocation.head.model_name
        assert named is not None, "such paths are known only where there are many"
        invocation.started_s = invocation.started_s or self._clock()
        try:
            to = named.find(name)
            if to.model is None:
                self.early.wait(invocation, body, is_loaded=True)
                return
        except Exception as error:
            self.outcomes.fail(invocation, error)
            return
        self.row_batcher.take([(invocation, body)], to)

    def _check_rows(self) -> None:
        in_flight = self.in_flight
        waiting = in_flight.rows - in_flight.beyond
        if waiting >= in_flight.rows_max:
            limit = f"the limit is {in_flight.rows_max} (EVENKEEL_QUEUE_ROWS)"
            raise self.engines.overloaded(f"{waiting} rows wait already, {limit}")

    def replied(self, link: EngineChannel, records: bytes) -> None:
        """Replies of an engine: encode and answer each, and have the slots back."""
        for reply in map(Reply._make, REPLY.iter_unpack(records)):
            if reply.kind == _MODELS:
                link.take_news(reply.bytes)
                continue
            invocation = self.in_flight.pending[reply.id]
            assert invocation.link is link, "an engine replies once to each request that it was given"
            if invocation.model.ref != reply.model:  # it is of another model than was asked, so not of this request
                self.outcomes.discard(invocation, reply)
            elif reply.kind == _PART:  # and the slot stays the engine's
                self.outcomes.streams.take_part(invocation, reply.flags, reply.offset, reply.bytes)
            else:
                self.outcomes.take(invocation, reply)
                self.in_flight.remove(invocation)
                self.slot_writer.release(invocation)

    # ---- engines come and go -------------------------------------------------------------------------------------

    def engine_serves(self, to: Destination) -> None:
        """What waited for an engine is given to one."""
        self.failover.give_held()
        for invocation, body in self.early.take_all():  # behind those held, whose ids are lower: ids ascend as they are submitted
            if self.engines.named is None:
                self.begin(invocation, body, to)
            else:
                self.begin_named(invocation, body)

    def engine_lost(self, link: EngineChannel) -> None:
        self.failover.engine_lost(link)

    # ---- now and then --------------------------------------------------------------------------------------------

    async def keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        now_s = self._clock()
        self.cancellation.expire(now_s)
        self.early.expire(now_s)
        if self.engines.named is not None and self.early.waiting:  # what they wait for may have been unloaded meanwhile
            self.engine_serves(self.engines.serving)
        self.engines.sweep(now_s, len(self.in_flight.pending))
        self.failover.look(now_s)
        self._count[Front.IN_FLIGHT] = len(self.in_flight.pending)
        self._count[Front.QUEUE_ROWS] = self.in_flight.rows
        self._count[Front.SLOT_BYTES] = self.slot_writer.slots.held_bytes

    def trim(self) -> None:
        """Once a second."""
        self.slot_writer.trim()
        self.engines.know()

    @property
    def idle(self) -> bool:
        """Nothing in flight and no slot held."""
        waiting = self.row_batcher.arrived or self.in_flight.pending or self.offload.waiting
        return not waiting and self.slot_writer.slots.held == 0

    def waits_at(self, link: EngineChannel) -> bool:
        """Whether requests of ours have had nothing from that engine yet."""
        return any(invocation.stream is None for invocation in self.in_flight.at(link))

    def end_all(self) -> None:
        """The worker stops, and will not wait longer."""
        self.cancellation.end_all()
        self.early.end_all()

    def close(self) -> None:
        self.offload.close()
        self.engines.close()


def logged_arrivals(share: float) -> Callable[..., RowBatcher]:
    """What stands in for the row batcher where a share of the requests gets a line."""
    from evenkeel.serve.front.request.access_log import LoggedArrivals

    return partial(LoggedArrivals, share)
