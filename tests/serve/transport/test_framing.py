"""The stream may be cut anywhere; whole records come out, and nothing else ever does."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.transport.descriptor import RECORD_BYTES, REPLY, REQUEST, ROW_REQUEST, Kind, Reply, Request, model_ref
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
    assert framing.feed(THREE[:64]) == THREE[:64], "nothing is left over that would move what follows"


def test_a_broken_record_at_the_end_is_never_handed_out() -> None:
    framing = Framing()
    assert framing.feed(THREE[:100]) == THREE[:64]
    assert framing.feed(b"") == b""
    assert framing.feed(THREE[100:128]) == THREE[64:128], "what came is kept for its rest"


U64, U32, TIMES = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.floats(allow_nan=False)


@given(st.sampled_from(Kind), U32, U64, U64, U64, U64, U64, TIMES)
def test_a_request_record_says_again_what_was_put_in(
    kind: Kind, rows: int, id: int, offset: int, capacity: int, used: int, model: int, deadline: float
) -> None:
    request = Request(kind, 1, rows, id, offset, capacity, used, model, deadline)
    raw = REQUEST.pack(*request)
    assert len(raw) == RECORD_BYTES and Request(*REQUEST.unpack(raw)) == request


@given(U32, U64, U64, U64, U64)
def test_a_reply_record_says_again_what_was_put_in(rows: int, id: int, at: int, size: int, model: int) -> None:
    reply = Reply(Kind.ANSWER, 3, 17, rows, id, at, size, model)
    raw = REPLY.pack(*reply)
    assert len(raw) == RECORD_BYTES and Reply(*REPLY.unpack(raw)) == reply


@given(U32, U32)
def test_a_model_is_named_by_its_number_and_generation(number: int, generation: int) -> None:
    assert divmod(model_ref(number, generation), 2**32) == (generation, number)


@given(U32, U64, U64, U64)
def test_a_row_record_is_a_request_record_with_another_id_and_place(rows: int, id: int, at: int, model: int) -> None:
    like = REQUEST.pack(Kind.SUBMIT, 0, rows, 0, 0, 512, 8, model, 1.5)
    assert ROW_REQUEST.pack(like[:8], id, at, like[24:]) == REQUEST.pack(Kind.SUBMIT, 0, rows, id, at, 512, 8, model, 1.5)
