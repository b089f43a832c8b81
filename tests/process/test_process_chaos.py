"""The short form of `make chaos`: a few faults of each important kind, and not one request may be lost to them.

Payloads are unique and every reply is compared with its own, by a client in a process of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos import Outcome, markdown, run_case
from benchmarks.chaos_cases import (
    CRASHES,
    QUIET,
    SOME_SLOW,
    TWO,
    TWO_FRONTS,
    Case,
    Stage,
    another_sidecar,
    cut_connections,
    first_front,
    fronts_serve,
    kill,
    kill_engines,
    sidecar_pid,
    stop_and_route_away,
    until_injected,
)  # fmt: skip
from benchmarks.chaos_hostile import DEFAULTS, connect_by_the_hundred, poison_and_retry
from benchmarks.load import Failure, Tally
from tests.support.tree import Tree


def of_two(stage: Stage) -> None:
    kill_engines(4)(stage)
    kill(sidecar_pid, 1, another_sidecar)(stage)


SHORT = (
    Case("engine, 1 replica", kill_engines(2), settings=SOME_SLOW),
    Case("engines and sidecar, 2 replicas", of_two, settings=TWO),
    Case("front worker", kill(first_front, 2, fronts_serve), cut_connections, TWO_FRONTS),
    Case("stop", stop_and_route_away, settings=QUIET, ends=True),
    Case("crash on purpose", until_injected("crash", 2, 0), settings=CRASHES),
    Case("burst of connections", connect_by_the_hundred(2), settings=DEFAULTS),
    Case("poison, and retries", poison_and_retry(1), settings=DEFAULTS, model="handler"),
)


@pytest.mark.parametrize("case", SHORT, ids=lambda c: c.name)
def test_a_fault_costs_no_request(case: Case, tmp_path: Path) -> None:
    outcome = run_case(case, 0.0, tmp_path, seed=5, rounds_max=1)
    assert outcome.holds, markdown([outcome], [], "chaos-short")
    assert outcome.injected >= 1 and outcome.right > 100


# The judge itself -----------------------------------------------------------------------------------------------------


def judged(case: Case, *failures: Failure, injected_s: float = 10.0) -> Outcome:
    outcome, stage = Outcome(case), Stage.__new__(Stage)
    stage.injected_s, stage.noticed_s = [injected_s], []
    outcome.add(stage, Tally(sent=100, right=100 - len(failures), failed=len(failures), failures=list(failures)))
    return outcome


def test_only_connections_that_were_open_to_a_killed_front_are_explained() -> None:
    case = SHORT[2]
    assert judged(case, Failure("closed", opened_s=9.0, sent_s=9.9, failed_s=10.01)).holds
    for lost in (
        Failure("closed", opened_s=10.5, sent_s=10.6, failed_s=10.7),
        Failure("closed", opened_s=9.0, sent_s=9.8, failed_s=9.9),
        Failure("closed", opened_s=9.0, sent_s=9.8, failed_s=13.0),
        Failure("no connection", opened_s=10.1, sent_s=10.1, failed_s=10.2),
        Failure("503 not_ready", opened_s=9.0, sent_s=9.9, failed_s=10.1),
    ):
        outcome = judged(case, lost)
        assert not outcome.holds and outcome.lost == {lost.kind: 1}


def test_an_answer_to_somebody_else_is_never_explained() -> None:
    for case in SHORT:
        outcome = judged(case, Failure("wrong", opened_s=9.0, sent_s=9.9, failed_s=10.01))
        assert outcome.wrong == 1 and not outcome.holds


def test_a_hang_that_is_noticed_too_late_fails_the_case() -> None:
    outcome = Outcome(Case("hang", lambda stage: None, bound_s=5.0), noticed_s=[4.9])
    assert outcome.holds
    outcome.noticed_s.append(5.1)
    assert not outcome.holds


def test_a_load_meets_a_model_that_answers_wrong_and_says_so(tmp_path: Path) -> None:
    """The proof that the proof can fail: one batch in ten holds a NaN, and no such answer counts as right."""
    case = Case("nan", lambda stage: stage.pause(), settings={"EVENKEEL_FAULTS": "nan:every=10"})
    outcome = run_case(case, 0.0, tmp_path, seed=5, rounds_max=1)
    assert not outcome.holds and outcome.right > 0
    assert sum(outcome.lost.values()) + outcome.wrong > 0, "JSON cannot carry NaN and NPY carries another answer"


def test_a_wrong_fault_stops_the_start_and_a_right_one_is_shown(tmp_path: Path) -> None:
    tree = Tree("echo", EVENKEEL_FAULTS="crash:every=0")
    assert tree.process.wait(60) == 1
    assert tree.err.read_text().count("\n") == 1 and "EVENKEEL_FAULTS" in tree.err.read_text()
    tree.kill()
    tree = Tree("echo", EVENKEEL_FAULTS="crash:at=900").wait_ready()
    status = tree.status()
    assert status["fault_injection"] == status["replicas"][0]["facts"]["faults"] == "crash:at=900"
    (told,) = tree.events("faults_on")
    assert told["level"] == "warning" and told["faults"] == "crash:at=900"
    tree.stop()
