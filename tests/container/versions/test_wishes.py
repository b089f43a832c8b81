"""What comes of a wish for a version, from what is loaded and what fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.container.plan.memory_fit import MemoryFit
from evenkeel.container.versions.blue_green import Revision, RevisionState
from evenkeel.container.versions.lost_engine import STARTS_MAX, LostEngine, what_follows
from evenkeel.container.versions.version_counters import OTHERS, VersionCounters
from evenkeel.container.versions.wishes import with_a_load, without_a_load
from evenkeel.serve.contract.process_setup import EXIT_BAD_MODEL
from evenkeel.serve.contract.status_page import COUNTED_VERSIONS_MAX

BESIDE, IN_PLACE = (
    MemoryFit(True, "beside the old one: there is room"),
    MemoryFit(False, "in place of the old one: there is none"),
)


def holding(version: str, state: RevisionState) -> Revision:
    return Revision(2, version, Path("/models"), 1, state)


def test_the_version_that_serves_stays() -> None:
    answer = without_a_load("1", "1", "1", None, BESIDE)
    assert answer is not None and (answer.how, answer.why) == ("stays", "version 1 serves already")


def test_the_version_that_serves_gives_up_the_swap_that_is_under_way() -> None:
    answer = without_a_load("1", "1", "2", holding("2", RevisionState.LOADING), BESIDE)
    assert answer is not None and answer.why == "version 1 serves already, the swap to 2 is given up"


def test_a_version_that_stands_by_comes_back_at_once() -> None:
    answer = without_a_load("1", "2", "2", holding("1", RevisionState.PREVIOUS), BESIDE)
    assert answer is not None and answer.how == "at once"


@pytest.mark.parametrize(("fit", "how"), [(BESIDE, "beside"), (IN_PLACE, "in place")])
def test_a_version_that_loads_is_on_its_way(fit: MemoryFit, how: str) -> None:
    answer = without_a_load("2", "1", "2", holding("2", RevisionState.LOADING), fit)
    assert answer is not None and (answer.how, answer.why) == (how, "version 2 is on its way already")


@pytest.mark.parametrize("other", [None, holding("3", RevisionState.LOADING)])
def test_any_other_version_has_to_be_loaded(other: Revision | None) -> None:
    assert without_a_load("2", "1", "1", other, BESIDE) is None


def test_a_load_in_place_says_that_requests_wait() -> None:
    answer = with_a_load("2", IN_PLACE, steady=True)
    assert answer.how == "in place" and "requests wait meanwhile" in answer.why and "503" in answer.why
    assert "requests wait" not in with_a_load("2", BESIDE, steady=True).why


def test_a_load_says_that_another_swap_comes_first() -> None:
    assert with_a_load("2", BESIDE, steady=False).why.endswith("after the swap that is under way")


@pytest.mark.parametrize(("stood_by", "code", "ends", "lost"), [
    (True, -9, 1, LostEngine.RETIRE),
    (True, EXIT_BAD_MODEL, 1, LostEngine.RETIRE),
    (False, EXIT_BAD_MODEL, 1, LostEngine.BAD_MODEL),
    (False, -9, STARTS_MAX - 1, LostEngine.START_AGAIN),
    (False, 1, STARTS_MAX, LostEngine.TOO_OFTEN),
])  # fmt: skip
def test_what_follows_the_end_of_an_engine_without_traffic(stood_by: bool, code: int, ends: int, lost: LostEngine) -> None:
    assert what_follows(stood_by=stood_by, code=code, ends=ends) is lost


def test_a_version_that_comes_back_counts_on_where_it_stopped_and_the_last_counters_are_for_all_others() -> None:
    counters = VersionCounters()
    numbers = [counters.number({"name": "m", "version": str(i)}) for i in range(COUNTED_VERSIONS_MAX + 5)]
    assert numbers == [*range(COUNTED_VERSIONS_MAX), *[COUNTED_VERSIONS_MAX - 1] * 5]
    assert counters.number({"name": "m", "version": "3"}) == 3
    assert counters.labels[-1] == {"name": "m", "version": OTHERS} and len(counters.labels) == COUNTED_VERSIONS_MAX
