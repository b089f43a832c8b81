"""Who may change anything: anyone who reaches the Unix socket, or over HTTP anyone who shows the token. Pure.

Wrong tokens are counted here, so that they are told once a minute, however many there are.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

from evenkeel.serve.errors import EvenkeelError

SCHEME = "bearer"
TELL_EVERY_S = 60.0


class Unauthorized(EvenkeelError):
    code, status = "unauthorized", 401


class Forbidden(EvenkeelError):
    code, status = "forbidden", 403


class WrongToken(Forbidden):
    """Somebody guesses, or has an old one."""


# Not subclasses in evenkeel.serve.errors on purpose: its families are numbered for the data plane, which knows no authority.


def check(credentials: Sequence[str], token: str) -> None:
    """Raises Unauthorized without proper credentials, WrongToken with wrong ones. `credentials` are the values of all
    Authorization headers; `token` is empty when changing calls are not enabled over HTTP."""
    if not token:
        raise Forbidden("changing calls are not enabled over HTTP: set EVENKEEL_ADMIN_TOKEN, or use the Unix socket")
    if len(credentials) != 1:
        raise Unauthorized("send one header `Authorization: Bearer …` with the token of EVENKEEL_ADMIN_TOKEN")
    scheme, _, shown = credentials[0].strip().partition(" ")
    if scheme.lower() != SCHEME or not shown.strip():
        raise Unauthorized("the Authorization header must read `Bearer …` with the token of EVENKEEL_ADMIN_TOKEN")
    if not _same(shown.strip(), token):
        raise WrongToken("this is not the token of EVENKEEL_ADMIN_TOKEN")


def _same(one: str, other: str) -> bool:
    """In a time that depends on neither, nor on their lengths."""
    digests = (sha256(text.encode("utf-8", "replace")).digest() for text in (one, other))
    return hmac.compare_digest(*digests)


class Guesses:
    """Counts wrong tokens between two times that they are told. One caller."""

    def __init__(self) -> None:
        self._count, self._peer, self._due_s = 0, "", 0.0

    def add(self, peer: str, now_s: float) -> float:
        """Count one; how many seconds to wait until `told` gives something."""
        self._count, self._peer = self._count + 1, peer
        return max(0.0, self._due_s - now_s)

    def told(self, now_s: float) -> tuple[int, str] | None:
        """How many there were since the last time, and who sent the newest; None when that is not due."""
        if not self._count or now_s < self._due_s:
            return None
        count, self._count, self._due_s = self._count, 0, now_s + TELL_EVERY_S
        return count, self._peer
