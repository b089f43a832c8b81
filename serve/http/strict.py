"""What a request's head must be, and where its body ends: the one decision, for both ports. Pure.

Two readers of the same bytes (a proxy, and we) must never disagree on where a request ends or whom it is for. So a head
is read by a grammar that is RFC 9112's without its tolerances: CRLF line ends, one blank between the words of the
request line, no folded lines, no blank before a colon, one Host, one length, `chunked` and nothing else. What does not
match is refused, with words that say what was seen.

How it works. A head is only read when it is all there, up to its empty line, and then in one look: two regular
expressions (neither can backtrack: no character fits two neighbouring parts) and one split. An offer to upgrade changes
nothing here: nobody speaks another protocol, so the request is answered as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evenkeel.serve.errors import BadRequest, HeadersTooLarge

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_METHOD = rb"[A-Z][A-Z-]{0,31}+"  # every registered one; what begins otherwise is the rest of something else
REQUEST_LINE = re.compile(rb"(%b) ([!-~]++) HTTP/1\.([01])\r\n" % _METHOD)
LINE_BEGINNING = re.compile(rb"%b(?: (?:[!-~]++(?: [!-~]{0,16}+\r?)?)?)?" % _METHOD)
FIELDS = re.compile(rb"(?:%b++:[\t -~\x80-\xff]*+\r\n)*+\r\n" % TOKEN)
FIELD = re.compile(rb"%b++:[\t -~\x80-\xff]*+" % TOKEN)
# What can stand in no head, wherever it ends: a control byte, a bare LF, a CR before anything but LF.
NEVER_IN_A_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")
ALLOWED = bytes(b for b in range(256) if (b >= 32 and b != 127) or b == 9)
# RFC 9110, 7.2: a host and a port, or nothing. What may not be in a URI's authority may not be here.
HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")
ABSOLUTE = re.compile(rb"(?i:https?)://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]*)?(/[^?]*)?(?:\?(.*))?")
PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
LENGTH_DIGITS_MAX = 19
LENGTH = b"content-length"
SINGLE = (b"host", LENGTH, b"transfer-encoding", b"content-type")  # at most one line of each
READ_BY_STRICT = frozenset({*SINGLE, b"connection", b"expect"})  # what other headers say changes nothing here

TLS = "these are the first bytes of TLS, and this port speaks plain HTTP: use http://, or let a proxy end TLS"
PROXY = "this is a header of the PROXY protocol, which is not read here: switch it off in the load balancer"
HTTP2 = "this is HTTP/2 (prior knowledge), which is not spoken here: use HTTP/1.1"
NO_REQUEST_LINE = "not valid HTTP: the first line is not `METHOD target HTTP/1.1` with one blank between"


class RequestHead(NamedTuple):
    """A head that was accepted. Names of headers are in lower case, values without blanks around them."""

    method: bytes
    target: bytes
    version: str
    headers: Sequence[tuple[bytes, bytes]]
    values: Mapping[bytes, bytes]
    length: int | None  # of the body; None: it is chunked
    keep_alive: bool
    expects_continue: bool


class Target(NamedTuple):
    """`path` with percent-encodings undone, `raw_path` as it came."""

    path: bytes
    raw_path: bytes
    query: bytes


def read_head(raw: bytes, headers_max: int) -> RequestHead:
    """The head that these bytes are, from the request line to the empty line. Raises BadRequest or HeadersTooLarge."""
    line = REQUEST_LINE.match(raw)
    if line is None:
        raise BadRequest(_line_fault(raw))
    if FIELDS.fullmatch(raw, line.end()) is None:
        raise BadRequest(_field_fault(raw[line.end() : -4]))
    method, target, minor = line.groups()
    version = "1.1" if minor == b"1" else "1.0"
    headers = []
    for field in raw[line.end() : -4].split(b"\r\n") if len(raw) > line.end() + 2 else ():
        name, _, value = field.partition(b":")
        headers.append((name.lower(), value.strip(b" \t")))
    if len(headers) > headers_max:
        raise HeadersTooLarge(f"the request has more than {headers_max} headers")
    values = dict(headers)
    if len(values) != len(headers):
        _join_doubles(headers, values)
    _check_host(values.get(b"host"), version)
    if method == b"CONNECT":
        raise BadRequest("CONNECT is for proxies, and this is none")
    return RequestHead(
        method, target, version, headers, values, _length(values, version),
        minor == b"1" and not _says(values.get(b"connection"), b"close"),
        minor == b"1" and values.get(b"expect", b"").lower() == b"100-continue",
    )  # fmt: skip


def is_unfit(data: bytes, start: int = 0) -> bool:
    """Whether something stands behind `start` that no head may have, wherever it ends.

    Deleting what is allowed leaves the line ends: thirty times as fast as a search, of which a client could ask for many.
    """
    seen = data[start:].removesuffix(b"\r")
    left = seen.translate(None, ALLOWED)
    ends = seen.count(b"\r\n")
    in_order = len(left) == 2 * ends and left.count(b"\n") == ends == left.count(b"\r")
    return not in_order and NEVER_IN_A_HEAD.search(data, start) is not None


def check_beginning(data: bytes, looked_at: int) -> None:
    """What can be wrong with a head of which only the beginning is here; the first `looked_at` bytes were in order."""
    line_end = data.find(b"\r\n")
    if not (LINE_BEGINNING.fullmatch(data) if line_end < 0 else REQUEST_LINE.match(data)):
        raise BadRequest(_line_fault(data))
    if is_unfit(data, max(0, looked_at - 1)):
        raise BadRequest(_field_fault(data[line_end + 2 :]))


def read_target(target: bytes) -> Target:
    """In origin-form, or in absolute-form as proxies send it (RFC 9112, 3.2). Raises BadRequest for anything else."""
    if b"#" in target:
        raise BadRequest("the request's target has a fragment (#), which clients keep to themselves")
    if target[:1] == b"/":
        raw_path, _, query = target.partition(b"?")
    elif target == b"*":
        raw_path, query = target, b""
    else:
        match = ABSOLUTE.fullmatch(target)
        if match is None:
            raise BadRequest("the request's target is neither a path nor an http:// address with a host")
        raw_path, query = match[1] or b"/", match[2] or b""
    path = PERCENT.sub(lambda hex_: bytes((int(hex_[1], 16),)), raw_path) if b"%" in raw_path else raw_path
    return Target(path, raw_path, query)


def _length(values: Mapping[bytes, bytes], version: str) -> int | None:
    coding, length = values.get(b"transfer-encoding"), values.get(b"content-length")
    if coding is None:
        if length is None:
            return 0
        if not length.isdigit():
            raise BadRequest("Content-Length must be one number")
        if len(length) > LENGTH_DIGITS_MAX:
            raise BadRequest("Content-Length is beyond 64 bits")
        return int(length)
    if length is not None:
        raise BadRequest("Content-Length beside Transfer-Encoding: send one of them")
    if version == "1.0":
        raise BadRequest("Transfer-Encoding in HTTP/1.0, which does not know it")
    if coding.lower() != b"chunked":
        raise BadRequest("Transfer-Encoding must be chunked and nothing else: other codings are not undone here")
    return None


def _check_host(host: bytes | None, version: str) -> None:
    if host is None:
        if version == "1.1":
            raise BadRequest("no Host header, which HTTP/1.1 needs")
    elif not HOST.fullmatch(host):
        raise BadRequest("the Host header is not a host and port")


def _join_doubles(headers: Sequence[tuple[bytes, bytes]], values: dict[bytes, bytes]) -> None:
    """Some headers must not come twice; of Connection, which may, every line counts."""
    names = [name for name, _ in headers]
    for name in SINGLE:
        if names.count(name) > 1:
            raise BadRequest(f"{names.count(name)} {name.decode().title()} headers: send one")
    if b"connection" in values:
        values[b"connection"] = b",".join(value for name, value in headers if name == b"connection")


def _says(connection: bytes | None, option: bytes) -> bool:
    return connection is not None and option in (token.strip(b" \t").lower() for token in connection.split(b","))


# ---- words for what is wrong -----------------------------------------------------------------------------------------


def _line_fault(data: bytes) -> str:
    """Why this does not begin with a request line."""
    line = data.partition(b"\r\n")[0]
    if data[:2] == b"\x16\x03":
        return TLS
    if data.startswith((b"PROXY ", b"\0\r\nQUIT\n")):  # version 1, and 2 without the empty lines that it begins with
        return PROXY
    if line == b"PRI * HTTP/2.0":
        return HTTP2
    last = line.rpartition(b" ")[2]
    name, slash, version = last.partition(b"/")
    if slash and name.isalpha() and (name != b"HTTP" or version not in (b"1.0", b"1.1")) and b" " in line:
        return f"{last[:20].decode('latin-1')} is not spoken here: use HTTP/1.1"
    return NO_REQUEST_LINE


def _field_fault(fields: bytes) -> str:
    """Which header line breaks the grammar, and how."""
    for line in fields.split(b"\r\n"):
        if FIELD.fullmatch(line):
            continue
        name, colon, _ = line.partition(b":")
        shown = name[:40].strip().decode("latin-1")
        if line[:1] in (b" ", b"\t"):
            return "not valid HTTP: a header is folded over two lines"
        if not colon:
            return "not valid HTTP: a header line has no colon"
        if name != name.strip(b" \t"):
            return f"not valid HTTP: a blank before the colon of the header {shown!r}"
        if not re.fullmatch(rb"%b+" % TOKEN, name):
            return f"not valid HTTP: {shown!r} is not the name of a header"
        return f"not valid HTTP: a control byte or a bare line end in the header {shown!r}"
    return "not valid HTTP: the head does not end as it should"
