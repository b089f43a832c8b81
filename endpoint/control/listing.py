"""Lists of the API: filters by name, time and status, an order, and pages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evenkeel.endpoint.wire.api_errors import ApiError

PAGE = 10  # MaxResults where none is given (D: ListEndpoints)
Row = Mapping[str, Any]


def page(rows: Iterable[Row], params: Row, name: str, status: str = "") -> tuple[list[Row], str | None]:
    """The rows of this page, and the NextToken. `name` and `status` are what the rows call theirs.

    Raises ApiError where the token is none of ours.
    """
    fitting = [row for row in rows if _fits(row, params, name, status)]
    key = {"Name": name, "Status": status}.get(params.get("SortBy", ""), "CreationTime")
    fitting.sort(key=lambda row: (row.get(key) or 0, row[name]), reverse=params.get("SortOrder", "Descending") == "Descending")
    start = _start(params.get("NextToken"))
    end = start + params.get("MaxResults", PAGE)
    return fitting[start:end], str(end) if end < len(fitting) else None


def _fits(row: Row, params: Row, name: str, status: str) -> bool:
    created, modified = row["CreationTime"], row.get("LastModifiedTime", row["CreationTime"])
    return (
        params.get("NameContains", "").lower() in row[name].lower()
        and created < params.get("CreationTimeBefore", float("inf"))
        and created > params.get("CreationTimeAfter", float("-inf"))
        and modified < params.get("LastModifiedTimeBefore", float("inf"))
        and modified > params.get("LastModifiedTimeAfter", float("-inf"))
        and params.get("StatusEquals", row.get(status)) == row.get(status)
    )


def _start(token: str | None) -> int:
    if token is None:
        return 0
    if not (token.isascii() and token.isdigit() and len(token) < 9):
        raise ApiError("ValidationException", 400, "Invalid NextToken: it is none that a list gave.")
    return int(token)
