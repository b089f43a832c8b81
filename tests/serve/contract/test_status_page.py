"""The status page: cells with one writer, text under a sequence number, histograms by powers of two."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.contract import status_page
from evenkeel.serve.contract.lifecycle import Reason, ReplicaState, Verdict
from evenkeel.serve.contract.status_page import (
    BLOCK_CELLS,
    ENGINES_MAX,
    FRONTS_MAX,
    RESTART_REASONS,
    ROLES,
    ROW_CELLS,
    TEXT_BYTES,
    TIME_CELLS,
    Engine,
    Front,
    Main,
    StatusPage,
    read_engine,
    restart_cell,
    row_bucket,
    time_bucket,
    time_edge,
    worker_restart_cell,
)
from evenkeel.serve.errors import FAMILIES


@pytest.fixture
def page() -> Iterator[StatusPage]:
    page = StatusPage.create()
    yield page
    os.close(page.fd)


def test_no_two_blocks_share_a_cell(page: StatusPage) -> None:
    blocks = [page.main, *map(page.front, range(FRONTS_MAX)), *map(page.engine, range(ENGINES_MAX))]
    for i, block in enumerate(blocks):
        for cell in range(BLOCK_CELLS):
            block.count[cell] = i
    assert all(set(block.count) == {i} for i, block in enumerate(blocks))
    assert all(page.read_text(i) == {} for i in range(ENGINES_MAX))


@pytest.mark.parametrize(
    ("cells", "ranges"),
    [
        (Front, {"ERRORS": len(FAMILIES), "LATENCY": TIME_CELLS, "GREETED": ENGINES_MAX, "REHEARSED": ENGINES_MAX}),
        (Engine, {"ERRORS": len(FAMILIES), "BATCH_ROWS": ROW_CELLS, "RUN_TIME": TIME_CELLS,
                  "QUEUE_TIME": TIME_CELLS}),
        (Main, {"RESTARTS": 8 * len(ROLES), "WORKER_RESTARTS": len(RESTART_REASONS)}),
    ],
)  # fmt: skip
def test_no_two_meanings_share_a_cell_of_a_block(cells: type[Front], ranges: dict[str, int]) -> None:
    used = [cell + i for name, cell in cells.__members__.items() for i in range(ranges.get(name, 1))]
    assert len(used) == len(set(used))
    assert max(used) < BLOCK_CELLS


@given(st.integers(0, 2**64 - 1), st.floats(allow_nan=False))
def test_a_cell_holds_what_was_written(number: int, seconds: float) -> None:
    page = StatusPage.create()
    page.front(3).count[5], page.front(3).value[6] = number, seconds
    assert page.front(3).count[5] == number and page.front(3).value[6] == seconds
    os.close(page.fd)


def test_another_process_sees_the_same_page(page: StatusPage) -> None:
    page.engine(1).count[Engine.ROWS] = 7
    code = f"""
from evenkeel.serve.contract.status_page import *
page = StatusPage({page.fd})
page.front(2).count[Front.OK] = page.engine(1).count[Engine.ROWS] + 1
page.write_text(4, {{"from": "afar"}})
"""
    subprocess.run([sys.executable, "-c", code], pass_fds=(page.fd,), check=True)
    assert page.front(2).count[Front.OK] == 8
    assert page.read_text(4) == {"from": "afar"}


@pytest.mark.parametrize("place", [-1, ENGINES_MAX])
def test_a_place_that_does_not_exist_is_our_own_bug(page: StatusPage, place: int) -> None:
    with pytest.raises(AssertionError):
        page.engine(place)


# ---- text ------------------------------------------------------------------------------------------------------------


def test_a_text_is_read_as_it_was_written_and_replaced_as_a_whole(page: StatusPage) -> None:
    page.write_text(0, {"long": "x" * 1000, "é": [1, 2.5, None]})
    assert page.read_text(0) == {"long": "x" * 1000, "é": [1, 2.5, None]}
    page.write_text(0, {"short": 1})
    assert page.read_text(0) == {"short": 1}
    assert page.read_text(1) == {}


def test_a_text_that_does_not_fit_is_replaced_by_a_note(page: StatusPage) -> None:
    page.write_text(0, {"long": "x" * TEXT_BYTES})
    assert "do not fit" in page.read_text(0)["truncated"]
    page.write_text(1, {"next": "untouched"})
    assert "do not fit" in page.read_text(0)["truncated"]


def test_the_last_engines_text_lies_inside_the_page(page: StatusPage) -> None:
    text = {"x": "y" * (TEXT_BYTES - 32)}
    page.write_text(ENGINES_MAX - 1, text)
    assert page.read_text(ENGINES_MAX - 1) == text


def test_the_supervisors_text_lies_behind_all_others_and_inside_the_page(page: StatusPage) -> None:
    text = {"x": "y" * (TEXT_BYTES - 32)}
    page.write_text(status_page.PLAN_TEXT, text)
    assert page.read_text(status_page.PLAN_TEXT) == text and page.read_text(status_page.SIDECAR_TEXT) == {}


def sequence(page: StatusPage, engine: int) -> memoryview:
    at = status_page._TEXT_AT + engine * TEXT_BYTES
    return page._view[at : at + 8].cast("Q")


def test_a_text_half_written_is_not_shown(page: StatusPage) -> None:
    page.write_text(0, {"old": 1})
    sequence(page, 0)[0] += 1
    assert page.read_text(0) == {}


def test_an_engine_that_died_while_writing_does_not_silence_the_next_one(page: StatusPage) -> None:
    page.write_text(0, {"old": 1})
    sequence(page, 0)[0] += 1  # killed between the two increments
    page.write_text(0, {"new": 2})
    assert page.read_text(0) == {"new": 2}


def test_a_reader_never_sees_two_texts_mixed(page: StatusPage) -> None:
    stop = threading.Event()

    def write() -> None:
        i = 0
        while not stop.is_set():
            i += 1
            page.write_text(0, {"number": i, "again": [i] * (i % 500)})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            seen = page.read_text(0)
            assert not seen or set(seen["again"]) <= {seen["number"]}
    finally:
        stop.set()
        writer.join()


# ---- verdict, histograms, views ---------------------------------------------------------------------------------------


def test_a_verdict_is_written_once_and_keeps_the_time_of_its_change(page: StatusPage) -> None:
    ready = Verdict(True, Reason.READY)
    assert page.write_verdict(ready, 5.0)
    assert not page.write_verdict(ready, 6.0)
    assert page.verdict() == ready
    assert page.main.value[Main.VERDICT_SINCE_S] == 5.0 and page.main.value[Main.VERDICT_BEAT_S] == 6.0
    assert page.write_verdict(Verdict(False, Reason.STUCK), 7.0)
    assert page.main.value[Main.VERDICT_SINCE_S] == 7.0


def test_a_new_page_is_not_ready(page: StatusPage) -> None:
    assert page.verdict() == Verdict(False, Reason.STARTING)


@pytest.mark.parametrize(("rows", "cell"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1000, 10), (1024, 11), (1 << 60, 39)])
def test_rows_are_counted_below_the_next_power_of_two(rows: int, cell: int) -> None:
    assert row_bucket(rows) == cell


@given(st.floats(0, 1e30))
def test_every_time_lies_below_the_edge_of_its_bucket_and_not_below_the_one_before(seconds: float) -> None:
    cell = time_bucket(seconds)
    assert 0 <= cell < TIME_CELLS
    rounding = 1 + 1e-12
    assert cell == 0 or seconds * rounding >= time_edge(cell - 1)
    assert cell == TIME_CELLS - 1 or seconds < time_edge(cell) * rounding


def test_edges_of_time_grow_by_a_quarter_at_most() -> None:
    edges = [time_edge(i) for i in range(TIME_CELLS)]
    assert edges[:6] == pytest.approx([1e-6, 1.25e-6, 1.5e-6, 1.75e-6, 2e-6, 2.5e-6])
    assert all(1 < after / before <= 1.25 + 1e-9 for before, after in pairwise(edges))
    assert edges[-1] > 24 * 3600


def test_no_two_kinds_of_restart_share_a_cell() -> None:
    cells = [restart_cell(role, reason) for role in ROLES for reason in RESTART_REASONS]
    cells += [worker_restart_cell(reason) for reason in RESTART_REASONS]
    assert len(set(cells)) == len(cells) and max(cells) < BLOCK_CELLS


def test_an_engines_block_is_read_as_one_record(page: StatusPage) -> None:
    block = page.engine(2)
    block.count[Engine.PID], block.count[Engine.STATE], block.count[Engine.WAS_READY] = 77, int(ReplicaState.WARMING), 1
    block.value[Engine.RUN_STARTED_S] = 3.5
    view = read_engine(page, 2)
    assert (view.place, view.pid, view.state, view.was_ready, view.run_started_s) == (2, 77, ReplicaState.WARMING, True, 3.5)
