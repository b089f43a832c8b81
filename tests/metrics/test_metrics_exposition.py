"""What /metrics says of a page: names, types, labels, buckets; and that the docs say the same."""

from __future__ import annotations

import math
import re
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from evenkeel.serve import exposition
from evenkeel.serve.contract.lifecycle import Reason, ReplicaState, Verdict
from evenkeel.serve.contract.status_page import (
    BLOCK_CELLS,
    DEVICE_TEXT,
    ENGINES_MAX,
    FRONTS_MAX,
    PLAN_TEXT,
    TIME_CELLS,
    Engine,
    Front,
    Main,
    RolloutCell,
    StatusPage,
    restart_cell,
    row_bucket,
    time_bucket,
    worker_restart_cell,
)
from evenkeel.serve.engine.models.warmup_report import RESULTS
from evenkeel.serve.errors import FAMILIES, NUMBER, BadShape, Overloaded, TooManyArriving, TooManyBytes, WaitTooLong
from evenkeel.serve.exposition import FRESH_EVERY_S, FRESH_MAX, PageCollector, Scrapes
from tests.support.clock import ManualClock
from tests.support.scrape import Scrape

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
EXPLAINED = {
    "model": {"name": "digits", "version": "7", "backend": "onnx", "sha256": "ab12"},
    "startup": {"import_s": 0.5, "unpack_s": None, "load_s": 1.5, "total_s": 2.5},
    "warmup": {"seconds": 0.25, "golden": {"checked": 5, "passed": 5}, "results": {"settled": 7, "unsettled": 2, "left_out": 0}},
    "facts": {"provider": "cuda"},
}


DEVICE = {
    "place": 0, "uuid": "GPU-1", "name": "T4", "temperature_celsius": 40, "memory_used_bytes": 1, "memory_bytes": 2,
    "utilisation": 0.5, "power_watts": 60.0, "clock_hertz": {"sm": 1, "memory": 2}, "ecc_errors": {"corrected": 0},
    "throttled": {"power_cap": 0}, "xid_errors": 0, "last_xid": None,
}  # fmt: skip


def full(page: StatusPage) -> StatusPage:
    """A page on which everything is known that can be."""
    page.write_text(0, {**EXPLAINED, "startup": {f"{phase}_s": 1.0 for phase in exposition.PHASES}})
    page.write_text(DEVICE_TEXT, {"devices": [DEVICE]})
    page.main.value[Main.MEASURED_S] = 1.0
    page.main.count[Main.ROLLOUT] = RolloutCell.HOLD
    return page


# ---- the table -------------------------------------------------------------------------------------------------------


def test_the_docs_show_the_table_of_the_code() -> None:
    assert exposition.table() in DOCS.read_text()


def test_exactly_what_the_table_says_is_exposed(page: StatusPage) -> None:
    text = PageCollector(full(page)).text().decode()
    shown = {f.shown: f for f in exposition.FAMILIES}
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    assert types == {name: f.type for name, f in shown.items()}
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.M))
    assert helps == {name: f.meaning for name, f in shown.items()}
    endings = ("_bucket", "_sum", "_count")
    for sample in Scrape(text).samples:
        family = next((f for f in shown.values() if sample.name in (f.shown, *(f.shown + e for e in endings))), None)
        assert family is not None, sample.name
        assert set(sample.labels) - {"le"} == set(family.labels), sample


def test_every_metric_has_a_sample_once_everything_is_known(page: StatusPage) -> None:
    names = Scrape.of_page(full(page)).names
    missing = [f.shown for f in exposition.FAMILIES if not names & {f.shown, f"{f.shown}_count"}]
    assert missing == []


def test_a_page_on_which_nothing_has_happened_yet_is_valid_and_invents_nothing(page: StatusPage) -> None:
    scrape = Scrape.of_page(page)
    unknown = {
        "evenkeel_saturation_ratio", "evenkeel_headroom_requests_per_second", "evenkeel_warmup_seconds",
        "evenkeel_warmup_entries", "evenkeel_golden_checks", "evenkeel_startup_seconds", "evenkeel_model_info",
        "evenkeel_provider", "evenkeel_rollout_rollback_wanted", "evenkeel_rollout_evidence_insufficient",
    }  # fmt: skip
    assert scrape.names & unknown == set() and not any(name.startswith("evenkeel_device") for name in scrape.names)
    assert scrape["evenkeel_ready"] == 0 and scrape.of("evenkeel_state", state="new") == 1
    assert scrape.of("evenkeel_requests_total", code="500", model="digits", version="7") == 0, "known from the first scrape on"


def test_an_empty_page_of_no_process_at_all_is_still_an_answer() -> None:
    assert Scrape.of_page(StatusPage.create())["evenkeel_requests_total"] == 0


# ---- counters --------------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_the_status_that_the_client_saw_over_all_fronts(page: StatusPage) -> None:
    page.main.count[Main.FRONTS] = 2
    for place, count in ((0, 3), (1, 4)):
        page.front(place).count[Front.LATENCY + time_bucket(0.001)] = count
        page.front(place).count[Front.ERRORS + NUMBER[BadShape]] = count
    page.front(0).count[Front.ABANDONED] = 2
    page.front(5).count[Front.ABANDONED] = 99  # no front of the plan
    scrape = Scrape.of_page(page)
    assert {c: scrape.of("evenkeel_requests_total", code=c) for c in ("200", "400", "499", "503")} == {
        "200": 7, "400": 7, "499": 2, "503": 0}  # fmt: skip


def test_every_error_has_its_code_and_no_code_is_missing(page: StatusPage) -> None:
    for i in range(len(FAMILIES)):
        page.front(0).count[Front.ERRORS + i] = 1
    scrape = Scrape.of_page(page)
    assert scrape["evenkeel_requests_total"] == len(FAMILIES)
    for status in {f.status for f in FAMILIES}:
        want = sum(f.status == status for f in FAMILIES)
        assert scrape.of("evenkeel_requests_total", code=str(status)) == want


def test_what_is_shed_tells_what_there_was_too_much_of(page: StatusPage) -> None:
    for family, count in ((Overloaded, 1), (TooManyBytes, 2), (TooManyArriving, 4), (WaitTooLong, 8)):
        page.front(0).count[Front.ERRORS + NUMBER[family]] = count
    scrape = Scrape.of_page(page)
    assert {r: scrape.of("evenkeel_shed_total", reason=r) for r in ("rows", "bytes", "wait")} == {
        "rows": 1, "bytes": 6, "wait": 8}  # fmt: skip
    assert scrape.of("evenkeel_requests_total", code="429") == 15


def test_restarts_of_workers_and_of_the_whole_front_are_one_count(page: StatusPage) -> None:
    count = page.main.count
    count[restart_cell("front", "exit")], count[worker_restart_cell("exit")] = 1, 2
    count[worker_restart_cell("stuck")], count[restart_cell("engine", "signal")] = 4, 8
    scrape = Scrape.of_page(page)
    assert scrape.of("evenkeel_restarts_total", process="front", reason="exit") == 3
    assert scrape.of("evenkeel_restarts_total", process="front", reason="stuck") == 4
    assert scrape.of("evenkeel_restarts_total", process="engine", reason="signal") == 8
    assert scrape["evenkeel_restarts_total"] == 15


# ---- histograms ------------------------------------------------------------------------------------------------------


def buckets(scrape: Scrape, name: str) -> dict[str, float]:
    return {s.labels["le"]: s.value for s in scrape.samples if s.name == f"{name}_bucket"}


def test_the_edges_go_from_64_us_to_67_s_and_grow_by_a_quarter_at_most() -> None:
    edges = [float(le) for le in exposition.TIME_LES]
    assert (edges[0], edges[-2], edges[-1]) == (64e-6, 67.108864, math.inf)
    assert all(1 < b / a <= 1.25 + 1e-9 for a, b in pairwise(edges[:-1]))
    assert exposition.ROW_LES[:4] == ("1.0", "3.0", "7.0", "15.0")


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 63e-6, 65e-6, 79e-6, 81e-6, 0.001, 0.0123, 1.0, 50.0, 67.0, 68.0, 1e4, 1e9])
def test_a_time_is_counted_in_the_buckets_above_it_and_in_no_other(page: StatusPage, seconds: float) -> None:
    page.front(0).count[Front.LATENCY + time_bucket(seconds)] = 5
    page.front(0).value[Front.LATENCY_SUM_S] = 5 * seconds
    scrape = Scrape.of_page(page)
    found = buckets(scrape, "evenkeel_request_seconds")
    assert found == {le: 5 if seconds < float(le) else 0 for le in found}
    assert scrape["evenkeel_request_seconds_count"] == 5 and scrape["evenkeel_request_seconds_sum"] == 5 * seconds


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 8, 64, 4096, 8191])
def test_rows_are_counted_exactly(page: StatusPage, rows: int) -> None:
    page.engine(0).count[Engine.BATCH_ROWS + row_bucket(rows)] = 3
    page.engine(0).count[Engine.ROWS] = 3 * rows
    scrape = Scrape.of_page(page)
    found = buckets(scrape, "evenkeel_batch_rows")
    assert found == {le: 3 if rows <= float(le) else 0 for le in found}
    assert scrape["evenkeel_batch_rows_sum"] == 3 * rows and scrape["evenkeel_batch_rows_count"] == 3


@pytest.mark.parametrize(("name", "cells", "total"), [
    ("evenkeel_queue_seconds", Engine.QUEUE_TIME, Engine.QUEUE_SUM_S),
    ("evenkeel_run_seconds", Engine.RUN_TIME, Engine.RUN_SUM_S)])  # fmt: skip
def test_histograms_of_engines_are_added_up_cell_by_cell(page: StatusPage, name: str, cells: int, total: int) -> None:
    page.main.count[Main.ENGINES] = 2
    for place in (0, 1):
        for i in range(TIME_CELLS):
            page.engine(place).count[cells + i] = 1
        page.engine(place).value[total] = 0.5
    scrape = Scrape.of_page(page)
    found = list(buckets(scrape, name).values())
    assert found == [2.0 * (n + 1) for n in range(exposition.FIRST_EDGE, exposition.LAST_EDGE + 1)] + [2.0 * TIME_CELLS]
    assert scrape[f"{name}_count"] == 2 * TIME_CELLS and scrape[f"{name}_sum"] == 1.0


# ---- gauges and texts ------------------------------------------------------------------------------------------------


def test_gauges_show_the_page(page: StatusPage) -> None:
    page.main.count[Main.ENGINES] = 3
    for place, state in enumerate((ReplicaState.READY, ReplicaState.READY, ReplicaState.WARMING)):
        page.engine(place).count[Engine.STATE] = state
        page.engine(place).count[Engine.QUEUE_ROWS] = 5
    page.front(0).count[Front.IN_FLIGHT], page.front(0).count[Front.RESUBMITTED] = 9, 2
    page.write_verdict(Verdict(True, Reason.READY), 1.0)
    value = page.main.value
    value[Main.SATURATION], value[Main.HEADROOM_RPS], value[Main.MEASURED_S] = 0.25, 1000.0, 5.0
    scrape = Scrape.of_page(page)
    assert (scrape["evenkeel_queue_rows"], scrape["evenkeel_in_flight"], scrape["evenkeel_retries_total"]) == (15, 9, 2)
    assert (scrape["evenkeel_saturation_ratio"], scrape["evenkeel_headroom_requests_per_second"]) == (0.25, 1000)
    assert scrape["evenkeel_ready"] == 1 and scrape["evenkeel_state"] == 3
    assert scrape.of("evenkeel_state", state="ready") == 2 and scrape.of("evenkeel_state", state="warming") == 1


def test_a_headroom_that_nobody_knows_is_not_exposed(page: StatusPage) -> None:
    page.main.value[Main.HEADROOM_RPS], page.main.value[Main.MEASURED_S] = math.nan, 5.0
    names = Scrape.of_page(page).names
    assert "evenkeel_saturation_ratio" in names and "evenkeel_headroom_requests_per_second" not in names


@pytest.mark.parametrize(
    ("says", "gauges"), [(RolloutCell.PROMOTE, (0, 0)), (RolloutCell.HOLD, (0, 1)), (RolloutCell.ROLLBACK, (1, 0))]
)
def test_the_judge_speaks_in_two_gauges_so_that_only_a_promotion_is_silent(
    page: StatusPage, says: RolloutCell, gauges: tuple[int, int]
) -> None:
    page.main.count[Main.ROLLOUT] = says
    scrape = Scrape.of_page(page)
    assert (scrape["evenkeel_rollout_rollback_wanted"], scrape["evenkeel_rollout_evidence_insufficient"]) == gauges


def test_the_slowest_engine_is_told_and_phases_without_a_time_are_left_out(page: StatusPage) -> None:
    page.main.count[Main.ENGINES] = 2
    page.write_text(0, EXPLAINED)
    page.write_text(1, {**EXPLAINED, "startup": {"import_s": 0.7, "unpack_s": None}, "warmup": {"seconds": 0.1}})
    scrape = Scrape.of_page(page)
    assert scrape["evenkeel_warmup_seconds"] == 0.25
    assert [scrape.of("evenkeel_warmup_entries", result=r) for r in RESULTS] == [7, 2, 0]
    assert scrape.of("evenkeel_startup_seconds", phase="import") == 0.7
    assert {labels["phase"] for labels in scrape.labels("evenkeel_startup_seconds")} == {"import", "load", "total"}
    assert scrape.labels("evenkeel_model_info") == [{"model": "digits", "version": "7", "sha256": "ab12"}]


def test_the_check_that_failed_is_counted_and_so_are_those_of_other_engines(page: StatusPage) -> None:
    page.main.count[Main.ENGINES] = 2
    page.write_text(0, EXPLAINED)
    page.write_text(
        1, {"warmup": {"golden": {"checked": 3, "passed": 2}, "results": {"settled": 1, "unsettled": 0, "left_out": 3}}}
    )
    scrape = Scrape.of_page(page)
    assert [scrape.of("evenkeel_warmup_entries", result=r) for r in RESULTS] == [8, 2, 3]
    assert [scrape.of("evenkeel_golden_checks", result=r) for r in ("passed", "failed")] == [7, 1]


@pytest.mark.parametrize(
    "text", [{"truncated": "x"}, {"model": None, "startup": None, "warmup": None}, {"failure": {"reason": "x"}}]
)
def test_an_engine_that_explains_little_breaks_nothing(page: StatusPage, text: dict[str, object]) -> None:
    page.write_text(0, text)
    assert "evenkeel_model_info" not in Scrape.of_page(page).names


def test_a_name_that_needs_quoting_is_quoted_and_a_long_one_is_cut(page: StatusPage) -> None:
    page.write_text(PLAN_TEXT, {"model": {"name": 'a"b\\c\nd' + "é" * 999, "version": "1"}})
    found = Scrape.of_page(page).labels("evenkeel_request_seconds_count")[0]["model"]
    assert found == ('a"b\\c\nd' + "é" * 999)[: exposition.LABEL_CHARS_MAX]


# ---- never blocked, always small -------------------------------------------------------------------------------------


def test_an_engine_that_died_while_explaining_itself_holds_up_no_scrape(
    page: StatusPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.write_text(0, EXPLAINED)
    collector = PageCollector(page)
    assert "evenkeel_model_info" in Scrape(collector.text().decode()).names
    from evenkeel.serve.contract import status_page

    at = status_page._TEXT_AT
    page._view[at : at + 8].cast("Q")[0] += 1  # killed between the two increments
    monkeypatch.setattr(time, "sleep", lambda s: pytest.fail("a scrape waits for nobody"))
    scrape = Scrape(collector.text().decode())
    assert scrape.labels("evenkeel_model_info")[0]["sha256"] == "ab12", "what was last known"


def test_the_number_of_series_has_a_bound_whatever_is_on_the_page() -> None:
    page = StatusPage.create()
    blocks = [page.main, *map(page.front, range(FRONTS_MAX)), *map(page.engine, range(ENGINES_MAX))]
    for block in blocks:
        for cell in range(BLOCK_CELLS):
            block.count[cell] = 3
    page.main.count[Main.FRONTS], page.main.count[Main.ENGINES] = FRONTS_MAX, ENGINES_MAX
    for place in range(ENGINES_MAX):
        page.write_text(place, EXPLAINED)
    page.write_text(PLAN_TEXT, {"model": {"name": "digits", "version": "7"}})
    scrape = Scrape.of_page(page)
    assert len(scrape.samples) < 350 and len(scrape.text) < 32 * 1024


def test_a_scrape_of_the_fullest_page_takes_less_than_20_ms_of_one_core() -> None:
    """It takes about 2. The fastest of many, in CPU time of this thread: others on the machine do not count."""
    page = StatusPage.create()
    page.main.count[Main.FRONTS], page.main.count[Main.ENGINES] = FRONTS_MAX, ENGINES_MAX
    for place in range(ENGINES_MAX):
        page.write_text(place, {**EXPLAINED, "filling": "x" * 8000})
    collector, took_s = PageCollector(page), []
    for _ in range(20):
        began_s = time.thread_time()
        collector.text()
        took_s.append(time.thread_time() - began_s)
    assert min(took_s) < 0.020


# ---- those who ask too often -----------------------------------------------------------------------------------------


def test_who_scrapes_at_any_usual_pace_sees_what_is_counted_now(page: StatusPage) -> None:
    clock = ManualClock()
    scrapes = Scrapes(page, clock)
    for n in range(100):
        page.main.count[Main.VERDICT_READY] = n % 2
        assert Scrape(scrapes.text().decode())["evenkeel_ready"] == n % 2
        clock.advance(FRESH_EVERY_S)


def test_who_scrapes_without_end_gets_the_last_text_until_a_new_one_is_due(page: StatusPage) -> None:
    clock = ManualClock()
    scrapes = Scrapes(page, clock)
    texts = [scrapes.text() for _ in range(FRESH_MAX)]
    page.main.count[Main.VERDICT_READY] = 1 - page.main.count[Main.VERDICT_READY]
    assert scrapes.text() is texts[-1] is scrapes.kept()
    clock.advance(FRESH_EVERY_S)
    assert scrapes.kept() is None
    assert scrapes.text() != texts[-1]


def test_one_thread_at_a_time_makes_the_text(page: StatusPage) -> None:
    scrapes, making, most = Scrapes(page), 0, 0
    make = scrapes._collector.text

    def counted() -> bytes:
        nonlocal making, most
        making += 1
        most = max(most, making)
        time.sleep(0.005)
        made = make()
        making -= 1
        return made

    scrapes._collector.text = counted  # type: ignore[method-assign]
    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda _: scrapes.text(), range(40)))
    assert most == 1 and all(text.startswith(b"# HELP") for text in texts)
