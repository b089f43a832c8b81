"""What a request's head must be beyond what the parser makes sure of, on both ports: pure.

llhttp refuses bare CR and LF, folded lines, control bytes, blanks before a colon, two lengths, a length beside a transfer
coding and bad chunk sizes by itself. What it lets through, found by trying (tests/security/test_security_smuggling.py),
is refused here: two readers of the same bytes (a proxy, and we) must never disagree on where a request ends or whom it
is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

VERSIONS = ("1.0", "1.1")
# RFC 9110, 7.2: a host and a port, or nothing. What may not be in a URI's authority may not be here.
HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")


def fault(version: str, method: bytes, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """What is wrong with a head; empty: nothing. Names are lower case, values without blanks around them or not."""
    if version not in VERSIONS:
        return f"HTTP/{version} is not spoken here: use HTTP/1.1"
    if method == b"CONNECT":
        return "CONNECT is for proxies, and this is none"
    hosts, codings = [], []
    for name, value in headers:
        if name == b"host":
            hosts.append(value.strip(b" \t"))
        elif name == b"transfer-encoding":
            codings.append(value.strip(b" \t").lower())
    if len(hosts) > 1:
        return f"{len(hosts)} Host headers: send one"
    if not hosts and version == "1.1":
        return "no Host header, which HTTP/1.1 needs"
    if hosts and not HOST.fullmatch(hosts[0]):
        return "the Host header is not a host and port"
    if codings and version == "1.0":
        return "Transfer-Encoding in HTTP/1.0, which does not know it"
    if codings and codings != [b"chunked"]:
        return "Transfer-Encoding must be chunked and nothing else: other codings are not undone here"
    return ""


def without_offer(method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A head without its offer to speak another protocol (h2c, say), which nothing here does.

    The parser stops at an Upgrade and reads no body; it is given the request again as if it had come without.
    """
    lines = [b"%b %b HTTP/1.1" % (method, target)]
    lines += [b"%b: %b" % (k, v) for k, v in headers if k not in (b"upgrade", b"http2-settings", b"connection")]
    return b"\r\n".join(lines) + b"\r\n\r\n"
