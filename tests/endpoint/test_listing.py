"""Lists: filters, order and pages."""

from __future__ import annotations

import pytest

from evenkeel.endpoint.control.listing import page
from evenkeel.endpoint.wire.api_errors import ApiError

ROWS = [{"N": f"n{i:02d}", "CreationTime": float(i), "S": "Up" if i % 2 else "Down"} for i in range(25)]


def names(**params: object) -> list[str]:
    return [row["N"] for row in page(ROWS, params, "N", "S")[0]]


def test_the_newest_come_first_ten_a_page_until_the_end() -> None:
    found, token = [], None
    for size in (10, 10, 5):
        rows, token = page(ROWS, {"NextToken": token} if token else {}, "N", "S")
        assert len(rows) == size
        found += [row["N"] for row in rows]
    assert token is None and found == [f"n{i:02d}" for i in range(24, -1, -1)]


def test_filters_hold_together() -> None:
    assert names(NameContains="N0", StatusEquals="Up", CreationTimeAfter=2.0, CreationTimeBefore=8.0) == ["n07", "n05", "n03"]
    assert names(SortBy="Name", SortOrder="Ascending", MaxResults=2) == ["n00", "n01"]


@pytest.mark.parametrize("token", ["x", "-1", "1e3", "9" * 20, ""])
def test_a_token_of_somebody_else_is_refused(token: str) -> None:
    with pytest.raises(ApiError, match="NextToken"):
        page(ROWS, {"NextToken": token}, "N", "S")
