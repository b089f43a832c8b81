"""The embedded metric format: one line a period, within its limits, saying what happened in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from evenkeel.serve.contract.lifecycle import Reason, Verdict
from evenkeel.serve.contract.status_page import PLAN_TEXT, Front, Main, RolloutCell, StatusPage, restart_cell, time_bucket
from evenkeel.serve.errors import NUMBER, BadShape, Overloaded
from evenkeel.sidecar.export.emf import LINE_BYTES_MAX, UNITS, Emf, line

# As in CloudWatch's specification of the format.
UNITS_ALLOWED = {"Count", "Milliseconds", "Percent", "Count/Second"}


class Lines:
    """An Emf that writes into a pipe, and what came out of it."""

    def __init__(self, page: StatusPage, period_s: float = 60.0, namespace: str = "evenkeel", saved: Path | None = None) -> None:
        self.page = page
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK)
        self.emf = Emf(period_s, namespace, self.write_fd, saved)

    def at(self, now_s: float, headroom_rps: float | None = None) -> list[dict[str, Any]]:
        self.emf.tick(self.page, now_s, 1_700_000_000.25 + now_s, headroom_rps)
        try:
            data = os.read(self.read_fd, 1 << 16)
        except BlockingIOError:
            return []
        assert data.endswith(b"\n")
        return [json.loads(text) for text in data.decode().splitlines()]


def check(record: dict[str, Any]) -> None:
    """Every rule of the format that a line of ours could break."""
    directives = record["_aws"]["CloudWatchMetrics"]
    assert isinstance(record["_aws"]["Timestamp"], int)
    for directive in directives:
        assert 1 <= len(directive["Namespace"]) <= 1024
        assert directive["Dimensions"] and all(0 < len(names) <= 30 for names in directive["Dimensions"])
        assert 1 <= len(directive["Metrics"]) <= 100
        for metric in directive["Metrics"]:
            assert metric["Unit"] in UNITS_ALLOWED
            assert type(record[metric["Name"]]) in (int, float), metric
        for name in {n for names in directive["Dimensions"] for n in names}:
            assert isinstance(record[name], str) and 1 <= len(record[name]) <= 1024 and record[name].isascii()
    named = {m["Name"] for d in directives for m in d["Metrics"]}
    assert set(record) == named | {"_aws", "model", "version"}, "nothing on the line that it does not declare"


def test_nothing_is_written_unless_it_is_asked_for(page: StatusPage) -> None:
    lines = Lines(page, period_s=0.0)
    assert [lines.at(float(t)) for t in range(0, 1000, 100)] == [[]] * 10


@pytest.mark.contract("12.25")
def test_a_line_a_period_tells_of_that_period_alone(page: StatusPage) -> None:
    lines, front = Lines(page), page.front(0).count
    front[Front.LATENCY + time_bucket(0.5)] = 1000  # before the first period
    assert lines.at(100.0) == [] and lines.at(159.9) == []
    front[Front.LATENCY + time_bucket(0.010)] += 30
    front[Front.ERRORS + NUMBER[Overloaded]], front[Front.ERRORS + NUMBER[BadShape]] = 2, 3
    front[Front.IN_FLIGHT] = 4
    page.main.count[restart_cell("engine", "signal")] = 1
    page.write_verdict(Verdict(True, Reason.READY), 1.0)
    (record,) = lines.at(160.0, headroom_rps=12.345)
    check(record)
    assert record["_aws"]["Timestamp"] == 1_700_000_160_250
    told = {"Requests": 35, "Errors": 2, "RefusedRequests": 3, "ShedRequests": 2, "Restarts": 1, "Ready": 1, "InFlight": 4}
    assert {name: record[name] for name in told} == told
    assert record["LatencyP99"] == pytest.approx(10, rel=0.25) and record["HeadroomRequests"] == 12.35
    assert (record["model"], record["version"]) == ("digits", "7")
    (quiet,) = lines.at(220.0)
    check(quiet)
    assert (quiet["Requests"], quiet["Errors"], quiet["Restarts"]) == (0, 0, 0)
    assert "LatencyP99" not in quiet and "HeadroomRequests" not in quiet, "what nobody knows is not there"


def test_a_container_that_is_not_ready_says_so(page: StatusPage) -> None:
    lines = Lines(page)
    lines.at(0.0)
    (record,) = lines.at(60.0)
    assert record["Ready"] == 0


def test_the_judge_of_a_rollout_speaks_to_alarms_and_is_silent_without_one(page: StatusPage) -> None:
    lines, said = Lines(page), []
    lines.at(0.0)
    for i, says in enumerate(RolloutCell):
        page.main.count[Main.ROLLOUT] = says
        (record,) = lines.at(60.0 * (i + 1))
        check(record)
        said.append((record.get("RollbackWanted"), record.get("EvidenceInsufficient")))
    assert said == [(None, None), (0, 0), (0, 1), (1, 0)]


@pytest.mark.contract("12.25")
@pytest.mark.parametrize("text", ["", "\0" * 999, '"\\' * 500, "é" * 999, " "])
def test_the_longest_and_strangest_names_stay_within_the_limits(page: StatusPage, text: str) -> None:
    page.write_text(PLAN_TEXT, {"model": {"name": text, "version": text}})
    page.main.value[Main.SATURATION] = 1 / 3
    lines = Lines(page, namespace=text)
    lines.at(0.0)
    page.front(0).count[Front.LATENCY + time_bucket(0.010)] = 2**60
    (record,) = lines.at(60.0, headroom_rps=1e300 / 3)
    check(record)
    written = line(dict.fromkeys(UNITS, -1.2345678901234567e-300), text, text, text, 1e10)
    assert len(written.encode()) < LINE_BYTES_MAX and "\n" not in written


@pytest.mark.contract("12.25")
def test_a_full_pipe_costs_a_line_and_nothing_else(page: StatusPage) -> None:
    lines = Lines(page)
    lines.at(0.0)
    os.set_blocking(lines.write_fd, False)
    while True:
        try:
            os.write(lines.write_fd, b"x" * 4096)
        except BlockingIOError:
            break
    lines.emf.tick(page, 60.0, 60.0, None)
    os.read(lines.read_fd, 1 << 20)
    lines.emf.tick(page, 120.0, 120.0, None)
    assert b"_aws" in os.read(lines.read_fd, 1 << 20)


def test_a_successor_goes_on_from_the_last_line_so_that_each_request_is_in_exactly_one(page: StatusPage, tmp_path: Path) -> None:
    cell, front = Front.LATENCY + time_bucket(0.01), page.front(0).count
    first, told = Lines(page, saved=tmp_path / "emf.json"), 0
    first.at(100.0)
    for now_s in (160.0, 220.0):
        front[cell] += 30
        told += first.at(now_s)[0]["Requests"]
    front[cell] += 7  # in the period in which the first one dies
    successor = Lines(page, saved=tmp_path / "emf.json")
    assert successor.at(250.0) == [], "the period is not over"
    front[cell] += 5
    (record,) = successor.at(281.0)
    assert record["Requests"] == 12 and told == 60
    late = Lines(page, saved=tmp_path / "emf.json")
    assert late.at(1000.0)[0]["Requests"] == 0, "at once, for its period is over long since"


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"at_s": 1}'])
def test_what_was_saved_and_cannot_be_read_begins_a_period_anew(page: StatusPage, tmp_path: Path, text: str) -> None:
    (tmp_path / "emf.json").write_text(text)
    lines = Lines(page, saved=tmp_path / "emf.json")
    assert lines.at(100.0) == [] and len(lines.at(160.0)) == 1


def test_a_folder_that_cannot_be_written_to_costs_no_line(page: StatusPage, tmp_path: Path) -> None:
    lines = Lines(page, saved=tmp_path / "missing" / "emf.json")
    assert lines.at(100.0) == [] and len(lines.at(160.0)) == 1 and len(lines.at(220.0)) == 1
