"""A head of which only the beginning has come: where it ends, if it does, and what is wrong with it already.

What a head may be is in strict.py. However a head is cut, no byte of it is looked at twice.
"""

from __future__ import annotations

from evenkeel.serve.errors import HeadersTooLarge
from evenkeel.serve.http import strict

HEAD_END = b"\r\n\r\n"


class HeadBeginning:
    """Of one connection, for one head after the other. `checked`: so many of its bytes are in order; 0 for the next head."""

    __slots__ = ("_bytes_max", "checked")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.checked = 0

    def end_in(self, data: bytes) -> int:
        """How long the head is with which `data` begins; 0: it is not whole."""
        end = data.find(HEAD_END, max(0, self.checked - 3), self._bytes_max + len(HEAD_END))
        return end + len(HEAD_END) if end >= 0 else 0

    def check(self, data: bytes) -> None:
        """All that has come of it. Raises BadRequest or HeadersTooLarge."""
        strict.check_beginning(data, self.checked)
        if len(data) > self._bytes_max:
            raise HeadersTooLarge(f"the request's head is larger than {self._bytes_max} bytes")
        self.checked = len(data)
