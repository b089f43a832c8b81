"""Tags of everything that has an ARN."""

from __future__ import annotations

from collections.abc import Sequence

from evenkeel.endpoint.control.journal_store import Change, JournalStore, Row
from evenkeel.endpoint.wire.api_errors import TOO_MANY_TAGS, fail

TAGS_MAX = 50  # D: AddTags


def tags_of(store: JournalStore, arn: str) -> list[Row]:
    row = store.get("tags", arn) or {}
    return [{"Key": key, "Value": value} for key, value in row.items()]


def tag_changes(store: JournalStore, arn: str, tags: Sequence[Row], without: Sequence[str] = ()) -> tuple[Change, ...]:
    """What to write. Raises ApiError where there would be too many."""
    merged = {**(store.get("tags", arn) or {}), **{tag["Key"]: tag["Value"] for tag in tags}}
    left = {key: value for key, value in merged.items() if key not in without}
    if len(left) > TAGS_MAX:
        raise fail(TOO_MANY_TAGS, limit=TAGS_MAX)
    return (Change("tags", arn, left),) if tags or without else ()
