"""When a repeated call counts as settled: the test of convergence on durations that a test makes up."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from evenkeel.serve.engine.models.convergence import WINDOW_RUNS_MAX, WINDOW_RUNS_MIN, WINDOWS, Convergence


def runs_until_settled(durations: Iterable[float], limit: int = 2000) -> int | None:
    found = Convergence()
    for nth, took_s in zip(range(1, limit + 1), durations, strict=False):
        if found.add(took_s):
            return nth
    return None


def test_a_steady_slow_call_has_settled_after_three_short_windows() -> None:
    assert runs_until_settled([0.050] * 100) == WINDOWS * WINDOW_RUNS_MIN


def test_a_steady_fast_call_is_seen_for_longer() -> None:
    assert runs_until_settled([5e-6] * 1000) == WINDOWS * WINDOW_RUNS_MAX


def test_one_slow_first_call_does_not_count() -> None:
    assert runs_until_settled([3.0] + [0.050] * 100) == WINDOWS * WINDOW_RUNS_MIN


def test_two_slow_first_calls_cost_one_more_window() -> None:
    assert runs_until_settled([3.0, 3.0] + [0.050] * 100) == (WINDOWS + 1) * WINDOW_RUNS_MIN


def test_a_latency_that_falls_by_a_twentieth_in_every_window_has_not_settled() -> None:
    falling = [0.050 * 0.94 ** (i // WINDOW_RUNS_MIN) for i in range(60)]
    assert runs_until_settled(falling) is None


def test_a_latency_that_rises_has_not_settled_either() -> None:
    rising = [0.010 * 1.06 ** (i // WINDOW_RUNS_MIN) for i in range(60)]
    assert runs_until_settled(rising) is None


@pytest.mark.parametrize("seed", range(20))
def test_noise_with_pauses_settles_soon(seed: int) -> None:
    noise = random.Random(seed)
    calls = [0.002 * noise.uniform(0.95, 1.05) + (0.03 if noise.random() < 0.05 else 0.0) for _ in range(500)]
    settled = runs_until_settled(calls)
    assert settled is not None and settled < 200, f"seed {seed}"


def test_a_call_that_alternates_between_two_speeds_for_long_never_settles() -> None:
    assert runs_until_settled([0.010 if (i // WINDOW_RUNS_MIN) % 2 else 0.020 for i in range(300)]) is None


def test_what_is_steady_is_the_latest_window_and_not_the_whole_past() -> None:
    found = Convergence()
    for took_s in [1.0] * 3 + [0.5] * 3 + [0.1] * 3:
        found.add(took_s)
    assert found.steady_s == 0.1 and found.runs == 9 and found.seconds == pytest.approx(4.8)
