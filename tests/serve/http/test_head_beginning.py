"""A head that comes in pieces."""

from __future__ import annotations

import pytest

from evenkeel.serve.errors import BadRequest, HeadersTooLarge
from evenkeel.serve.http.head_beginning import HeadBeginning

HEAD = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"


def test_a_head_that_comes_a_byte_at_a_time_ends_where_it_ends() -> None:
    beginning = HeadBeginning(1000)
    for size in range(1, len(HEAD)):
        assert beginning.end_in(HEAD[:size]) == 0
        beginning.check(HEAD[:size])
    assert beginning.end_in(HEAD + b"body") == len(HEAD)


def test_what_is_wrong_is_refused_before_the_head_is_whole() -> None:
    beginning = HeadBeginning(1000)
    beginning.check(b"GET /ping HTTP/1.1\r\nHost")
    with pytest.raises(BadRequest):
        beginning.check(b"GET /ping HTTP/1.1\r\nHost\0")


def test_a_head_may_be_as_large_as_the_limit_and_no_larger() -> None:
    assert HeadBeginning(len(HEAD) - 4).end_in(HEAD) == len(HEAD)
    beginning = HeadBeginning(len(HEAD) - 5)
    assert beginning.end_in(HEAD) == 0
    with pytest.raises(HeadersTooLarge, match=str(len(HEAD) - 5)):
        beginning.check(HEAD)
