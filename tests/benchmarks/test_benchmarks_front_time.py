"""The stopwatch of front_time: whose time is whose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks import front_time
from benchmarks.front_time import STEPS, Stopwatch


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets so many nanoseconds pass."""
    now = [0]

    def let_pass(ns: int) -> None:
        now[0] += ns

    monkeypatch.setattr(front_time, "_now_ns", lambda: now[0])
    return let_pass


def test_a_step_is_not_charged_for_what_it_calls(passes: Callable[[int], None]) -> None:
    stopwatch = Stopwatch()
    decode = stopwatch.timed("decode", lambda: passes(5))
    parse = stopwatch.timed("parse", lambda: (passes(10), decode(), passes(1), decode()))
    stopwatch.timed("read", lambda: (parse(), passes(100)))()
    assert stopwatch.take() == {"read": 100, "parse": 11, "decode": 10}
    assert stopwatch.take() == {}, "it begins anew"


def test_what_the_stopwatch_costs_is_taken_off_where_it_is_seen(passes: Callable[[int], None]) -> None:
    stopwatch = Stopwatch(own_ns=2, around_ns=3)
    decode = stopwatch.timed("decode", lambda: passes(5))
    stopwatch.timed("parse", lambda: (passes(10), decode(), decode()))()
    assert stopwatch.take() == {"parse": 10 - 2 - 2 * 3, "decode": 10 - 2 * 2}


def test_a_step_that_fails_is_timed_and_its_caller_is_charged_for_its_own_time_only(passes: Callable[[int], None]) -> None:
    stopwatch = Stopwatch()

    def fail() -> None:
        passes(5)
        raise ValueError

    decode = stopwatch.timed("decode", fail)

    def parse() -> None:
        passes(10)
        with pytest.raises(ValueError):
            decode()

    stopwatch.timed("parse", parse)()
    assert stopwatch.take() == {"parse": 10, "decode": 5}


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for _, owner, names in STEPS for name in names])
def test_every_step_begins_with_a_function_that_there_is(owner: type, name: str) -> None:
    assert callable(getattr(owner, name))
