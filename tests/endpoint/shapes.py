"""Values that fit the shapes of a model, made at random. Patterns are left aside: what they allow says nothing about the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from evenkeel.endpoint.wire.api_model import ApiModel

LENGTH_MAX = 6
DEPTH_MAX = 4
TEXT = st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cc"))
HEADER_TEXT = st.characters(min_codepoint=33, max_codepoint=126)
MOMENTS = st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1000)


def values(model: ApiModel, name: str, depth: int = 0, is_header: bool = False) -> st.SearchStrategy[Any]:
    """Timestamps are seconds since 1970."""
    shape = model.shape(name)
    low, high = int(shape.least or 0), shape.most
    most = int(min(high if high is not None else LENGTH_MAX, max(low, LENGTH_MAX)))
    if shape.kind == "structure":
        return _structures(model, name, depth)
    if shape.kind == "list":
        if depth > DEPTH_MAX:
            most = low
        return st.lists(values(model, shape.element, depth + 1), min_size=low, max_size=min(most, max(low, 2)))
    if shape.kind == "map":
        keys = st.text(TEXT, min_size=1, max_size=8)
        return st.dictionaries(keys, values(model, shape.value, depth + 1), min_size=low, max_size=max(low, 2))
    if shape.choices:
        return st.sampled_from(shape.choices)
    if shape.kind == "string":
        return st.text(HEADER_TEXT if is_header else TEXT, min_size=max(low, 1 if is_header else 0), max_size=max(most, 1))
    if shape.kind in ("integer", "long"):
        return st.integers(int(shape.least or -(2**31)), int(high if high is not None else 2**31 - 1))
    if shape.kind in ("float", "double"):
        return st.floats(shape.least, high, allow_nan=False, allow_infinity=False, width=32 if shape.kind == "float" else 64)
    return {"boolean": st.booleans(), "timestamp": MOMENTS, "blob": st.binary(max_size=64)}[shape.kind]


def _structures(model: ApiModel, name: str, depth: int) -> st.SearchStrategy[dict[str, Any]]:
    shape = model.shape(name)

    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        made = {}
        for member in shape.members:
            if model.shape(member.shape).is_event_stream:
                continue
            if member.name in shape.required or (depth <= DEPTH_MAX and draw(st.booleans())):
                made[member.name] = draw(values(model, member.shape, depth + 1, bool(member.location)))
        return made

    return build()


def with_dates(model: ApiModel, name: str, value: Any) -> Any:
    """The same as the SDK wants it: timestamps are datetimes."""
    shape = model.shape(name)
    if shape.kind == "structure":
        return {k: with_dates(model, shape.member(k).shape, v) for k, v in value.items()}
    if shape.kind == "list":
        return [with_dates(model, shape.element, v) for v in value]
    if shape.kind == "map":
        return {k: with_dates(model, shape.value, v) for k, v in value.items()}
    return datetime.fromtimestamp(value, UTC) if shape.kind == "timestamp" else value


def without_dates(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_dates(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_dates(v) for v in value]
    return round(value.timestamp(), 3) if isinstance(value, datetime) else value
