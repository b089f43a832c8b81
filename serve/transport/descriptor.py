"""The records on the socket between a front and an engine: 64 bytes each, whatever they say.

A slot has one owner, and ownership travels with the record. SUBMIT gives a slot to the engine; the reply gives it
back, always exactly once, also for a request that was cancelled or ran out of time. If the channel closes, the engine
process has ended and all its slots are the front's again. Times are CLOCK_MONOTONIC seconds, offsets are bytes from
the start of the front's arena. Nothing here is ever unpickled.

Every record says which model it is for, by a reference of one word: the model's number in the engine, and the generation, which
counts how often a model was loaded under that number. What comes for a model that is not loaded is refused, so a late record
cannot reach the model that has its number now (decision 0048). The engine says the two numbers in its HELLO and MODELS.

    front -> engine   HELLO (with the arena's file descriptor), SUBMIT, CANCEL, MORE, MODELS
    engine -> front   HELLO and MODELS (with the file descriptor of what it has loaded, `bytes` of JSON), ANSWER, FAULT, PART

HELLO says which models are loaded when a front comes, MODELS which have come or gone since; a front that could not take one of
those asks for all by a MODELS of its own.

A HELLO is one record either way, so it never goes out in part, whatever the model is and however many samples it has.

A streamed answer is any number of PARTs, then an ANSWER without data or a FAULT. The slot stays the engine's until that
last record; the bytes of a part are the front's to read until its MORE says that it has (decision 0022).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

RECORD_BYTES = 64
PROTOCOL = 5  # raised when a record changes its meaning; both sides compare it at HELLO


class Kind(IntEnum):
    HELLO = 1
    SUBMIT = 2
    CANCEL = 3
    ANSWER = 4
    FAULT = 5
    PART = 6
    MORE = 7
    MODELS = 8


SUBMIT, CANCEL, ANSWER, FAULT, HELLO = (int(k) for k in (Kind.SUBMIT, Kind.CANCEL, Kind.ANSWER, Kind.FAULT, Kind.HELLO))
PART, MORE, MODELS = int(Kind.PART), int(Kind.MORE), int(Kind.MODELS)

# Flags of SUBMIT, for requests that an engine held when it ended. They also keep such records out of blocks (the first
# word of a record differs), so that the ids in a block always ascend.
AGAIN = 1  # it waited there
SUSPECT = 2  # it ran, or may have run: it runs in a batch of its own now, so that another crash has one cause

FINITE = 1  # flag of ANSWER: every output is finite, so that strict JSON needs no second look
OVERFLOW = 2  # flag of ANSWER and FAULT: the data is not in the slot but in a memfd that came with this record

STREAMED = 4  # flag of ANSWER: everything has come in parts, this is the end of it
START = 1  # flag of PART: no bytes of the body, but what the handler says of it, as JSON

# kind, flags, 2 spare, rows, request id, slot offset, slot capacity, used, model reference, deadline_s, 8 spare
REQUEST = struct.Struct("<BB2xIQQQQQd8x")
# The same of many single rows that differ only in id and offset: the first word, those two, and all that follows.
ROW_REQUEST = struct.Struct("<8sQQ40s")
# kind, flags, error (family and status), rows, request id, data offset, data bytes, 8 spare, model reference, 16 spare
REPLY = struct.Struct("<BBHIQQQ8xQ16x")
REF = struct.Struct("<40xQ16x")  # of either, only which model it is for
# Of the reply to a single row: the first word, which says that it is one, the id, the offset and the model.
ROW_REPLY = struct.Struct("<8sQQ16xQ16x")
assert REQUEST.size == REPLY.size == ROW_REQUEST.size == ROW_REPLY.size == RECORD_BYTES, (
    "one record size both ways keeps the framing trivial"
)


class Request(NamedTuple):
    """SUBMIT, CANCEL, MORE (`rows` parts have been read) and HELLO. `used` bytes at `offset` are input; the rest of `capacity`
    is room for the answer."""

    kind: int
    flags: int
    rows: int
    id: int
    offset: int
    capacity: int
    used: int
    model: int
    deadline_s: float


class Reply(NamedTuple):
    """ANSWER and PART: `bytes` of output at `offset`. FAULT: what `error_of` made of an error, its message as UTF-8 there."""

    kind: int
    flags: int
    error: int
    rows: int
    id: int
    offset: int
    bytes: int
    model: int

    @property
    def family(self) -> int:
        return self.error & (1 << FAMILY_BITS) - 1

    @property
    def status(self) -> int:
        """0: the family's own."""
        return self.error >> FAMILY_BITS


FAMILY_BITS = 6  # of an error's 16; the others are its status, where a script chose one


def error_of(family: int, status: int) -> int:
    """An error's family number, and its status if that is not the family's own, else 0."""
    return status << FAMILY_BITS | family


def model_ref(number: int, generation: int) -> int:
    """How records name a model. Both numbers have 32 bits."""
    return generation << 32 | number


def number_of(ref: int) -> int:
    """The model's number; another generation may have had it before."""
    return ref & 0xFFFFFFFF
