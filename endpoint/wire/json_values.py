"""Values of the JSON protocols by the shapes of a model: what a client sent becomes plain values, and plain values become JSON.

A timestamp is a number of seconds since 1970, a blob is bytes. What a shape does not name is left out, as AWS does.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from evenkeel.endpoint.wire.api_errors import MALFORMED, ApiError, fail
from evenkeel.endpoint.wire.api_model import ApiModel, ModelShape

Values = dict[str, Any]  # parameters or a reply, by their names in the model
WHOLE = ("integer", "long")
REAL = ("float", "double")
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
LONGEST_TIME_CHARS = 64


def read(model: ApiModel, name: str, value: object, where: str = "") -> Any:
    """Raises ApiError where the value is of another type than its shape."""
    shape = model.shape(name)
    if shape.kind == "structure":
        given = _must_be(dict, value, where, shape)
        return {
            m.name: read(model, m.shape, given[m.location_name], f"{where}.{m.name}".lstrip("."))
            for m in shape.members if given.get(m.location_name) is not None
        }  # fmt: skip
    if shape.kind == "list":
        elements = enumerate(_must_be(list, value, where, shape))
        return [read(model, shape.element, v, f"{where}[{i}]") for i, v in elements if v is not None]
    if shape.kind == "map":
        given = _must_be(dict, value, where, shape)
        return {k: read(model, shape.value, v, f"{where}.{k}") for k, v in given.items() if v is not None}
    return _scalar(shape, value, where)


def write(model: ApiModel, name: str, value: Any) -> Any:
    """What JSON holds of it. Members that are None are left out."""
    shape = model.shape(name)
    if shape.kind == "structure":
        return {m.location_name: write(model, m.shape, value[m.name]) for m in shape.members if value.get(m.name) is not None}
    if shape.kind == "list":
        return [write(model, shape.element, v) for v in value]
    if shape.kind == "map":
        return {k: write(model, shape.value, v) for k, v in value.items()}
    if shape.kind == "blob":
        return base64.b64encode(value).decode()
    if shape.kind in REAL and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _must_be(kind: type, value: object, where: str, shape: ModelShape) -> Any:
    if not isinstance(value, kind):
        raise _wrong(value, where, shape)
    return value


def _wrong(value: object, where: str, shape: ModelShape) -> ApiError:
    return fail(MALFORMED, what=f"{where or 'the body'} must be of the type {shape.kind}, and {type(value).__name__} was sent")


def _scalar(shape: ModelShape, value: object, where: str) -> Any:
    if isinstance(value, {"string": str, "boolean": bool}.get(shape.kind, ())):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        if shape.kind in WHOLE and value == math.trunc(value):
            return int(value)
        if shape.kind in REAL:
            return float(value)
    if shape.kind in REAL and isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    if shape.kind == "timestamp":
        return timestamp(value, where, shape)
    if shape.kind == "blob" and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            raise fail(MALFORMED, what=f"{where} is not base64") from None
    raise _wrong(value, where, shape)


def timestamp(value: object, where: str, shape: ModelShape) -> float:
    """Seconds since 1970, from a number of them or from ISO 8601."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, str) and len(value) <= LONGEST_TIME_CHARS:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise fail(MALFORMED, what=f"{where} is no time in ISO 8601") from None
        if moment.tzinfo is None:
            raise fail(MALFORMED, what=f"{where} names no time zone")
        return moment.timestamp()
    raise _wrong(value, where, shape)


def known(values: Mapping[str, Any]) -> Values:
    """Without what is None: members that there are not."""
    return {name: value for name, value in values.items() if value is not None}
