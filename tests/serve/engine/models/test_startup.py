"""The start-up ledger."""

from __future__ import annotations

import time

import pytest

from evenkeel.serve.engine.models.startup import Ledger, process_began_s


class ManualClock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_time_counts_for_the_innermost_phase_only() -> None:
    clock = ManualClock()
    ledger = Ledger(clock)
    with ledger.phase("load"):
        clock.now_s += 2.0
        with ledger.phase("compile"):
            clock.now_s += 30.0
        clock.now_s += 1.0
    told = ledger.to_json()
    assert (told["load_s"], told["compile_s"], told["total_s"]) == (3.0, 30.0, 33.0)


def test_a_phase_that_this_start_did_not_have_is_null() -> None:
    told = Ledger(ManualClock()).to_json()
    assert told["device_copy_s"] is None and told["unpack_s"] is None
    assert set(told) == {"import_s", "unpack_s", "load_s", "device_copy_s", "compile_s", "warm_s", "total_s"}


def test_a_phase_may_come_twice_and_one_may_have_begun_with_the_process() -> None:
    clock = ManualClock()
    ledger = Ledger(clock, began_s=90.0)
    ledger.before("import")
    with ledger.phase("import"):
        clock.now_s += 4.0
    assert ledger.to_json()["import_s"] == 14.0


def test_a_phase_that_fails_is_charged_too() -> None:
    clock = ManualClock()
    ledger = Ledger(clock)
    with pytest.raises(OSError), ledger.phase("warm"):
        clock.now_s += 5.0
        raise OSError
    clock.now_s += 7.0
    assert ledger.to_json()["warm_s"] == 5.0


def test_the_process_began_before_now() -> None:
    assert time.monotonic() - 24 * 3600 < process_began_s() < time.monotonic()
