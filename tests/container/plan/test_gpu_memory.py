"""Whether a card has room for more engines, by what NVML says of it and by how many engines are there."""

from __future__ import annotations

from typing import Any

import pytest

from evenkeel.container.plan.gpu_memory import MARGIN_BYTES, OnGpu, fit
from evenkeel.container.plan.memory_fit import FILE_FACTOR, MIB

GIB = 1 << 30


def told(used: int, total: int = 16 * GIB, place: int = 0, uuid: str = "GPU-a") -> dict[str, Any]:
    return {"place": place, "uuid": uuid, "memory_used_bytes": used, "memory_bytes": total}


def test_a_version_fits_beside_the_old_one_when_its_engines_and_a_margin_are_left() -> None:
    one = [OnGpu("0", engines=1, leaving=0, added=1)]
    most = (16 * GIB - MARGIN_BYTES) // 2
    assert fit([told(most)], one).fits and not fit([told(most + MIB)], one).fits


def test_each_of_several_engines_takes_its_share_of_what_is_used() -> None:
    four = OnGpu("0", engines=4, leaving=0, added=4)
    assert fit([told(7 * GIB)], [four]).fits and not fit([told(9 * GIB)], [four]).fits
    assert fit([told(9 * GIB)], [OnGpu("0", engines=4, leaving=0, added=1)]).fits, "one more, as a successor is"


def test_who_leaves_before_gives_back_what_it_has() -> None:
    assert not fit([told(12 * GIB)], [OnGpu("0", engines=2, leaving=0, added=1)]).fits
    assert fit([told(12 * GIB)], [OnGpu("0", engines=1, leaving=1, added=1)]).fits


def test_larger_files_need_more_and_smaller_ones_not_less() -> None:
    one, used = [OnGpu("0", engines=1, leaving=0, added=1)], 16 * GIB // 2 - MARGIN_BYTES
    assert fit([told(used)], one, int(MARGIN_BYTES / FILE_FACTOR)).fits
    assert not fit([told(used)], one, MARGIN_BYTES).fits
    assert not fit([told(used + MARGIN_BYTES)], one, -GIB).fits


def test_every_card_needs_room_and_the_first_without_is_named() -> None:
    both = [OnGpu("0", 1, 0, 1), OnGpu("GPU-b", 1, 0, 1)]
    full = told(15 * GIB, place=1, uuid="GPU-b")
    found = fit([told(GIB), full], both)
    assert not found.fits and "GPU GPU-b" in found.why and "1024 MiB are left" in found.why
    assert fit([told(GIB), told(GIB, place=1, uuid="GPU-b")], both).fits


@pytest.mark.parametrize("devices", [[], [told(GIB, place=1)], [{"place": 0, "uuid": None, "memory_used_bytes": None}]])
def test_of_a_card_that_nobody_tells_of_it_is_not_known(devices: list[dict[str, Any]]) -> None:
    found = fit(devices, [OnGpu("0", 1, 0, 1)])
    assert not found.fits and found.why == "how much memory GPU 0 has left is not known"
