"""A leak is told from a heap that settles, a cache that fills, noise and idleness; and only shortly before the limit."""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

import pytest

from evenkeel.container.plan import machine
from evenkeel.container.watch.leak import SAMPLES_MAX, SAMPLES_MIN, MemorySample, leak, slope
from evenkeel.container.watch.memory_sampler import SAMPLE_S, MemorySampler, anonymous_bytes
from evenkeel.serve.contract import cgroup

MIB = 1 << 20


def served(bytes_at: list[float], rows_a_sample: int = 100) -> list[MemorySample]:
    return [MemorySample(1000.0 + i, 5000 + i * rows_a_sample, int(b)) for i, b in enumerate(bytes_at)]


def test_a_straight_line_has_its_slope_and_no_doubt() -> None:
    found = slope(served([500 * MIB + i * 100 * 2048 for i in range(30)]))
    assert found.bytes == found.least_bytes == 2048


def test_one_jump_is_no_slope_for_certain() -> None:
    found = slope(served([500 * MIB + (200 * MIB if i > 15 else 0) for i in range(30)]))
    assert found.least_bytes <= 0


def test_memory_that_was_never_served_from_has_no_slope() -> None:
    samples = served([500 * MIB + i * MIB for i in range(30)], rows_a_sample=0)
    assert slope(samples).bytes == 0 and leak(samples, 0.0, 60.0) == ""


def test_a_leak_counts_only_when_the_limit_is_near() -> None:
    samples = served([500 * MIB + i * 10 * MIB for i in range(30)])  # 10 MiB a second
    assert leak(samples, 601 * MIB, 60.0) == ""
    why = leak(samples, 590 * MIB, 60.0)
    assert "10 MiB a second" in why and "in 59 s" in why and "102 KiB a row" in why
    assert leak(samples, -5 * MIB, 60.0), "over the limit already"


def test_few_samples_and_little_growth_are_no_leak() -> None:
    assert leak(served([500 * MIB + i * 10 * MIB for i in range(SAMPLES_MIN - 1)]), MIB, 60.0) == ""
    assert leak(served([500 * MIB + i * MIB for i in range(30)]), MIB, 60.0) == "", "29 MiB: a heap that settles"


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_leak_and_a_leak_in_noise_is_found(seed: int) -> None:
    print(f"SEED={seed}")
    rng = random.Random(seed)
    flat = [800 * MIB + rng.gauss(0, 60 * MIB) for _ in range(SAMPLES_MAX)]
    assert leak(served(flat), MIB, 60.0) == ""
    assert leak(served([b + i * 10 * MIB for i, b in enumerate(flat)]), MIB, 60.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_cache_that_has_filled_is_no_leak_when_it_is_full(seed: int) -> None:
    rng = random.Random(seed)
    filled = [min(800, 200 + 40 * i) * MIB + rng.gauss(0, MIB) for i in range(SAMPLES_MAX)]
    assert leak(served(filled), 100 * MIB, 60.0) == ""


def test_the_sentinel_samples_in_its_time_and_forgets_a_process_that_is_gone() -> None:
    sentinel = MemorySampler(60.0, 1)
    assert sentinel.due(5.0) and not sentinel.due(5.0 + SAMPLE_S / 2) and sentinel.due(5.0 + SAMPLE_S)
    assert not MemorySampler(0.0).due(5.0), "0 turns it off"
    for i in range(SAMPLES_MIN):
        assert sentinel.look(0, os.getpid(), i, float(i)) == ""
    assert sentinel.look(0, 1, 99, 99.0) == "" and len(sentinel._samples[0]) == 1


def test_memory_of_a_version_that_has_left_does_not_count_against_the_budget() -> None:
    sentinel = MemorySampler(60.0, 1000 * MIB)
    for place in (0, 1):
        sentinel.look(place, os.getpid(), 0, 0.0)
    both = sentinel.left_bytes()
    sentinel.keep({1})
    assert sentinel.left_bytes() > both and list(sentinel._samples) == [1]


def test_the_sentinel_finds_the_leak_of_a_real_process() -> None:
    sentinel, kept = MemorySampler(60.0, 1), []
    for i in range(SAMPLES_MIN):
        fresh = mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # never memory that was freed before
        fresh.write(b"x" * len(fresh))
        kept.append(fresh)
        why = sentinel.look(0, os.getpid(), i, float(i))
    assert "MiB a second" in why and len(kept) == SAMPLES_MIN


def test_own_memory_leaves_out_what_is_shared() -> None:
    before = anonymous_bytes(os.getpid())
    kept = b"x" * (64 * MIB)
    assert before > MIB and anonymous_bytes(os.getpid()) - before > len(kept) / 2
    assert anonymous_bytes(2**22 + 1) == 0, "no such process"


def test_the_memory_that_is_left_is_the_cgroups_or_the_machines(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert machine.memory_left(tmp_path, meminfo) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    assert machine.memory_left(tmp_path, meminfo) == 5000 * 1024
    (tmp_path / "memory.max").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert machine.memory_left(tmp_path, meminfo) == 1_500_000


def test_what_the_kernel_has_ended_is_counted(tmp_path: Path) -> None:
    assert cgroup.oom_kills(tmp_path) == 0
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert cgroup.oom_kills(tmp_path) == 2
