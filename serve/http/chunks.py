"""A chunked body, taken apart as it comes: sizes, bytes, trailer. Knows no connection.

The grammar is RFC 9112's (7.1): extensions may have blanks around their `;` and `=`, as the RFC asks, but a blank may not
stand alone behind a size, since readers differ in what they make of that. Extensions and trailers are read past.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from serve.contract.strict import FIELD, NEVER_IN_A_HEAD, TOKEN
from serve.errors import BadRequest, EvenkeelError, HeadersTooLarge

# What a body may have around its bytes: so much, and so much a byte. A chunk of one byte has 5 around it.
FRAMING_BYTES_MAX, FRAMING_SHARE_MAX = 64 * 1024, 16
FRAMING_TOO_LARGE = "the chunked body has too much around its bytes: larger chunks, no extensions"
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
    """`feed` it what comes; it gives back the body's bytes. `rest` is what followed the body, once it is DONE."""

    def __init__(self, trailer_bytes_max: int) -> None:
        self.part = Part.SIZE
        self.rest = b""
        self._left = 0  # bytes of the chunk in hand that have not come yet
        self._line = b""  # the beginning of a line whose end has not come yet
        self._framing = self._trailer = 0
        self._trailer_bytes_max = trailer_bytes_max

    def feed(self, data: bytes) -> list[bytes]:
        """The bytes of the body in `data`. Raises BadRequest or HeadersTooLarge."""
        data, self._line = self._line + data, b""
        pieces, at = [], 0
        while at < len(data) and self.part is not Part.DONE:
            if self.part is Part.BYTES:
                pieces.append(data[at : at + self._left])
                at += len(pieces[-1])
                self._came(len(pieces[-1]))
            else:
                end = data.find(b"\r\n", at)
                if end < 0:
                    self._hold(data[at:])
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

    def _hold(self, line: bytes) -> None:
        """A line that has only begun. What is wrong in it already is not waited for."""
        if NEVER_IN_A_HEAD.search(line) or (self.part is Part.BYTES_END and line != b"\r"):
            raise self._wrong()
        if self._framing + len(line) > FRAMING_BYTES_MAX:
            raise BadRequest(FRAMING_TOO_LARGE)
        if self.part is Part.SIZE and not re.match(rb"[0-9A-Fa-f]{1,16}(?:[ \t;\r]|\Z)", line):
            raise self._wrong()
        self._line = line

    def _read_line(self, line: bytes) -> None:
        if self.part is Part.TRAILER:
            self._read_trailer(line)
            return
        self._framing += len(line) + 2
        if self._framing > FRAMING_BYTES_MAX:
            raise BadRequest(FRAMING_TOO_LARGE)
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
        if self._trailer > self._trailer_bytes_max:
            raise HeadersTooLarge(f"the trailer is larger than {self._trailer_bytes_max} bytes")
        if not line:
            self.part = Part.DONE
        elif not FIELD.fullmatch(line) or line.partition(b":")[0].lower() in NO_FRAMING_IN_TRAILER:
            raise self._wrong()

    def _wrong(self) -> EvenkeelError:
        return BadRequest(f"not valid HTTP: {NAMES[self.part]} of the chunked body is malformed")
