"""Frames of `application/vnd.amazon.eventstream`, in which a streamed answer reaches the client.

A frame: its length and the length of its headers (4 bytes each, big-endian), the CRC-32 of those eight bytes, the headers (length
of the name in a byte, name, the type 7 for text, length of the value in two bytes, value), the payload, and the CRC-32 of all
before. `smithy`'s specification of event streams describes it.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache

import orjson

CONTENT_TYPE = "application/vnd.amazon.eventstream"
TEXT = 7
PRELUDE_BYTES, CRC_BYTES = 12, 4
PART_HEADERS = ((":message-type", "event"), (":event-type", "PayloadPart"), (":content-type", "application/octet-stream"))


def payload_part(data: bytes) -> bytes:
    """An event that carries bytes of the container's answer."""
    return frame(PART_HEADERS, data)


def stream_error(name: str, **members: str) -> bytes:
    """An exception within the stream: ModelStreamError or InternalStreamFailure."""
    headers = ((":message-type", "exception"), (":exception-type", name), (":content-type", "application/json"))
    return frame(headers, orjson.dumps(members))


def frame(headers: tuple[tuple[str, str], ...], payload: bytes) -> bytes:
    packed = _packed(headers)
    start = struct.pack(">II", PRELUDE_BYTES + len(packed) + len(payload) + CRC_BYTES, len(packed))
    whole = b"".join((start, struct.pack(">I", zlib.crc32(start)), packed, payload))
    return whole + struct.pack(">I", zlib.crc32(whole))


@cache
def _packed(headers: tuple[tuple[str, str], ...]) -> bytes:
    def one(name: str, value: str) -> bytes:
        return struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", TEXT, len(value)) + value.encode()

    return b"".join(one(name, value) for name, value in headers)
