"""A chunked body, taken apart however it arrives."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.serve.errors import BadRequest, EvenkeelError, HeadersTooLarge
from evenkeel.serve.http.chunks import FRAMING_BYTES_MAX, SIZE_LINE_BYTES_MAX, STEPS_A_TURN, TRAILERS_MAX, ChunkedBody, Part

BEHIND = b"GET /ping HTTP/1.1\r\n\r\n"
GOOD = {
    b"5\r\nhello\r\n0\r\n\r\n": b"hello",
    b"0\r\n\r\n": b"",
    b"000a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n": b"0123456789x",
    b'5;a=b;c="d;e\\"";f\r\nhello\r\n0;x\r\n\r\n': b"hello",
    b'5 ; a = b\t;\tc="d"\r\nhello\r\n0\r\n\r\n': b"hello",
    b"5; a=b\r\nhello\r\n0\r\nX: y\r\nZ:\r\n\r\n": b"hello",
}
BAD = [
    b"5 \r\nhello\r\n0\r\n\r\n", b"5\t\r\n", b" 5\r\n", b"-1\r\n", b"0x5\r\n", b"\r\n", b"5;\r\n",
    b"5;;\r\n", b"5; a=b \r\n", b"5;a=\r\n", b"5;a b\r\n", b'5;a="b\r\n', b"5\nhello", b"5\rhello",
    b"5\r\nhelloX\r\n", b"5\r\nhello\n0\r\n\r\n", b"00000000000000005\r\n", b"g\r\n", b"0\r\nX\r\n\r\n",
    b"0\r\n X: y\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n",
    b"0\r\nHost: b\r\n\r\n", b"0\r\nX: \0\r\n",
]  # fmt: skip


def read(pieces: list[bytes]) -> tuple[bytes, bytes, Part]:
    body, found, rest = ChunkedBody(65536), b"", b""
    for piece in pieces:
        if body.part is Part.DONE:
            rest += piece
            continue
        while piece and body.part is not Part.DONE:
            found += b"".join(body.feed(piece))
            piece = body.rest
        rest += piece
    return found, rest, body.part


@pytest.mark.parametrize("data", GOOD)
def test_a_body_ends_where_it_says_however_it_arrives(data: bytes) -> None:
    whole = data + BEHIND
    for pieces in ([whole], [bytes([b]) for b in whole], *([whole[:i], whole[i:]] for i in range(len(whole)))):
        assert read(pieces) == (GOOD[data], BEHIND, Part.DONE)


@pytest.mark.parametrize("data", BAD)
def test_what_two_readers_could_read_differently_is_refused(data: bytes) -> None:
    for pieces in ([data], [bytes([b]) for b in data]):
        with pytest.raises(BadRequest, match="chunk"):
            read(pieces)


def test_what_is_around_the_bytes_is_bounded() -> None:
    with pytest.raises(BadRequest, match="too much around"):
        read([b"1;" + b"a" * FRAMING_BYTES_MAX])
    with pytest.raises(BadRequest, match="too much around"):
        read([b"1;" + b"a" * 1000 + b"\r\nx\r\n"] * 100)
    with pytest.raises(HeadersTooLarge):
        read([b"0\r\n", *[b"X: " + b"a" * 1000 + b"\r\n"] * 100])
    assert read([b"1\r\nx\r\n"] * 100_000 + [b"0\r\n\r\n"])[0] == b"x" * 100_000, "small chunks alone are no crime"


def test_a_turn_takes_only_so_many_chunks_however_many_have_come() -> None:
    body, left, turns = ChunkedBody(65536), b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n" + BEHIND, 0
    found = b""
    while body.part is not Part.DONE:
        pieces = body.feed(left)
        assert len(pieces) <= STEPS_A_TURN
        found, left, turns = found + b"".join(pieces), body.rest, turns + 1
    assert (found, left) == (b"x" * 10_000, BEHIND) and turns >= 30_000 // STEPS_A_TURN


def test_lines_around_a_body_are_bounded_in_length_and_in_number() -> None:
    with pytest.raises(BadRequest, match="too much around"):
        read([b"1;" + b"a" * SIZE_LINE_BYTES_MAX])
    with pytest.raises(HeadersTooLarge, match="lines"):
        read([b"0\r\n" + b"a:\r\n" * (TRAILERS_MAX + 1)])


class Seen:
    def __init__(self) -> None:
        self.body, self.complete = b"", False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


LINES = st.text('05aA;= \t"\\x\r\n:', max_size=8).map(str.encode)


@settings(max_examples=3000, deadline=None)
@given(size=LINES, after=st.sampled_from([b"\r\n", b"\n", b"\r", b"x\r\n"]), trailer=LINES)
def test_llhttp_agrees_with_every_body_that_is_accepted(size: bytes, after: bytes, trailer: bytes) -> None:
    """But for blanks in extensions, which it does not take."""
    data = b"5" + size + b"\r\nhello" + after + b"0\r\n" + trailer + b"\r\n\r\n"
    try:
        body, rest, part = read([data])
    except EvenkeelError:
        return
    if part is not Part.DONE or b" " in size or b"\t" in size:
        return
    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data[: len(data) - len(rest)])
    assert (seen.body, seen.complete) == (body, True)
