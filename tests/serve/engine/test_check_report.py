"""What a check prints of a model."""

from __future__ import annotations

from evenkeel.serve.engine.check_report import checks
from evenkeel.serve.engine.models.golden import Golden
from evenkeel.serve.engine.models.warmup_report import Report


def test_a_check_says_what_was_compared_with_what() -> None:
    assert checks(Report(1, golden=Golden(checked=5, passed=5, outputs=1, batches=3))) == (
        "1 answers with expected outputs, 3 batches with their rows, 1 answers for NaN"
    )
    assert checks(Report(1)) == "none, since its samples have no outputs"
