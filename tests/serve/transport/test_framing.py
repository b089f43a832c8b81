"""The stream may be cut anywhere; whole records come out, and nothing else ever does."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.transport.descriptor import RECORD_BYTES, REPLY, REQUEST, Kind, Reply, Request
from evenkeel.serve.transport.framing import Framing

THREE = bytes(range(RECORD_BYTES)) + b"\xff" * RECORD_BYTES + b"\x00" * RECORD_BYTES


def test_records_come_out_whole_when_fed_byte_by_byte() -> None:
    framing = Framing()
    out = [framing.feed(THREE[i : i + 1]) for i in range(len(THREE))]
    assert [i for i, piece in enumerate(out) if piece] == [63, 127, 191]
    assert b"".join(out) == THREE


@given(st.lists(st.integers(0, len(THREE)), max_size=20))
def test_records_come_out_whole_however_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(THREE)]
    framing = Framing()
    out = [framing.feed(THREE[a:b]) for a, b in itertools.pairwise(edges)]
    assert all(len(piece) % RECORD_BYTES == 0 for piece in out)
    assert b"".join(out) == THREE
    assert framing.pending_bytes == 0


def test_a_broken_record_at_the_end_is_never_handed_out() -> None:
    framing = Framing()
    assert framing.feed(THREE[:100]) == THREE[:64]
    assert framing.feed(b"") == b""
    assert framing.pending_bytes == 36


U64, U32, TIMES = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.floats(allow_nan=False)


@given(st.sampled_from(Kind), U32, U64, U64, U64, U64, U64, TIMES, TIMES)
def test_a_request_record_says_again_what_was_put_in(
    kind: Kind, rows: int, id: int, offset: int, capacity: int, used: int, epoch: int, deadline: float, submitted: float
) -> None:
    request = Request(kind, 1, 2, rows, id, offset, capacity, used, epoch, deadline, submitted)
    raw = REQUEST.pack(*request)
    assert len(raw) == RECORD_BYTES and Request(*REQUEST.unpack(raw)) == request


@given(U32, U64, U64, U64, U64, U32)
def test_a_reply_record_says_again_what_was_put_in(rows: int, id: int, at: int, size: int, epoch: int, batch: int) -> None:
    reply = Reply(Kind.ANSWER, 3, 17, rows, id, at, size, epoch, 0.5, 0.25, batch)
    raw = REPLY.pack(*reply)
    assert len(raw) == RECORD_BYTES and Reply(*REPLY.unpack(raw)) == reply
