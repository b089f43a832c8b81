"""Every reply names the model that gave it: `X-Evenkeel-Model: name/version@sha256[:12]`, ready to be written.

The head of an answer is put together once for each version and content type, so that naming costs a request nothing.
"""

from __future__ import annotations

import re

HEADER = b"x-evenkeel-model: "
SHA256_CHARS = 12
NAME_CHARS_MAX = 128
CHOSEN_MAX = 64
_LENGTH = b"content-length: "
_STRANGE = re.compile(r"[^!-~]")


class AnswerHeads(dict[bytes, bytes]):
    """Heads of answers up to the value of Content-Length, by the same without the model's name."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__()
        self._named = "/".join(_STRANGE.sub("?", part)[:NAME_CHARS_MAX] for part in (name, version))
        self.sha256 = ""
        self.line = b""
        self.know("")

    def know(self, sha256: str) -> None:
        """The sum of a large model's files may be known only after its first replies: until then it is left out."""
        self.sha256 = sha256
        self.line = HEADER + self._named.encode() + (f"@{sha256[:SHA256_CHARS]}".encode() if sha256 else b"") + b"\r\n"
        self.clear()

    def __missing__(self, start: bytes) -> bytes:
        head = self[start] = self._once(start)
        return head

    def chosen(self, start: bytes) -> bytes:
        """For content types that a handler chooses: only the first of them are remembered."""
        head = self.get(start)
        if head is None:
            head = self[start] if len(self) < CHOSEN_MAX else self._once(start)
        return head

    def _once(self, start: bytes) -> bytes:
        assert start.endswith(_LENGTH), "the length comes last"
        return start[: -len(_LENGTH)] + self.line + _LENGTH
