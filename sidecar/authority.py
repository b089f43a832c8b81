"""Who may change anything: whoever reaches the Unix socket, or over HTTP whoever shows the token. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from serve.errors import EvenkeelError

SCHEME = "bearer"


class Unauthorized(EvenkeelError):
    code, status = "unauthorized", 401


class Forbidden(EvenkeelError):
    code, status = "forbidden", 403


# Not subclasses in serve.errors on purpose: its families are numbered for the data plane, which knows no authority.


def check(credentials: Sequence[str], token: str) -> None:
    """Raises Unauthorized without proper credentials, Forbidden with wrong ones. `credentials` are the values of all
    Authorization headers; `token` is empty when changing calls are not enabled over HTTP."""
    if not token:
        raise Forbidden("changing calls are not enabled over HTTP: set EVENKEEL_ADMIN_TOKEN, or use the Unix socket")
    if len(credentials) != 1:
        raise Unauthorized("send one header `Authorization: Bearer …` with the token of EVENKEEL_ADMIN_TOKEN")
    scheme, _, shown = credentials[0].strip().partition(" ")
    if scheme.lower() != SCHEME or not shown.strip():
        raise Unauthorized("the Authorization header must read `Bearer …` with the token of EVENKEEL_ADMIN_TOKEN")
    if not hmac.compare_digest(shown.strip().encode("utf-8", "replace"), token.encode()):
        raise Forbidden("this is not the token of EVENKEEL_ADMIN_TOKEN")
