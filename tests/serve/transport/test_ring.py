"""The ring of a streamed answer: spans never overlap, never wrap, and come back in the order in which they were taken."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.transport.ring import Ring


def test_spans_follow_each_other_and_the_start_is_used_again_when_it_is_free() -> None:
    ring = Ring(100)
    assert [ring.claim(40), ring.claim(40)] == [0, 40]
    assert ring.claim(40) is None, "20 are left at the end, and none at the start"
    ring.give_back(1)
    assert ring.claim(40) == 0, "not wrapped around the end"
    assert ring.claim(1) is None, "it begins where the oldest does"
    ring.give_back(2)
    assert (ring.claim(100), len(ring)) == (0, 1), "an empty ring begins anew"


def test_what_can_never_fit_is_a_mistake_of_the_caller() -> None:
    for size in (0, 101):
        with pytest.raises(AssertionError):
            Ring(100).claim(size)
    with pytest.raises(AssertionError):
        Ring(100).give_back(1)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 64)), max_size=200))
def test_taken_spans_never_overlap(steps: list[tuple[bool, int]]) -> None:
    ring, taken = Ring(64), deque[range]()
    for claims, size in steps:
        if claims:
            at = ring.claim(size)
            if at is None:
                assert taken, "an empty ring has room for anything up to its size"
                continue
            span = range(at, at + size)
            assert span.stop <= 64 and not any(set(span) & set(other) for other in taken)
            taken.append(span)
        elif taken:
            ring.give_back(1)
            taken.popleft()
        assert len(ring) == len(taken)
