"""How a whole body lies in its slot, for a handler: two sizes, what the script may ask about it, its id, and the body as it came.

What is said of a body (types, headers) is the same for nearly every request of a client, so both sides remember it by its bytes;
the id, which no two requests share, stands apart.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

_SIZES = struct.Struct("<II")  # bytes of what is said of it, and of its id
SAID_REMEMBERED, SAID_BYTES_REMEMBERED = 64, 1024  # how many, and of at most how many bytes each
_encode = json.JSONEncoder().encode  # ours: a script may replace json.dumps


@dataclass(frozen=True, slots=True)
class BodyFacts:
    """What a handler may ask about a body. Nobody changes them: requests share them."""

    content_type: str
    accept: str
    headers: Mapping[str, str]


def start_of_body(content_type: str, accept: str, headers: Mapping[str, str] | None, request_id: str) -> bytes:
    """What lies before a body. `headers` None: the handler asks for none."""
    if headers is None and len(content_type) + len(accept) <= SAID_BYTES_REMEMBERED:
        said = _said(content_type, accept)
    else:
        said = _written(content_type, accept, headers or {})
    id = request_id.encode("latin-1")
    return _SIZES.pack(len(said), len(id)) + said + id


@lru_cache(SAID_REMEMBERED)
def _said(content_type: str, accept: str) -> bytes:
    return _written(content_type, accept, {})


def _written(content_type: str, accept: str, headers: Mapping[str, str]) -> bytes:
    return _encode({"content_type": content_type, "accept": accept, "headers": dict(headers)}).encode()


def read_start(memory: memoryview, offset: int) -> tuple[BodyFacts, str, int]:
    """What is said of the body there, its id, and where the body begins."""
    said_bytes, id_bytes = _SIZES.unpack_from(memory, offset)
    at = offset + _SIZES.size
    id_at = at + said_bytes
    body_at = id_at + id_bytes
    said = bytes(memory[at:id_at])
    read = _read if said_bytes <= SAID_BYTES_REMEMBERED else _read.__wrapped__
    return read(said), str(memory[id_at:body_at], "latin-1"), body_at


@lru_cache(SAID_REMEMBERED)
def _read(said: bytes) -> BodyFacts:
    fields = json.loads(said)
    return BodyFacts(fields["content_type"], fields["accept"], fields["headers"])
