"""From a body to a slot that holds its tensors: decode, claim, write. And back: release.

Owner of this worker's arena and of which slot of it is free. It knows nothing of engines, and of requests only their
head and the fields about the slot, which it fills.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.serve.codec import Body, Decoded
from evenkeel.serve.errors import BodyTooLarge, TooManyBytes
from evenkeel.serve.front.http.request_head import ID, new_request_id, platform_headers
from evenkeel.serve.settings import Limits
from evenkeel.serve.transport.arena import Arena
from evenkeel.serve.transport.layout import aligned
from evenkeel.serve.transport.slots import RETURN_PAGES_FROM, SLOT_BYTES_MAX, Slot, Slots
from evenkeel.serve.transport.whole_body import start_of_body

if TYPE_CHECKING:
    from evenkeel.serve.front.request.invocation import Invocation
    from evenkeel.serve.front.routing.engine_channel import ServedVersion

RAW_ROOM = 16 * 1024  # room for the answer of a handler beside its input; longer answers come in a file of their own


class SlotWriter:
    """The arena and its slots. What does not fit raises TooManyBytes or BodyTooLarge, and holds nothing."""

    def __init__(self, limits: Limits) -> None:
        self.arena = Arena.create()
        self.memory = self.arena.memory
        self.slots = Slots()
        # Large slots that were freed since the last trim, and those freed before that. Giving pages back at once would
        # cost the next large request a page fault for each, 0.2 ms for an image.
        self._freed: set[Slot] = set()
        self._resting: set[Slot] = set()
        self._bytes_max = limits.queue_bytes_max

    def take(self, invocation: Invocation, model: ServedVersion, decoded: Decoded) -> None:
        """Any decoded request: its arrays in the layout of the model's inputs."""
        rows, packed = decoded.rows, decoded.packed
        size = len(packed) if packed is not None else model.inputs.bytes_of(decoded.arrays, rows)
        room = aligned(size) + (model.outputs.fixed_bytes(rows) if model.outputs.fixed else size)
        slot = self._claim(room, size)
        invocation.slot, invocation.rows, invocation.form = slot, rows, decoded.form
        if packed is not None:
            self.memory[slot.offset : slot.offset + size] = packed
            invocation.used = size
        else:
            invocation.used = model.inputs.pack(decoded.arrays, self.memory, slot.offset)

    def take_raw(self, invocation: Invocation, body: Body, reads_headers: bool) -> None:
        """The user's handler decodes: the body goes as it came, behind what the handler may ask about it."""
        formats = invocation.head.formats
        if formats.encoded and formats.wrong is not None:
            raise formats.wrong
        headers = platform_headers(invocation.head_bytes)
        invocation.request_id = request_id = headers.get(ID, "") or new_request_id()
        start = start_of_body(formats.content_type, formats.accept, headers if reads_headers else None, request_id)
        size = len(start) + len(body)
        slot = self._claim(aligned(size) + RAW_ROOM, size)
        invocation.slot, at = slot, slot.offset
        body_at = at + len(start)
        self.memory[at:body_at] = start
        self.memory[body_at : at + size] = body
        invocation.used = size

    def release(self, invocation: Invocation) -> None:
        """Nobody can write to the slot any more: it may be handed out again."""
        slot = invocation.slot
        if slot is not None:
            self.free(slot)
            invocation.slot = None

    def free(self, slot: Slot) -> None:
        """The same of a slot that its request has handed on."""
        if slot.capacity >= RETURN_PAGES_FROM:
            self._freed.add(slot)
            self._resting.discard(slot)
        self.slots.release(slot)

    def trim(self) -> None:
        """Return the pages of large slots that nobody has used since the call before this one. Called once a second."""
        for slot in self._resting:
            if slot.size == 0:
                self.arena.give_back(slot)
        self._resting, self._freed = self._freed, set()

    def _claim(self, room: int, size: int) -> Slot:
        slot = self.slots.claim(room)
        if slot is None or self.slots.held_bytes > self._bytes_max:
            slot = self._claim_without_room(slot, size)
        return slot

    def _claim_without_room(self, slot: Slot | None, size: int) -> Slot:
        """No slot with room for the answer too: one for the input alone will do, since an answer can come in a file."""
        if slot is not None:  # there was one, but it is more than may be held
            self.slots.release(slot)
        elif size > SLOT_BYTES_MAX:
            raise BodyTooLarge(f"the decoded request takes {size} bytes, over the limit of {SLOT_BYTES_MAX}")
        elif (slot := self.slots.claim(size)) is not None and self.slots.held_bytes <= self._bytes_max:
            return slot
        elif slot is not None:
            self.slots.release(slot)
        waiting = f"{self.slots.held_bytes >> 20} MiB of requests are waiting already (EVENKEEL_QUEUE_MB)"
        raise TooManyBytes(waiting, retry_after_s=1)
