"""Growth is told from noise, from a step at the start and from a few wild values."""

from __future__ import annotations

import random

from benchmarks.trend import kendall_z, trend

TIMES = [float(i) for i in range(60)]


def noise(seed: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0, 1) for _ in TIMES]


def test_a_leak_under_noise_is_found_with_its_size() -> None:
    found = trend(TIMES, [100 + 0.2 * t + n for t, n in zip(TIMES, noise(1), strict=True)])
    assert found.grows(5.0) and 10 < found.growth < 14 and 98 < found.first < 102


def test_noise_alone_does_not_grow() -> None:
    assert not any(trend(TIMES, [100 + n for n in noise(seed)]).grows(0.0) for seed in range(100))


def test_a_certain_growth_below_the_tolerance_does_not_count() -> None:
    found = trend(TIMES, [100 + 0.01 * t for t in TIMES])
    assert found.z > 9 and not found.grows(1.0)


def test_a_few_wild_values_change_nothing() -> None:
    values = [100 + n for n in noise(2)]
    for i in (50, 55, 59):
        values[i] = 10_000.0
    found = trend(TIMES, values)
    assert abs(found.growth) < 2 and not found.grows(1.0)


def test_a_constant_has_no_trend_and_two_points_prove_nothing() -> None:
    assert kendall_z([5.0] * 30) == 0.0 and trend(TIMES, [7.0] * 60).growth == 0.0
    assert not trend([0.0, 1.0], [1.0, 100.0]).grows(0.0)
    assert trend([0.0], [1.0]).growth == 0.0
