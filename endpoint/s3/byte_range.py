"""The header Range, of which S3 takes one span. Pure."""

from __future__ import annotations

import re

from evenkeel.endpoint.wire.api_errors import S3_BAD_RANGE, fail

SPAN = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def wanted_range(header: str, size: int) -> tuple[int, int]:
    """Start and end, the end left out. What is no such span counts as none, as S3 has it. Raises ApiError beyond the end."""
    found = SPAN.fullmatch(header.replace(" ", ""))
    if found is None or found[0] == "bytes=-":
        return 0, size
    first, last = found[1], found[2]
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= size or end <= start:
        raise fail(S3_BAD_RANGE, header=header[:64], size=size)
    return start, end
