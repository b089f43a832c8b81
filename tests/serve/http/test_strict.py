"""What a head may be. Every accepted head is also read by llhttp, which must see the same request."""

from __future__ import annotations

from typing import Any

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.serve.errors import BadRequest, EvenkeelError, HeadersTooLarge
from evenkeel.serve.http import strict
from evenkeel.serve.http.strict import RequestHead, read_head, read_target

MANY = 100


def head(*lines: bytes, line: bytes = b"POST /invocations HTTP/1.1") -> RequestHead:
    return read_head(b"\r\n".join((line, *lines, b"", b"")), MANY)


def refused(*lines: bytes, line: bytes = b"POST /invocations HTTP/1.1") -> str:
    with pytest.raises(BadRequest) as caught:
        head(*lines, line=line)
    return caught.value.message


def test_a_head_is_taken_apart() -> None:
    found = head(b"Host: a", b"Content-Length:  12\t", b"X-Y: a\tb", b"Empty:")
    assert (found.method, found.target, found.version) == (b"POST", b"/invocations", "1.1")
    assert found.headers == [(b"host", b"a"), (b"content-length", b"12"), (b"x-y", b"a\tb"), (b"empty", b"")]
    assert (found.length, found.keep_alive, found.expects_continue) == (12, True, False)


@pytest.mark.parametrize(
    ("lines", "keeps"),
    [
        ((b"Connection: close",), False),
        ((b"Connection: Upgrade, CLOSE", b"Upgrade: h2c"), False),
        ((b"Connection: close", b"Connection: upgrade", b"Upgrade: h2c"), False),
        ((b"Connection: upgrade", b"Upgrade: websocket"), True),
        ((b"Connection: closed",), True),
    ],
)
def test_the_connection_ends_where_the_client_says_so_whatever_else_it_offers(lines: tuple[bytes, ...], keeps: bool) -> None:
    assert head(b"Host: a", *lines).keep_alive is keeps


def test_an_offer_to_upgrade_does_not_hide_where_the_body_ends() -> None:
    assert head(b"Host: a", b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5").length == 5


def test_http_1_0_is_never_kept_never_asked_for_its_body_and_needs_no_host() -> None:
    old = head(b"Connection: keep-alive, Upgrade", b"Upgrade: h2c", b"Expect: 100-continue", line=b"GET / HTTP/1.0")
    assert (old.version, old.keep_alive, old.expects_continue) == ("1.0", False, False)
    assert head(b"Host: a", b"Expect: 100-Continue").expects_continue


@pytest.mark.parametrize("name", ["Host", "Content-Type", "Content-Length", "Transfer-Encoding"])
def test_what_may_come_once_comes_once(name: str) -> None:
    lines = (f"{name}: 5".encode(), f"{name.lower()}: 5".encode())
    assert refused(*lines, *([b"Host: a"] if name != "Host" else [])) == f"2 {name} headers: send one"


def test_a_blank_or_tab_after_chunked_is_no_part_of_it() -> None:
    assert head(b"Host: a", b"Transfer-Encoding: Chunked\t ").length is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"GET /ping RTSP/1.0", "RTSP/1.0 is not spoken here"),
        (b"SOURCE /ping ICE/1.0", "ICE/1.0 is not spoken here"),
        (b"GET /ping HTTP/1.2", "HTTP/1.2 is not spoken here"),
        (b"GET /ping http/1.1", "http/1.1 is not spoken here"),
        (b"PRI * HTTP/2.0", "HTTP/2 (prior knowledge)"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2", "PROXY protocol"),
        (b"CONNECT a:80 HTTP/1.1", "CONNECT is for proxies"),
        (b"GET  /ping HTTP/1.1", "with one blank between"),
        (b"get /ping HTTP/1.1", "with one blank between"),
        (b"GET /ping", "with one blank between"),
        (b"GET /p\xc3\xa9 HTTP/1.1", "with one blank between"),
    ],
)
def test_a_request_line_of_something_else_is_called_by_its_name(line: bytes, words: str) -> None:
    assert words in refused(b"Host: a", line=line)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"\x16\x03\x01", "TLS"),
        (b"\0\r\nQUIT\n\x21\x11\0\x0c", "PROXY protocol"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "PROXY protocol"),
        (b"x\r\n", "METHOD target HTTP/1.1"),
        (b"a" * 100, "METHOD target HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nHost: a\nX", "bare line end"),
        (b"GET / HTTP/1.1\r\nX: \x01", "control byte"),
        (b"0.5]]}", "METHOD target HTTP/1.1"),
        (b"GET /\rping", "METHOD target HTTP/1.1"),
    ],
)
def test_what_can_become_no_head_is_refused_before_it_is_all_here(data: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        strict.check_beginning(data, 0)


def test_every_beginning_of_a_good_head_is_waited_for() -> None:
    whole = b"POST /invocations?a=b HTTP/1.1\r\nHost: a\r\nX: a\tb\xe9\r\n\r\n"
    for size in range(1, len(whole) - 1):
        strict.check_beginning(whole[:size], 0)
        strict.check_beginning(whole[:size], size - 1)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/ping", b"/ping"),
        (b"/ping?a=http://b/c", b"/ping"),
        (b"/%69nvocations", b"/invocations"),
        (b"/a%2fb%zz%", b"/a/b%zz%"),
        (b"http://h", b"/"),
        (b"http://h?x=1", b"/"),
        (b"http://h:1234", b"/"),
        (b"HTTPS://[::1]:80/ping?x", b"/ping"),
        (b"*", b"*"),
    ],
)
def test_a_target_gives_its_path(target: bytes, path: bytes) -> None:
    assert read_target(target).path == path


@pytest.mark.parametrize(
    "target", [b"/ping#x", b"http://h/#x", b"http://[::1/ping", b"http:///ping", b"ping", b"ftp://h/ping", b"http://u@h/"]
)
def test_a_target_that_is_none_is_refused(target: bytes) -> None:
    with pytest.raises(BadRequest, match="target"):
        read_target(target)


def test_too_many_headers_are_refused() -> None:
    with pytest.raises(HeadersTooLarge):
        head(b"Host: a", *(b"X%d: 1" % i for i in range(MANY)))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b" folded", "folded"),
        (b"X : a", "a blank before the colon of the header 'X'"),
        (b"X", "no colon"),
        (b"X(: a", "'X(' is not the name"),
        (b": a", "'' is not the name"),
    ],
)
def test_a_bad_header_line_is_named(line: bytes, words: str) -> None:
    assert words in refused(b"Host: a", line)


# ---- beside llhttp -------------------------------------------------------------------------------------------------------

NAMES = [
    b"Host",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Connection",
    b"Upgrade",
    b"Expect",
    b"X",
    b"X ",
    b"X\t",
    b" X",
    b"",
    b"x:y",
]
VALUES = [
    b"a",
    b"5",
    b"5 ",
    b"+5",
    b"5, 5",
    b"chunked",
    b"gzip, chunked",
    b"close",
    b"upgrade",
    b"100-continue",
    b"",
    b"a\tb",
    b"a\rb",
    b"\x0b5",
    b"\xff",
]
LINES = [b"POST / HTTP/1.1", b"GET /a?b HTTP/1.0", b"GET  / HTTP/1.1", b"GET / RTSP/1.0", b"PUT http://a/ HTTP/1.1"]
COLONS = [b":", b": ", b":\t", b" :"]
ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n"]

FIELDS = st.tuples(*(st.sampled_from(each) for each in (NAMES, COLONS, VALUES, ENDS)))


class Seen:
    """What llhttp makes of a request."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.url, self.body, self.complete = b"", b"", False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


@settings(max_examples=3000, deadline=None)
@given(
    line=st.sampled_from(LINES),
    fields=st.lists(FIELDS, max_size=5),
)
def test_llhttp_agrees_with_every_head_that_is_accepted(line: bytes, fields: list[tuple[bytes, ...]]) -> None:
    raw = line + b"\r\n" + b"".join(b"".join(field) for field in fields) + b"\r\n"
    if not raw.endswith(b"\r\n\r\n") or raw.find(b"\r\n\r\n") != len(raw) - 4:
        return
    try:
        ours = read_head(raw, MANY)
    except EvenkeelError:
        return
    seen: Any = Seen()
    parser = httptools.HttpRequestParser(seen)
    body = b"" if ours.length == 0 else b"5\r\nhello\r\n0\r\n\r\n" if ours.length is None else b"h" * ours.length
    upgraded = False
    try:
        parser.feed_data(raw + body)
    except httptools.HttpParserUpgrade:
        upgraded = True  # it reads no body then, which is its weakness
    assert seen.url == ours.target and seen.headers == list(ours.headers)
    assert parser.get_method() == ours.method and parser.get_http_version() == ours.version
    if not upgraded:
        assert seen.complete and len(seen.body) == (5 if ours.length is None else ours.length)
        assert parser.should_keep_alive() >= ours.keep_alive


@settings(max_examples=2000, deadline=None)
@given(data=st.text("ab\r\n\t\0\x7f é:", max_size=12).map(lambda text: text.encode("latin-1")), start=st.integers(0, 12))
def test_the_quick_look_finds_what_the_search_finds(data: bytes, start: int) -> None:
    """From the middle of a line end on, too: the byte before it was looked at then."""
    if data[start - 1 : start + 1] == b"\r\n":
        start -= 1
    assert strict.is_unfit(data, start) is (strict.NEVER_IN_A_HEAD.search(data, start) is not None)
