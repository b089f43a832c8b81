"""One GET that trusts nobody who answers it: the body of a 200, or why there is none.

The judge asks the very processes that it judges. So no redirect is followed, no proxy of the environment is asked, nothing but
http and https is spoken, one deadline holds from the look-up of the name to the last byte, and no word of an answer is in a
message: messages are shown to everybody who may read the decision. Which addresses are asked is the operator's choice alone;
none is forbidden, link-local ones neither.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
import time
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from http.client import BadStatusLine, HTTPException, HTTPResponse, IncompleteRead, LineTooLong, RemoteDisconnected
from typing import Any
from urllib.parse import SplitResult, urlsplit

from evenkeel.sidecar.rollout.judge_errors import CannotJudge
from evenkeel.sidecar.rollout.lookup import Lookups, Row

BODY_BYTES_MAX = 16 << 20
HEAD_BYTES_MAX = 128 << 10  # of all heads, the 1xx ones too
PORTS = {"http": 80, "https": 443}
LOOKUPS = Lookups()

# What http.client found wrong, in our words: its own quote what it read. The first that fits.
WORDS: tuple[tuple[type[Exception], str], ...] = (
    (RemoteDisconnected, "closed without an answer"),
    (IncompleteRead, "the answer ended early"),
    (LineTooLong, "a line of the answer's head is too long"),
    (BadStatusLine, "the answer is not HTTP"),
    (HTTPException, "the answer is not HTTP"),
    (ValueError, "the answer is not HTTP"),
)


class Unreachable(CannotJudge):
    code = "unreachable"


@dataclass(frozen=True, slots=True)
class Wire:
    """The reading side of a connection, as http.client wants it."""

    sock: socket.socket
    until_s: float
    bytes_max: int

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Input(self))


class _Input(io.RawIOBase):
    """What is read of an answer, head and body, by one deadline: a time-out for each read alone never ends for a peer that
    sends a byte now and then."""

    def __init__(self, wire: Wire) -> None:
        self._wire, self._bytes = wire, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._wire.sock.settimeout(left_s(self._wire.until_s))
        count = self._wire.sock.recv_into(buffer)
        self._bytes += count
        if self._bytes > self._wire.bytes_max:
            raise Unreachable(f"the answer is longer than {self._wire.bytes_max} bytes")
        return count


def left_s(until_s: float) -> float:
    left = until_s - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def fetch(url: str, timeout_s: float, bytes_max: int = BODY_BYTES_MAX) -> str:
    """The body of a 200. Raises Unreachable, also for one that comes too slowly or is too long; CannotJudge for no address."""
    parts, until_s = checked(url), time.monotonic() + timeout_s
    try:
        with closing(_connected(parts, until_s)) as sock:
            return _asked(sock, parts, until_s, bytes_max).decode("utf-8", "replace")
    except Unreachable as e:
        raise Unreachable(f"{shown(url)}: {e.message}") from None
    except TimeoutError:
        raise Unreachable(f"{shown(url)}: no whole answer in {timeout_s:g} s") from None
    except (OSError, HTTPException, ValueError) as e:
        raise Unreachable(f"{shown(url)}: {_words(e)}") from None  # what came before quotes the answer


def _words(e: Exception) -> str:
    if isinstance(e, ssl.SSLError):
        return f"no TLS: {getattr(e, 'verify_message', '') or e.reason or 'it failed'}"
    for kind, words in WORDS:
        if isinstance(e, kind):
            return words
    return str(e) or type(e).__name__


# ---- addresses ----------------------------------------------------------------------------------------------------------


def checked(url: str) -> SplitResult:
    """The parts of an http or https address. Raises CannotJudge, showing no credentials."""
    if "@" in re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]:
        raise CannotJudge("an address with a user name or password in it would be shown to anyone who reads the decision")
    if not all("!" <= c <= "~" for c in url):
        raise CannotJudge("an address has only printable ASCII without spaces; percent-encode the rest")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as e:
        raise CannotJudge(f"{shown(url)}: not an HTTP address: {e}") from e
    if parts.scheme not in PORTS or not host:
        raise CannotJudge(f"{shown(url)}: not an HTTP address")
    return parts


def shown(url: str) -> str:
    """Without its query, in which keys may stand."""
    return url.partition("?")[0]


# ---- one exchange --------------------------------------------------------------------------------------------------------


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _connected(parts: SplitResult, until_s: float) -> socket.socket:
    """To the first address of the name that takes us. Each has an equal share of the time that is left."""
    assert parts.hostname, "checked"
    rows = LOOKUPS.addresses(parts.hostname, parts.port or PORTS[parts.scheme], until_s)
    for place, row in enumerate(rows):
        share_s = left_s(until_s) / (len(rows) - place)
        try:
            return _connect(row, share_s, parts.hostname if parts.scheme == "https" else "")
        except OSError:
            if place == len(rows) - 1:
                raise
    raise OSError("the name has no address")


def _connect(row: Row, timeout_s: float, tls_name: str) -> socket.socket:
    until_s = time.monotonic() + timeout_s
    sock = socket.socket(*row[:3])
    try:
        sock.settimeout(timeout_s)
        sock.connect(row[4])
        sock.settimeout(left_s(until_s))
        return _tls().wrap_socket(sock, server_hostname=tls_name) if tls_name else sock
    except BaseException:
        sock.close()
        raise


def _asked(sock: socket.socket, parts: SplitResult, until_s: float, bytes_max: int) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = {"Host": parts.netloc, "Accept": "text/plain, application/json", "Accept-Encoding": "identity",
            "User-Agent": "evenkeel-judge", "Connection": "close"}  # fmt: skip
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    sock.settimeout(left_s(until_s))
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    # A body in chunks may be as much again in framing.
    with closing(HTTPResponse(Wire(sock, until_s, HEAD_BYTES_MAX + 2 * bytes_max), method="GET")) as answer:  # type: ignore[arg-type]
        answer.begin()
        return _body(answer, bytes_max)


def _body(answer: HTTPResponse, bytes_max: int) -> bytes:
    if 300 <= answer.status < 400:
        raise Unreachable(f"it answers with a redirect ({answer.status}), which is not followed")
    if answer.status != 200:
        raise Unreachable(f"it answers with status {answer.status}")
    if answer.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise Unreachable("the answer has a Content-Encoding, which was not asked for")
    body = answer.read(bytes_max + 1)
    if len(body) > bytes_max:
        raise Unreachable(f"the answer is longer than {bytes_max} bytes")
    if answer.length:  # http.client gives what there is of a body that ended before its Content-Length
        raise Unreachable("the answer ended early")
    return body
