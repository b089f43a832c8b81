"""What benchmarks/gpu.py makes of what it measured. Its whole story runs by `python -m benchmarks.gpu --dry-run`."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from benchmarks.gpu import Load, Row, Run, alone, ask, best_rate, fault, markdown, quantile, speed, together

RATES = {"1": {"1": 100.0, "8": 1000.0}}


def test_what_was_not_measured_stays_blank() -> None:
    rows = [speed("cnn", None, None), alone("cnn", None, 0.001), fault("kill -9", None, None)]
    assert [(r.measured, r.met) for r in rows] == [(None, None)] * 3
    text = markdown("GPU", [("card", "H200")], rows, ["cnn: no time was left"])
    assert "| cnn, many connections |  |  | at least 0.90 of it |  |" in text and "- cnn: no time was left" in text


def test_a_bar_is_met_by_measurement_alone() -> None:
    load = Load(seconds=2.0, units=1800, right=1800, latency_s=[0.01] * 1800)
    assert speed("cnn", load, RATES).met is True, "900 of 1000"
    assert speed("cnn", Load(seconds=2.0, units=1790, latency_s=[0.01]), RATES).met is False
    assert speed("cnn", load, None).met is None, "beside nothing it says nothing"
    assert speed("encoder", Load(seconds=2.0, units=1800, latency_s=[0.06]), RATES).met is False, "too late"


def test_mixed_lengths_are_weighted_by_their_words_at_their_best_batches() -> None:
    assert best_rate({"10": {"1": 10.0, "8": 100.0}, "30": {"8": 300.0}}) == pytest.approx(40 / (0.1 + 0.1))


def test_one_request_may_take_the_bare_models_time_and_a_little() -> None:
    assert alone("cnn", Load(latency_s=[0.00125]), 0.001).met is True
    assert alone("cnn", Load(latency_s=[0.00135]), 0.001).met is False


def test_a_fault_counts_what_was_lost_but_for_the_poison_itself() -> None:
    assert fault("assert", Load(right=99, lost=1), 3.0, mine=1).met is True
    assert fault("assert", Load(right=99, lost=1), 3.0).met is False
    assert fault("assert", Load(right=99), 11.0).met is False
    assert fault("assert", Load(right=99), None).met is None, "it never came back, as far as was seen"


def test_clients_that_ran_together_add_up() -> None:
    found = together([Load(2.0, 10, 10, 1, 0, [0.1], 0.5), Load(2.1, 5, 5, 0, 2, [0.3], 0.2)])
    assert (found.seconds, found.units, found.refused, found.lost, found.longest_gap_s) == (2.1, 15, 1, 2, 0.5)
    assert quantile(found.latency_s, 0.99) == 0.3 and quantile([], 0.5) is None


def test_an_answer_is_read_however_it_is_cut() -> None:
    ours, theirs = socket.socketpair()

    def reply() -> None:
        for byte in b"HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nabc":
            theirs.send(bytes((byte,)))

    thread = threading.Thread(target=reply)
    thread.start()
    assert ask(ours, b"x") == (503, b"abc")
    thread.join()
    theirs.close()
    with pytest.raises(OSError):
        ask(ours, b"x")
    ours.close()


def test_a_stage_that_fails_is_noted_and_the_rest_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path, tiny=True, end_s=float("inf"), processes=1)

    def fails() -> None:
        raise RuntimeError("no card")

    assert run.stage("cnn: bare", fails) is None and run.notes == ["cnn: bare: RuntimeError: no card"]
    run.end_s = 0.0
    assert run.stage("cnn: served", lambda: 1) is None and run.notes[-1] == "cnn: served: no time was left"


def test_the_table_names_the_bare_models_own_figure() -> None:
    assert "| x | 1 | 2 | b | **no** |" in markdown("t", [], [Row("x", "1", "2", "b", False)], [])
