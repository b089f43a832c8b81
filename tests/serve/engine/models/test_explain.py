"""What an engine says of itself: always a text that fits, with the most important kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from evenkeel.serve.contract.shape_uses import from_json
from evenkeel.serve.contract.status_page import TEXT_BYTES, StatusPage
from evenkeel.serve.engine.models.explain import SHAPES_SHOWN, Explanation, fitting, shapes_in_use
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
