"""A batch that failed is halved until the bad request stands alone. Pure."""

from __future__ import annotations

from evenkeel.serve.batching.item import Segment
from evenkeel.serve.engine.cycle.row_table import RowTable

Halves = tuple[list[Segment], list[Segment]]


def halves(segments: list[Segment]) -> Halves | None:
    """Two smaller batches, or None when this is a single request. Parts of one plain request stay together."""
    if len(segments) > 1:
        middle = len(segments) // 2
        return segments[:middle], segments[middle:]
    item, start, rows = segments[0]
    if isinstance(item, RowTable) and rows > 1:
        return [Segment(item, start, rows // 2)], [Segment(item, start + rows // 2, rows - rows // 2)]
    return None


def parts(segment: Segment) -> Halves | None:
    """The rows of one request as two batches: it can only be too large, and its rows need not run together."""
    item, start, rows = segment
    half = rows // 2
    return ([Segment(item, start, half)], [Segment(item, start + half, rows - half)]) if half else None
