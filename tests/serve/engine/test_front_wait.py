"""When an engine that is warm is ready: it waits for fronts without end, and for a slow model's answers not so long."""

from __future__ import annotations

from evenkeel.serve.engine.front_wait import ANSWER_S_MAX, GREETING_S_MAX, Waiting


def test_it_is_ready_when_every_front_was_greeted_and_has_had_an_answer() -> None:
    waiting = Waiting(100.0)
    assert not waiting.is_over(100.0, 2, unmet=[0, 1], unproven=[0, 1])
    assert not waiting.is_over(100.1, 2, unmet=[1], unproven=[1])
    assert not waiting.is_over(100.2, 2, unmet=[], unproven=[1])
    assert waiting.is_over(100.3, 2, unmet=[], unproven=[])


def test_an_engine_that_no_front_comes_to_is_never_ready() -> None:
    waiting = Waiting(100.0)
    assert not any(waiting.is_over(100.0 + s, 2, unmet=[0, 1], unproven=[0, 1]) for s in range(10_000))


def test_one_front_that_hangs_does_not_keep_the_others_waiting_for_long() -> None:
    waiting = Waiting(100.0)
    assert not waiting.is_over(100.0 + GREETING_S_MAX, 2, unmet=[1], unproven=[1])
    assert not waiting.is_over(100.1 + GREETING_S_MAX, 2, unmet=[1], unproven=[0, 1])
    assert waiting.is_over(100.2 + GREETING_S_MAX, 2, unmet=[1], unproven=[1])


def test_a_model_that_has_no_answer_in_time_is_ready_without_from_when_its_fronts_were_greeted() -> None:
    waiting = Waiting(100.0)
    assert not waiting.is_over(500.0, 1, unmet=[0], unproven=[0])
    assert not waiting.is_over(600.0, 1, unmet=[], unproven=[0])
    assert not waiting.is_over(600.0 + ANSWER_S_MAX, 1, unmet=[], unproven=[0])
    assert waiting.is_over(600.1 + ANSWER_S_MAX, 1, unmet=[], unproven=[0])
