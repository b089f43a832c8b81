"""Cuts a byte stream into fixed records, and knows nothing of what they say.

A stream may end anywhere: the bytes of a broken record stay here and are never handed out.
"""

from __future__ import annotations

from evenkeel.serve.transport.descriptor import RECORD_BYTES


class Framing:
    """Feed it what was received; it gives back whole records. Where there is no `rest`, whole records are what they are."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """All whole records received so far, as one run of bytes (a multiple of RECORD_BYTES, maybe empty)."""
        data = self.rest + data
        whole_bytes = len(data) - len(data) % RECORD_BYTES
        self.rest = data[whole_bytes:]
        return data[:whole_bytes]
