"""A short run of `make fuzz`, the same every time."""

from __future__ import annotations

import pytest

from tests.fuzz.run import find
from tests.fuzz.targets import TARGETS, Target

SEED, EXAMPLES = 7, 40


@pytest.mark.parametrize("name", TARGETS)
def test_odd_bytes_end_in_a_value_or_in_a_refusal_of_ours(name: str) -> None:
    finding = find(TARGETS[name], SEED, EXAMPLES)
    assert finding is None, str(finding)


def test_a_finding_is_told_with_the_smallest_input_that_shows_it() -> None:
    def check(data: bytes) -> None:
        assert b"\xff" not in data

    finding = find(Target(check, (b"abc",), (b"\xff",)), SEED, 200)
    assert finding is not None and b"\xff" in finding.data and len(finding.data) <= 4, finding
    assert "AssertionError" in str(finding) and repr(finding.data) in str(finding)
