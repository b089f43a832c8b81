"""Puts results where the front finds them, and the record that says so into the peer's outbox.

Every SUBMIT is replied to exactly once, here. Owner of the parts of requests that are larger than one batch, until the
last part is done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from evenkeel.serve.batching.item import Item, Segment
from evenkeel.serve.contract.status_page import StatusBlock, time_bucket
from evenkeel.serve.engine.backends.base import RawReply, RawStream
from evenkeel.serve.engine.cells import ERRORS, QUEUE_SUM, QUEUE_TIME
from evenkeel.serve.engine.cycle.row_table import RowTable, replies
from evenkeel.serve.engine.cycle.tensors import Array
from evenkeel.serve.errors import FAMILIES, NUMBER, EvenkeelError, NotReady, OutOfMemory, chosen_status
from evenkeel.serve.transport.arena import spill
from evenkeel.serve.transport.descriptor import ANSWER, FAULT, OVERFLOW, PART, REPLY, STREAMED, error_of
from evenkeel.serve.transport.layout import Layout, aligned

NOT_LOADED = "the model of this request is not loaded here any more"
SAID_REMEMBERED = 64  # of what handlers say of their answers
MESSAGE_BYTES_MAX = 1000  # of a fault's message: fits the smallest slot
_encode = json.JSONEncoder().encode  # ours: a script may replace json.dumps


@dataclass(slots=True)
class Parts:
    """The outputs of a request that is larger than a batch, so far: by their first row, and how many rows they are. (Counted as
    they come: a request of a million rows has as many parts as others have rows.)"""

    rows: int = 0
    arrays: list[tuple[int, list[Array]]] = field(default_factory=list)


class Replies:
    """One model's way of answering. Records wait in the peers' outboxes until the cycle sends them, and carry `ref`."""

    def __init__(self, block: StatusBlock, ref: int) -> None:
        self._count, self._value, self._ref = block.count, block.value, ref
        self._parts: dict[Item, Parts] = {}

    def singles(self, segments: Sequence[Segment], size: int, flags: int, started_s: float) -> None:
        """Answers of `size` bytes that lie in their slots already, behind the inputs: whole requests of one row."""
        for item, start, count in segments:
            shift, queue_s = aligned(item.used), started_s - item.arrived_s
            record = REPLY.pack(ANSWER, flags, 0, 1, abs(item.id), item.offset + shift, size, self._ref)
            if isinstance(item, RowTable):
                record = replies(item.table[start : start + count], record, shift)
            item.peer.outbox += record
            self._count[QUEUE_TIME + time_bucket(queue_s)] += count
            self._value[QUEUE_SUM] += queue_s * count

    def join(self, segment: Segment, outputs: list[Array]) -> list[Array] | None:
        """The outputs of the whole request once its last part is here, else None."""
        item = segment.item
        if item.gone:
            self._parts.pop(item, None)
            return None
        if segment.rows == item.rows:
            return outputs
        parts = self._parts.setdefault(item, Parts())
        parts.arrays.append((segment.start, [a.copy() for a in outputs]))
        parts.rows += len(outputs[0])
        if parts.rows < item.rows:
            return None
        del self._parts[item]
        parts.arrays.sort(key=lambda part: part[0])
        return [np.concatenate([arrays[i] for _, arrays in parts.arrays]) for i in range(len(outputs))]

    def tensors(self, item: Item, layout: Layout, outputs: list[Array], flags: int, started_s: float) -> None:
        """The outputs of one whole request."""
        size = layout.bytes_of(outputs, item.rows)
        at = item.offset + aligned(item.used)
        if at + size <= item.offset + item.capacity:
            used = layout.pack(outputs, item.peer.memory, at)
            self._answer(item, flags, at, used, started_s)
        else:
            room = memoryview(bytearray(size))
            layout.pack(outputs, room, 0)
            self._answer_spilled(item, flags, room, started_s)

    def raw(self, item: Item, reply: RawReply, started_s: float) -> None:
        """A handler's answer: what it says of itself, and its body."""
        meta = said_of(reply)
        data = len(meta).to_bytes(4, "little") + meta + reply.body
        at = item.offset + aligned(item.used)
        if at + len(data) <= item.offset + item.capacity:
            item.peer.memory[at : at + len(data)] = data
            self._answer(item, 0, at, len(data), started_s)
        else:
            self._answer_spilled(item, 0, memoryview(data), started_s)

    def part(self, item: Item, at: int, data: bytes | memoryview, flags: int = 0) -> None:
        """One part, at a place where nothing lies that the front has not read."""
        item.peer.memory[at : at + len(data)] = data
        item.peer.outbox += REPLY.pack(PART, flags, 0, item.rows, item.id, at, len(data), self._ref)

    def end_parts(self, item: Item) -> None:
        """The slot goes back: every part of the answer has been sent."""
        item.peer.outbox += REPLY.pack(ANSWER, STREAMED, 0, item.rows, item.id, 0, 0, self._ref)

    def fault(self, item: Item, error: EvenkeelError, *, spilled: bool = False) -> None:
        """Give the slot back with an error in it, or in a file of its own where the slot still holds parts to be read.

        The message goes behind the input, never over it: if this engine dies before the record is out, the front runs
        the request again from that input.
        """
        self._parts.pop(item, None)
        message = error.message.encode("utf-8", "replace")[:MESSAGE_BYTES_MAX]
        family = next(NUMBER[kind] for kind in type(error).__mro__ if kind in NUMBER)
        self._count[ERRORS + family] += 1
        told = error_of(family, chosen_status(error, FAMILIES[family]))
        at = item.offset + aligned(item.used)
        fits = not spilled and at + len(message) <= item.offset + item.capacity
        flags = 0 if fits else OVERFLOW
        record = REPLY.pack(FAULT, flags, told, item.rows, item.id, at, len(message), self._ref)
        if not fits:
            try:
                self._spilled(item, record, spill(memoryview(message)))
                return
            except OSError:  # then without its words
                record = REPLY.pack(FAULT, 0, told, item.rows, item.id, at, 0, self._ref)
                item.peer.outbox += record
        else:
            item.peer.memory[at : at + len(message)] = message
            item.peer.outbox += record

    def forget(self, item: Item) -> None:
        """Its front has gone: there is nobody to reply to."""
        self._parts.pop(item, None)

    def _answer(self, item: Item, flags: int, at: int, size: int, started_s: float) -> None:
        self._note_queue(item, started_s)
        item.peer.outbox += REPLY.pack(ANSWER, flags, 0, item.rows, item.id, at, size, self._ref)

    def _note_queue(self, item: Item, started_s: float) -> None:
        queue_s = started_s - item.arrived_s
        self._count[QUEUE_TIME + time_bucket(queue_s)] += 1
        self._value[QUEUE_SUM] += queue_s

    def _answer_spilled(self, item: Item, flags: int, data: memoryview, started_s: float) -> None:
        """An answer larger than its slot goes in a file of its own, passed along with the record; when none can be made, the
        request is refused."""
        try:
            fd = spill(data)
        except OSError as e:
            self.fault(item, OutOfMemory(f"the answer of {len(data)} bytes has nowhere to go: {e.strerror}"))
            return
        self._note_queue(item, started_s)
        record = REPLY.pack(ANSWER, flags | OVERFLOW, 0, item.rows, item.id, 0, len(data), self._ref)
        self._spilled(item, record, fd)

    def _spilled(self, item: Item, record: bytes, fd: int) -> None:
        item.peer.send()
        item.peer.channel.send_with(record, fd, gives=True)


def refuse_late(block: StatusBlock, ref: int, item: Item) -> None:
    """For a model that is not loaded, or is not the one any more that had this number: it must touch nothing here."""
    Replies(block, ref).fault(item, NotReady(NOT_LOADED))


def said_of(reply: RawReply | RawStream) -> bytes:
    """What a handler says of its answer, besides the body. Most say no more than its type."""
    make = _said if reply.custom_attributes is None else _said.__wrapped__
    return make(reply.content_type, reply.custom_attributes, reply.status)


@lru_cache(SAID_REMEMBERED)  # a type has at most 1,024 characters
def _said(content_type: str, custom_attributes: str | None, status: int) -> bytes:
    said: dict[str, str | int | None] = {"content_type": content_type, "custom_attributes": custom_attributes}
    if status != 200:
        said["status"] = status
    return _encode(said).encode()
