"""The requests that hold a slot: by id, and how many rows they are together. Owner of ids and of those counts.

A request is added once, leaves once, and is given to one engine after the other in between if those end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evenkeel.serve.transport import descriptor
from evenkeel.serve.transport.descriptor import AGAIN, REQUEST, SUSPECT

if TYPE_CHECKING:
    from evenkeel.serve.front.request.invocation import Invocation
    from evenkeel.serve.front.routing.engine_channel import EngineChannel

SUBMIT, CANCEL = int(descriptor.SUBMIT), int(descriptor.CANCEL)


@dataclass(slots=True)
class InFlightRequests:
    """`rows`: of those who wait. `beyond`: of these, the rows that nobody waits behind. `rows_left`: of callers who left while
    an engine has their request still."""

    last_id: int
    rows_max: int  # EVENKEEL_QUEUE_ROWS
    rows: int = 0
    beyond: int = 0
    rows_left: int = 0
    pending: dict[int, Invocation] = field(default_factory=dict)

    def add(self, invocation: Invocation) -> None:
        """It holds a slot, and is waited for."""
        self.last_id = invocation.id = id = self.last_id + 1
        self.pending[id] = invocation
        self.rows += invocation.rows
        self.beyond += invocation.beyond

    def submit(self, invocation: Invocation, link: EngineChannel, now: bool = False) -> None:
        """Give it to that engine, and its slot with it. `now`: nothing else will be submitted in this turn of the event loop."""
        slot = invocation.slot
        assert slot is not None, "a request is submitted with its slot"
        flags = 0
        if invocation.submits:  # another engine held it when it ended
            flags = SUSPECT if invocation.crashes or invocation.kills else AGAIN
        invocation.link = link
        invocation.submits += 1
        link.rows += invocation.rows
        if invocation.beyond:
            link.large += 1
            link.beyond += invocation.beyond
        link.submit(REQUEST.pack(
            SUBMIT, flags, invocation.rows, invocation.id, slot.offset, slot.capacity, invocation.used, invocation.model.ref,
            invocation.deadline_s), now)  # fmt: skip

    def cancel(self, invocation: Invocation, link: EngineChannel) -> None:
        """Nobody waits for it any more. The engine that has it is told, and sends the slot back."""
        link.submit(REQUEST.pack(CANCEL, 0, 0, invocation.id, 0, 0, 0, invocation.model.ref, 0.0))
        if self.rows_left < self.rows_max:  # who comes and leaves for ever does not fill the engine's queue
            self.uncount(invocation)
            invocation.left = True
            self.rows_left += invocation.rows

    def uncount(self, invocation: Invocation) -> None:
        """Its rows wait no more, or nobody waits for them."""
        rows, link = invocation.rows, invocation.link
        if invocation.left:
            self.rows_left -= rows
            return
        self.rows -= rows
        if link is not None:
            link.rows -= rows
        if invocation.beyond:
            self.beyond -= invocation.beyond
            if link is not None:
                link.large -= 1
                link.beyond -= invocation.beyond

    def remove(self, invocation: Invocation) -> None:
        """It is over, wherever it was."""
        del self.pending[invocation.id]
        self.uncount(invocation)

    def at(self, link: EngineChannel) -> list[Invocation]:
        """Those that this engine has. It looks at all of them: not for the hot path."""
        return [invocation for invocation in self.pending.values() if invocation.link is link]
