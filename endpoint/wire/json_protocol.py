"""The protocol `json` (1.0 and 1.1): the operation is in a header, and the body is one JSON object, both ways."""

from __future__ import annotations

import orjson

from evenkeel.endpoint.wire.api_errors import MALFORMED, ApiError, fail
from evenkeel.endpoint.wire.api_model import ApiModel, Operation
from evenkeel.endpoint.wire.http_records import HttpAnswer, HttpCall
from evenkeel.endpoint.wire.json_values import Values, read, write


def parse(model: ApiModel, operation: Operation, call: HttpCall) -> Values:
    """Raises ApiError where the body is no JSON object of the right types."""
    if operation.takes is None:
        return {}
    values: Values = read(model, operation.takes, decoded(call.body))
    return values


def decoded(body: bytes) -> object:
    try:
        return orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as e:
        raise fail(MALFORMED, what=f"the body is not JSON: {e}") from None


def answer(model: ApiModel, operation: Operation, values: Values) -> HttpAnswer:
    body = b"" if operation.gives is None else orjson.dumps(write(model, operation.gives, values))
    return HttpAnswer(200, body, {"content-type": f"application/x-amz-json-{model.json_version}"})


def error(problem: ApiError, json_version: str = "1.1") -> HttpAnswer:
    body = {"__type": problem.code, "message": problem.message, **problem.members}
    headers = {"content-type": f"application/x-amz-json-{json_version}", "x-amzn-errortype": problem.code}
    return HttpAnswer(problem.status, orjson.dumps(body), headers)
