"""The protocol `rest-json`: parameters are in the path, in headers and in the body; the path tells the operation."""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from urllib.parse import unquote

import orjson

from evenkeel.endpoint.wire.api_errors import ApiError
from evenkeel.endpoint.wire.api_model import SCALARS, ApiModel, Operation
from evenkeel.endpoint.wire.http_records import HttpAnswer, HttpCall
from evenkeel.endpoint.wire.json_protocol import decoded
from evenkeel.endpoint.wire.json_values import Values, read, write


def find(model: ApiModel, method: str, path: str) -> Operation | None:
    fitting = (o for o in model.operations.values() if o.method == method and _template(o.path).fullmatch(path))
    return next(fitting, None)


def parse(model: ApiModel, operation: Operation, call: HttpCall) -> Values:
    """Raises ApiError where a part is of a wrong type. The path must fit the operation's."""
    if operation.takes is None:
        return {}
    shape = model.shape(operation.takes)
    found = _template(operation.path).fullmatch(call.path)
    assert found, f"{call.path} is no path of {operation.name}"
    values: Values = {}
    for member in shape.members:
        if member.location == "uri":
            values[member.name] = unquote(found[member.location_name])
        elif member.location == "header":
            text = call.headers.get(member.location_name.lower())
            if text is not None:
                values[member.name] = read(model, member.shape, _of_text(model, member.shape, text), member.name)
        elif member.name == shape.payload:
            is_blob = model.shape(member.shape).kind == "blob"
            values[member.name] = call.body if is_blob else read(model, member.shape, decoded(call.body))
    if not shape.payload and any(not m.location for m in shape.members):
        values |= read(model, operation.takes, decoded(call.body))
    return values


def answer(model: ApiModel, operation: Operation, values: Values) -> HttpAnswer:
    headers: dict[str, str] = {}
    if operation.gives is None:
        return HttpAnswer(200)
    shape = model.shape(operation.gives)
    body: dict[str, Any] | bytes = {}
    for member in shape.members:
        value = values.get(member.name)
        if value is None:
            continue
        if member.location == "header":
            headers[member.location_name.lower()] = str(value)
        elif member.name == shape.payload and not model.shape(member.shape).is_event_stream:
            body = value if isinstance(value, bytes) else write(model, member.shape, value)
        elif not member.location and isinstance(body, dict):
            body[member.location_name] = write(model, member.shape, value)
    if isinstance(body, bytes):
        return HttpAnswer(200, body, headers)
    return HttpAnswer(200, orjson.dumps(body), {"content-type": "application/json", **headers})


def error(problem: ApiError) -> HttpAnswer:
    body: dict[str, object] = {"Message": problem.message, **problem.members}
    headers = {"content-type": "application/json", "x-amzn-errortype": problem.code}
    return HttpAnswer(problem.status, orjson.dumps(body), headers)


def _of_text(model: ApiModel, name: str, text: str) -> object:
    """A header is text; what its shape says is a number or a truth is one."""
    kind = model.shape(name).kind
    assert kind in SCALARS, f"{name} cannot be in a header"
    if kind in ("integer", "long", "float", "double", "boolean"):
        try:
            return orjson.loads(text.lower() if kind == "boolean" else text)
        except orjson.JSONDecodeError:
            return text
    return text


@cache
def _template(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", path)
    return re.compile("".join(re.escape(part) if n % 2 == 0 else f"(?P<{part}>[^/]*)" for n, part in enumerate(parts)))
