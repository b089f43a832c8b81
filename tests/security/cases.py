"""Requests that two readers could understand differently, and requests that only look so."""

from __future__ import annotations

H = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
BODY = b"[[1]]"
GOOD_ANSWER = b"[[1.0]]"
CHUNKED = H + b"Transfer-Encoding: chunked\r\n\r\n"
WITH_LENGTH = H + b"Content-Length: 5\r\n\r\n" + BODY


def _line(*lines: bytes) -> bytes:
    return H + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: 5\r\n\r\n" + BODY


def _coded(*lines: bytes) -> bytes:
    return H + b"".join(line + b"\r\n" for line in lines) + b"\r\n5\r\n[[1]]\r\n0\r\n\r\n"


def _host(*lines: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    lines = (b"Content-Type: application/json", *lines, b"Content-Length: 5")
    return b"POST /invocations " + version + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + BODY


def _chunks(data: bytes) -> bytes:
    return CHUNKED + data


REFUSED: dict[str, bytes] = {
    # lengths
    "two lengths that differ": _line(b"Content-Length: 4"),
    "two lengths alike": _line(b"Content-Length: 5"),
    "a list of lengths": H + b"Content-Length: 5, 5\r\n\r\n" + BODY,
    "a length with a sign": H + b"Content-Length: +5\r\n\r\n" + BODY,
    "two numbers as length": H + b"Content-Length: 5 6\r\n\r\n" + BODY,
    "a vertical tab before the length": H + b"Content-Length:\x0b5\r\n\r\n" + BODY,
    "a length and chunks": H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": H + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "a length and identity": H + b"Content-Length: 5\r\nTransfer-Encoding: identity\r\n\r\n" + BODY,
    # codings
    "identity": _coded(b"Transfer-Encoding: identity"),
    "gzip": _coded(b"Transfer-Encoding: gzip"),
    "chunked before gzip": _coded(b"Transfer-Encoding: chunked, gzip"),
    "gzip before chunked": _coded(b"Transfer-Encoding: gzip, chunked"),
    "gzip before chunked on two lines": _coded(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"),
    "chunked twice": _coded(b"Transfer-Encoding: chunked, chunked"),
    "chunked twice on two lines": _coded(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "nothing before chunked": _coded(b"Transfer-Encoding: ,chunked"),
    "xchunked": _coded(b"Transfer-Encoding: xchunked"),
    "chunked in quotes": _coded(b'Transfer-Encoding: "chunked"'),
    "chunked with a parameter": _coded(b"Transfer-Encoding: chunked;q=1"),
    "a vertical tab before chunked": _coded(b"Transfer-Encoding: \x0bchunked"),
    "an empty coding": _coded(b"Transfer-Encoding:"),
    "chunks in HTTP/1.0": _coded(b"Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0"),
    # line ends
    "bare LF everywhere": WITH_LENGTH.replace(b"\r\n", b"\n"),
    "bare LF after the request line": WITH_LENGTH.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n"),
    "bare LF after a header": WITH_LENGTH.replace(b"Host: a\r\n", b"Host: a\n"),
    "bare LF at the end of the head": H + b"Content-Length: 5\r\n\n" + BODY,
    "bare CR in a value": _line(b"X: a\rb"),
    "bare CR for a line end": _line(b"X: a\rY: b"),
    "two CR before LF": _line(b"X: a\r"),
    "a folded line": _line(b"X: a", b" b"),
    "a line folded with a tab": _line(b"X: a", b"\tb"),
    "a folded length": H + b"Content-Length:\r\n 5\r\n\r\n" + BODY,
    "a folded coding": _coded(b"Transfer-Encoding:", b" chunked"),
    "a fold after the request line": b"POST /invocations HTTP/1.1\r\n Host: a\r\nContent-Length: 5\r\n\r\n" + BODY,
    # names and values
    "a blank before the colon": _line(b"X : a"),
    "a tab before the colon": _line(b"X\t: a"),
    "a blank before the colon of the length": H + b"Content-Length : 5\r\n\r\n" + BODY,
    "no name": _line(b": a"),
    "no colon": _line(b"X"),
    "a bracket in a name": _line(b"X(: a"),
    "NUL in a name": _line(b"X\0: a"),
    "not ASCII in a name": _line(b"X\xe9: a"),
    **{f"byte {n:#04x} in a value": _line(b"X: a%cb" % n) for n in (0, 1, 8, 11, 12, 14, 27, 31, 127)},
    # whom it is for
    "no Host": _host(),
    "two Hosts": _host(b"Host: a", b"Host: b"),
    "two Hosts alike": _host(b"Host: a", b"Host: a"),
    "two Hosts in HTTP/1.0": _host(b"Host: a", b"Host: b", version=b"HTTP/1.0"),
    "a Host with a blank": _host(b"Host: a b"),
    "a Host with a path": _host(b"Host: a/b"),
    "a Host with a user": _host(b"Host: b@a"),
    # the request line
    "HTTP/2.0": _host(b"Host: a", version=b"HTTP/2.0"),
    "HTTP/0.9": _host(b"Host: a", version=b"HTTP/0.9"),
    "HTTP/1.2": _host(b"Host: a", version=b"HTTP/1.2"),
    "http in small letters": _host(b"Host: a", version=b"http/1.1"),
    "a blank after the version": _host(b"Host: a", version=b"HTTP/1.1 "),
    "NUL in the path": b"GET /ping\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab in the path": b"GET /pi\tng HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab after the method": b"GET\t/ping HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT with an upgrade": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "an upgrade for two hosts": _host(b"Host: a", b"Host: b", b"Connection: upgrade", b"Upgrade: h2c"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "RTSP": _host(b"Host: a", version=b"RTSP/1.0"),
    "ICE": b"SOURCE /ping ICE/1.0\r\nHost: a\r\n\r\n",
    "two blanks after the method": b"GET  /ping HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method in small letters": b"get /ping HTTP/1.1\r\nHost: a\r\n\r\n",
    "a fragment": b"GET /ping#x HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "PROXY": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target that is no URL": b"GET http://[::1/ping HTTP/1.1\r\nHost: a\r\n\r\n",
    "two Content-Types": _line(b"Content-Type: text/csv"),
    # chunks
    "a chunk size in C": _chunks(b"0x5\r\n[[1]]\r\n0\r\n\r\n"),
    "a chunk size with a sign": _chunks(b"+5\r\n[[1]]\r\n0\r\n\r\n"),
    "a negative chunk size": _chunks(b"-5\r\n[[1]]\r\n0\r\n\r\n"),
    "a blank before a chunk size": _chunks(b" 5\r\n[[1]]\r\n0\r\n\r\n"),
    "a blank after a chunk size": _chunks(b"5 \r\n[[1]]\r\n0\r\n\r\n"),
    "an empty chunk size": _chunks(b"\r\n[[1]]\r\n0\r\n\r\n"),
    "a chunk size beyond 64 bits": _chunks(b"10000000000000005\r\n[[1]]\r\n0\r\n\r\n"),
    "a chunk size too small": _chunks(b"4\r\n[[1]]\r\n0\r\n\r\n"),
    "a chunk size too large": _chunks(b"6\r\n[[1]]\r\n0\r\n\r\n"),
    "LF after a chunk size": _chunks(b"5\n[[1]]\r\n0\r\n\r\n"),
    "CR after a chunk size": _chunks(b"5\r[[1]]\r\n0\r\n\r\n"),
    "LF after a chunk": _chunks(b"5\r\n[[1]]\n0\r\n\r\n"),
    "LF after the last chunk": _chunks(b"5\r\n[[1]]\r\n0\n\n"),
    "NUL in an extension": _chunks(b"5;a\0\r\n[[1]]\r\n0\r\n\r\n"),
    "LF in an extension": _chunks(b"5;a\n[[1]]\r\n0\r\n\r\n"),
    "CR in an extension": _chunks(b"5;a\rb\r\n[[1]]\r\n0\r\n\r\n"),
    "empty extensions": _chunks(b"5;;;\r\n[[1]]\r\n0\r\n\r\n"),
    "a length in the trailer": _chunks(b"5\r\n[[1]]\r\n0\r\nContent-Length: 5\r\n\r\n"),
    "a coding in the trailer": _chunks(b"5\r\n[[1]]\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "a folded trailer": _chunks(b"5\r\n[[1]]\r\n0\r\nX: a\r\n b\r\n\r\n"),
    "NUL in the trailer": _chunks(b"5\r\n[[1]]\r\n0\r\nX: a\0\r\n\r\n"),
    "a megabyte of extension": _chunks(b"5;" + b"a" * (1 << 20) + b"\r\n[[1]]\r\n0\r\n\r\n"),
    "a megabyte of zeros before a chunk size": _chunks(b"0" * (1 << 20) + b"5\r\n[[1]]\r\n0\r\n\r\n"),
}  # fmt: skip
TOO_LARGE = {
    "a trailer that does not end": _chunks(b"5\r\n[[1]]\r\n0\r\nX: " + b"a" * (1 << 20)),
    "300 headers": _line(*(b"X%d: 1" % i for i in range(300))),
    "a trailer of 100 kB": _chunks(
        b"5\r\n[[1]]\r\n0\r\n" + b"".join(b"X%d: %s\r\n" % (i, b"a" * 1000) for i in range(100)) + b"\r\n"
    ),
}
ACCEPTED: dict[str, bytes] = {
    "a length": WITH_LENGTH,
    "a length with blanks around it": H + b"Content-Length: \t5 \r\n\r\n" + BODY,
    "chunks": _chunks(b"5\r\n[[1]]\r\n0\r\n\r\n"),
    "chunks of one byte": _chunks(b"".join(b"1\r\n%c\r\n" % c for c in BODY) + b"0\r\n\r\n"),
    "CHUNKED": _coded(b"Transfer-Encoding: CHUNKED "),
    "an extension": _chunks(b'5;a=b;c="d;e"\r\n[[1]]\r\n0\r\n\r\n'),
    "an extension with blanks": _chunks(b'5 ; a = b;\tc="d;e"\r\n[[1]]\r\n0\r\n\r\n'),
    "a tab after chunked": _coded(b"Transfer-Encoding: chunked\t"),
    "a path in other letters": WITH_LENGTH.replace(b"/invocations", b"/%69nvocations"),
    "a trailer": _chunks(b"5\r\n[[1]]\r\n0\r\nX: a\r\n\r\n"),
    "an upgrade in the trailer": _chunks(b"5\r\n[[1]]\r\n0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
    "an empty line before": b"\r\n" + WITH_LENGTH,
    "a tab and Latin-1 in a value": _line(b"X: a\tb\xe9"),
    "an empty Host": _host(b"Host:"),
    "a Host with a port": _host(b"Host: [::1]:8080"),
    "HTTP/1.0 without Host": _host(version=b"HTTP/1.0"),
    "an absolute target": WITH_LENGTH.replace(b" /", b" http://a:8080/", 1),
    "an absolute target with a query": WITH_LENGTH.replace(b" /invocations", b" HTTP://a/invocations?a=http://b/ping", 1),
    "an offer to upgrade": _line(b"Connection: upgrade", b"Upgrade: h2c"),
}
