"""Heads that differ in nothing that says anything to us are of one shape, and only the first few of a shape are parsed.

Platforms give each request a trace id, an inference id and a length of its own, so no head comes twice. But a caller's heads have
the same names in the same order, and the same values where a value decides something. From a head that the strict reader has
accepted a pattern is made: the lines that are read (READ) as they stand, the length as digits, and of each other line its name
and any value that a header may have. What matches it the strict reader would accept, too, and with the same outcome but for the
length. One match is a tenth of a parse.

A shape is learned when it has been seen a few times, since a pattern costs as much as some twenty parses; so a client who sends
a new one each time gets none. Only those heads have a shape after which the connection goes on as it was: kept alive, no Expect,
a body of known length or none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from evenkeel.serve.front.http.request_head import NO_HEAD, Head
from evenkeel.serve.http.strict import LENGTH, READ_BY_STRICT, RequestHead

SHAPES_MAX = 16  # in use; when there are more, each new one takes the place of the one that was found longest ago
SEEN_MAX = 256  # shapes that were seen and have no pattern yet, the oldest first to go
LEARNED_AT = 8  # times seen: by then their parses have cost some part of what a pattern does
SHAPED_BYTES_MAX = 2048  # of a head; a longer one is parsed each time
# Whose values are read, here or by the strict reader; a test compares this list with what they ask for.
READ = READ_BY_STRICT | {b"accept", b"content-encoding", b"x-amzn-sagemaker-accept"}
VALUE = rb":[\t -~\x80-\xff]*+\r\n"  # as in strict.FIELDS
DIGITS = rb":[\t ]*+([0-9]{1,9})[\t ]*+\r\n"  # a longer length is no whole request's

Match = Callable[[bytes, int, int], re.Match[bytes] | None]


@dataclass(slots=True, eq=False)
class HeadShape:
    """`match` finds the whole head at the beginning of what has come, of which it is given SHAPED_BYTES_MAX: no caller can have a
    longer one looked through many times. Group 1 are the digits of its length, if it has one."""

    match: Match
    head: Head


NO_SHAPE = HeadShape(re.compile(rb"(?!)").match, NO_HEAD)  # of nothing


class HeadShapes:
    """Those that one worker knows. `latest`: with which a new connection begins, as most callers are of one kind."""

    def __init__(self) -> None:
        self._known: dict[bytes, HeadShape] = {}
        self._seen: dict[bytes, int] = {}
        self.latest = NO_SHAPE

    def find(self, data: bytes) -> HeadShape | None:
        """That of the head with which this begins, if it is known."""
        for key, shape in self._known.items():
            if shape.match(data, 0, SHAPED_BYTES_MAX):
                del self._known[key]
                self._known[key] = self.latest = shape
                return shape
        return None

    def note(self, raw: bytes, read: RequestHead, head: Head) -> HeadShape:
        """A head has been accepted and parsed. Returns its shape, or NO_SHAPE while it has none."""
        if not read.keep_alive or read.expects_continue or read.length is None or len(raw) > SHAPED_BYTES_MAX:
            return NO_SHAPE
        lines = raw[:-4].split(b"\r\n")
        key = b"\n".join([lines[0], *map(_said, lines[1:])])
        shape = self._known.get(key)
        if shape is None:
            times = self._seen.pop(key, 0) + 1
            if times < LEARNED_AT:
                _make_room(self._seen, SEEN_MAX)
                self._seen[key] = times
                return NO_SHAPE
            _make_room(self._known, SHAPES_MAX)
            shape = self._known[key] = HeadShape(pattern(raw).match, head)
        self.latest = shape
        return shape


def pattern(raw: bytes) -> re.Pattern[bytes]:
    """Of all heads of the same shape as this one, which the strict reader has accepted."""
    lines = raw[:-4].split(b"\r\n")
    length = b"" if any(_name(line) == LENGTH for line in lines[1:]) else b"()"
    return re.compile(b"%b\r\n%b\r\n%b" % (re.escape(lines[0]), b"".join(map(_pattern_of, lines[1:])), length))


def _pattern_of(line: bytes) -> bytes:
    name, as_it_came = _name(line), line.partition(b":")[0]
    if name == LENGTH:
        return re.escape(as_it_came) + DIGITS
    return re.escape(line) + b"\r\n" if name in READ else re.escape(as_it_came) + VALUE


def _said(line: bytes) -> bytes:
    """What of a line all heads of a shape have in common."""
    name = _name(line)
    return line if name in READ and name != LENGTH else line.partition(b":")[0]


def _name(line: bytes) -> bytes:
    return line.partition(b":")[0].lower()


def _make_room(full: dict[bytes, HeadShape] | dict[bytes, int], most: int) -> None:
    """For one more, by the oldest."""
    if len(full) >= most:
        del full[next(iter(full))]
