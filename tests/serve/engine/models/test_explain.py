"""What an engine says of itself: always a text that fits, with the most important kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from evenkeel.serve.batching.cost import CostModel, Curve, supposed
from evenkeel.serve.contract.shape_uses import from_json
from evenkeel.serve.contract.status_page import TEXT_BYTES, StatusPage
from evenkeel.serve.engine.models.explain import SHAPES_SHOWN, Explanation, batching, fitting, is_news, shapes_in_use
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.startup import Ledger
from evenkeel.serve.engine.models.warmup_report import Report, WarmupEntry
from tests.support.models import replica, signature, spec

FREE = signature([spec("x", "n")], [spec("y", "n")])


@pytest.fixture
def page() -> Iterator[StatusPage]:
    page = StatusPage.create()
    yield page
    os.close(page.fd)


def test_a_text_that_is_too_long_loses_the_ends_of_its_lists_and_nothing_else() -> None:
    plan = [{"key": "x" * 50, "rows": n, "runs": 10, "seconds": 0.1, "converged": True} for n in range(500)]
    parts = {"model": {"name": "m"}, "warmup": {"plan": plan, "notes": []}, "startup": {"total_s": 1.0}}
    told = fitting(parts)
    assert len(json.dumps(told)) <= TEXT_BYTES - 16
    assert told["model"] == {"name": "m"} and told["startup"] == {"total_s": 1.0}
    assert told["warmup"]["plan"] == plan[: len(told["warmup"]["plan"])] and told["warmup"]["plan"]
    assert len(plan) == 500, "what is kept for the next text is untouched"


def test_a_failure_is_told_with_its_reason_and_what_had_been_warmed(page: StatusPage) -> None:
    explanation = Explanation(page, 3, Ledger())
    explanation.loaded(replica(FREE))
    explanation.failed("golden_failed", "golden check failed: sample a", Report(plan=[WarmupEntry("8", 1, 9, 0.1, True)]))
    told = page.read_text(3)
    assert told["failure"] == {"reason": "golden_failed", "message": "golden check failed: sample a"}
    assert told["warmup"]["plan"][0]["key"] == "8" and told["model"]["name"] == "scripted" and told["startup"]["total_s"] >= 0


def test_the_fingerprint_may_come_before_or_after_the_rest(page: StatusPage) -> None:
    explanation = Explanation(page, 0, Ledger())
    explanation.fingerprint("ab" * 32)
    explanation.loaded(replica(FREE))
    assert page.read_text(0)["model"]["sha256"] == "ab" * 32
    explanation.fingerprint("cd" * 32)
    told = page.read_text(0)["model"]
    assert (told["name"], told["sha256"]) == ("scripted", "cd" * 32)


def test_shapes_in_use_are_those_that_ran_the_most_used_first_and_bounded() -> None:
    made = replica(FREE, free_rows=False)
    for n in range(1, SHAPES_SHOWN + 9):
        for _ in range(n):
            made.cost.observe(((n,),), 3, 0.001)
    made.cost.curve(((999,),))  # known from warm-up, never run
    found = shapes_in_use(made)
    assert len(found) == SHAPES_SHOWN
    assert found[0].dims == ((SHAPES_SHOWN + 8,),) and found[0].runs == ((4, SHAPES_SHOWN + 8),)


def test_shapes_are_published_when_they_have_changed_in_the_form_of_the_shape_log(page: StatusPage) -> None:
    made, explanation = replica(FREE, free_rows=False), Explanation(page, 0, Ledger())
    explanation.shapes(made)
    assert "shapes" not in page.read_text(0)
    made.cost.observe(((5,),), 1, 0.001)
    explanation.shapes(made)
    assert [use.dims for use in from_json(page.read_text(0)["shapes"])] == [((5,),)]


# What batches cost ------------------------------------------------------------------------------------------------------


def unmeasured(rows_max: int) -> Replica:
    made = replica(FREE)
    made.rows_max, made.signature = rows_max, None
    made.cost = CostModel(default=supposed(rows_max))
    return made


@pytest.mark.parametrize("rows_max", [1, 48])
def test_a_cost_that_was_only_supposed_is_told_to_nobody(rows_max: int) -> None:
    told = batching(unmeasured(rows_max))
    assert (told["learned"], told["learned_in"], told["chosen_rows"]) == ([], "nothing", 1)
    assert told["why"] == "what a batch costs is not measured yet: nothing has run"


def test_a_handler_learns_in_service_what_a_request_costs() -> None:
    made = unmeasured(1)
    for _ in range(20):
        made.cost.observe((), 1, 0.052)
    told = batching(made)
    assert [(step["rows"], step["seconds"]) for step in told["learned"]] == [(1, pytest.approx(0.052))]
    assert told["learned_in"] == "service" and told["why"] == "learned in service: one at a time: 52 ms each"


def test_only_sizes_that_have_run_are_told() -> None:
    made = unmeasured(48)
    for rows, took_s in [(1, 0.010), (7, 0.014), (48, 0.040)] * 30:
        made.cost.observe((), rows, took_s)
    told = batching(made)
    assert [step["rows"] for step in told["learned"]] == [1, 8, 48]
    assert told["chosen_rows"] in (8, 48) and told["learned_in"] == "service"
    assert told["learned"][0]["seconds"] == pytest.approx(0.010, rel=0.2)
    assert told["learned"][2]["seconds"] == pytest.approx(0.040, rel=0.2)


def test_what_was_measured_in_warm_up_is_told_as_that() -> None:
    made = replica(FREE)
    made.cost.learn(((3,),), [(1, 0.001), (2, 0.001)])
    assert batching(made)["learned_in"] == "warmup" and len(batching(made)["learned"]) == 2


def test_a_handler_warmed_on_a_sample_is_followed_in_service() -> None:
    made = unmeasured(1)
    made.cost = CostModel(default=Curve([1], [0.001]))
    for _ in range(100):
        made.cost.observe((), 1, 0.010)
    assert batching(made)["learned"][0]["seconds"] == pytest.approx(0.010, rel=0.1)


def test_costs_are_told_again_when_they_have_clearly_changed(page: StatusPage) -> None:
    made, explanation = unmeasured(1), Explanation(page, 0, Ledger())
    explanation.warmed(made, Report())
    assert page.read_text(0)["batching"]["learned"] == []
    made.cost.observe((), 1, 0.5)
    explanation.costs(made)
    assert page.read_text(0)["batching"]["learned"][0]["seconds"] == pytest.approx(0.5)
    assert not is_news([{"rows": 1, "seconds": 0.5}], [{"rows": 1, "seconds": 0.52}])
    assert is_news([{"rows": 1, "seconds": 0.5}], [{"rows": 1, "seconds": 0.6}])
