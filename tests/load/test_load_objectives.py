"""Objectives of a load test: words from the command line, and whether they were kept."""

from __future__ import annotations

import pytest

from tests.load.objectives import judge, parse
from tests.load.picture import svg

RESULT = {"requests": 100, "p99_ms": 40.0, "failures": 1, "rps": 200.0}


def test_each_objective_is_judged_by_its_own_direction() -> None:
    wanted = parse(["P99_MS=40", "FAILURES=0", "RPS=200", "P50_MS="])
    assert {j.name: j.kept for j in judge(wanted, RESULT)} == {"P99_MS": True, "FAILURES": False, "RPS": True}
    assert [j.kept for j in judge(parse(["P99_MS=39.9", "RPS=201"]), RESULT)] == [False, False]


def test_nothing_answered_keeps_nothing() -> None:
    assert not any(j.kept for j in judge(parse(["P99_MS=100", "FAILURES=0"]), {"requests": 0, "failures": 0}))


@pytest.mark.parametrize("word", ["P98_MS=1", "RPS=many", "FAILURES"])
def test_a_wrong_word_is_named(word: str) -> None:
    if word == "FAILURES":
        assert parse([word]) == {}
        return
    with pytest.raises(ValueError, match=word):
        parse([word])


def test_the_picture_has_a_point_a_second_in_each_line() -> None:
    history = [{"t_s": float(n), "rps": 100.0, "failures": 0, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0} for n in range(1, 6)]
    drawn = svg("a < b", "note", history)
    assert drawn.count("<polyline") == 4 and "a &lt; b" in drawn
    assert all(line.count(",") == 5 for line in drawn.splitlines() if line.startswith("<polyline"))
