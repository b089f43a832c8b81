"""A chunked body, taken apart as it comes: sizes, bytes, trailer. Knows no connection.

The grammar is RFC 9112's (7.1): extensions may have blanks around their `;` and `=`, as the RFC asks, but a blank may not
stand alone behind a size, since readers differ in what they make of that. Extensions and trailers are read past.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from evenkeel.serve.errors import BadRequest, EvenkeelError, HeadersTooLarge
from evenkeel.serve.http.strict import FIELD, TOKEN, is_unfit

# What a body may have around its bytes: so much, and so much a byte. A chunk of one byte has 5 around it.
FRAMING_BYTES_MAX, FRAMING_SHARE_MAX = 64 * 1024, 16
FRAMING_TOO_LARGE = "the chunked body has too much around its bytes: larger chunks, no extensions"
# Lines and pieces that are taken in one turn of the event loop: some 0.4 ms. A read of chunks of one byte has 43,000 of them.
STEPS_A_TURN = 192
SIZE_LINE_BYTES_MAX = 4096  # with its extensions
TRAILERS_MAX = 256
NO_FRAMING_IN_TRAILER = (b"content-length", b"transfer-encoding", b"host")
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*+;[ \t]*+%b++(?:[ \t]*+=[ \t]*+(?:%b++|%b))?+)*+" % (TOKEN, TOKEN, _QUOTED))


class Part(Enum):
    """What comes next."""

    SIZE = auto()
    BYTES = auto()
    BYTES_END = auto()
    TRAILER = auto()
    DONE = auto()


NAMES = {Part.SIZE: "a chunk size", Part.BYTES_END: "the end of a chunk", Part.TRAILER: "the trailer"}


class ChunkedBody:
    """`feed` it what comes; it gives back the body's bytes. `rest` is what it has not taken: what followed the body, once it is
    DONE, and before that what is left for another turn."""

    def __init__(self, trailer_bytes_max: int) -> None:
        self.part = Part.SIZE
        self.rest = b""
        self._left = 0  # bytes of the chunk in hand that have not come yet
        self._line = b""  # the beginning of a line whose end has not come yet
        self._framing = self._trailer = self._trailers = 0
        self._trailer_bytes_max = trailer_bytes_max

    def feed(self, data: bytes) -> list[bytes]:
        """The bytes of the body in `data`, as far as one turn goes. Raises BadRequest or HeadersTooLarge."""
        looked_at = len(self._line)
        data, self._line, self.rest = self._line + data, b"", b""
        pieces, at = [], 0
        for _ in range(STEPS_A_TURN):
            if at >= len(data) or self.part is Part.DONE:
                break
            if self.part is Part.BYTES:
                pieces.append(data[at : at + self._left])
                at += len(pieces[-1])
                self._came(len(pieces[-1]))
            else:
                end = data.find(b"\r\n", max(at, looked_at - 1))
                if end < 0:
                    self._hold(data[at:], max(0, looked_at - at - 1))
                    return pieces
                self._read_line(data[at:end])
                at = end + 2
        self.rest = data[at:]
        return pieces

    def _came(self, size: int) -> None:
        self._left -= size
        self._framing = max(0, self._framing - FRAMING_SHARE_MAX * size)
        if not self._left:
            self.part = Part.BYTES_END

    def _hold(self, line: bytes, looked_at: int) -> None:
        """A line that has only begun. What is wrong in it already is not waited for; of it so many bytes were in order."""
        if is_unfit(line, looked_at) or (self.part is Part.BYTES_END and line != b"\r"):
            raise self._wrong()
        self._check_size(line)
        if self.part is Part.SIZE and not re.match(rb"[0-9A-Fa-f]{1,16}(?:[ \t;\r]|\Z)", line):
            raise self._wrong()
        self._line = line

    def _check_size(self, line: bytes) -> None:
        if self.part is Part.TRAILER:
            if self._trailer + len(line) > self._trailer_bytes_max:
                raise HeadersTooLarge(f"the trailer is larger than {self._trailer_bytes_max} bytes")
        elif len(line) > SIZE_LINE_BYTES_MAX or self._framing + len(line) > FRAMING_BYTES_MAX:
            raise BadRequest(FRAMING_TOO_LARGE)

    def _read_line(self, line: bytes) -> None:
        self._check_size(line)
        if self.part is Part.TRAILER:
            self._read_trailer(line)
            return
        self._framing += len(line) + 2
        if self.part is Part.BYTES_END:
            if line:
                raise self._wrong()
            self.part = Part.SIZE
            return
        size = SIZE_LINE.fullmatch(line)
        if size is None:
            raise self._wrong()
        self._left = int(size[1], 16)
        self.part = Part.BYTES if self._left else Part.TRAILER

    def _read_trailer(self, line: bytes) -> None:
        """Nothing here needs what is in it; that it could say where the body ends must not be."""
        self._trailer += len(line) + 2
        self._trailers += 1
        if self._trailers > TRAILERS_MAX:
            raise HeadersTooLarge(f"the trailer has more than {TRAILERS_MAX} lines")
        if not line:
            self.part = Part.DONE
        elif not FIELD.fullmatch(line) or line.partition(b":")[0].lower() in NO_FRAMING_IN_TRAILER:
            raise self._wrong()

    def _wrong(self) -> EvenkeelError:
        return BadRequest(f"not valid HTTP: {NAMES[self.part]} of the chunked body is malformed")
