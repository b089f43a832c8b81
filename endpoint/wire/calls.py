"""From an HTTP call to an operation with checked parameters, and back: which service is meant, in which protocol it speaks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from evenkeel.endpoint.wire import json_protocol, query_protocol, rest_json
from evenkeel.endpoint.wire.api_errors import NOT_SUPPORTED, ApiError, fail
from evenkeel.endpoint.wire.api_model import ApiModel, Operation, load
from evenkeel.endpoint.wire.constraints import check
from evenkeel.endpoint.wire.http_records import HttpAnswer, HttpCall
from evenkeel.endpoint.wire.json_values import Values
from evenkeel.endpoint.wire.supported import RUNTIME, SERVICES, Service, listed

FORM = "application/x-www-form-urlencoded"
SCOPE = re.compile(r"Credential=[^/,]+/\d{8}/([\w-]+)/([\w-]+)/aws4_request")
PRESIGNED = re.compile(r"X-Amz-Credential=[^&]+?%2F\d{8}%2F([\w-]+)%2F([\w-]+)%2Faws4_request")
SIGNED_AS_BEFORE = "AWSAccessKeyId="  # links of S3 are still signed by the version before, 2
INVALID = {"json": "ValidationException", "rest-json": "ValidationError", "query": "ValidationError"}
NAME_CHARS_MAX = 128  # of an unknown operation in a message


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which operation a call asks for."""

    model: ApiModel
    operation: Operation


def wanted(call: HttpCall) -> Wanted:
    """Raises ApiError, with the list of what is supported, where nothing of it is meant."""
    if target := call.headers.get("x-amz-target"):
        prefix, _, name = target.rpartition(".")
        for service in SERVICES:
            if service.protocol == "json" and load(service).target_prefix == prefix:
                return _named(service, name)
        raise _refused(target)
    if (operation := rest_json.find(load(RUNTIME), call.method, call.path)) is not None:
        return Wanted(load(RUNTIME), operation)
    if call.headers.get("content-type", "").partition(";")[0].strip() == FORM:
        name = query_protocol.form(call).get("Action", "")
        signing = signing_name(call)
        for service in SERVICES:
            if service.protocol == "query" and service.signing == signing:
                return _named(service, name)
        raise _refused(f"{signing or 'a service that is not named'}: {name}")
    raise _refused(f"{signing_name(call) or 'a service that is not named'}: {call.method} {call.path}")


def parameters(wanted: Wanted, call: HttpCall) -> Values:
    """Raises ApiError where they break a constraint of the model."""
    model, operation = wanted.model, wanted.operation
    parse = {"json": json_protocol.parse, "rest-json": rest_json.parse, "query": query_protocol.parse}[model.service.protocol]
    values = parse(model, operation, call)
    if operation.takes is not None:
        check(model, operation.takes, values, INVALID[model.service.protocol])
    return values


def answered(wanted: Wanted, values: Values) -> HttpAnswer:
    write = {"json": json_protocol.answer, "rest-json": rest_json.answer, "query": query_protocol.answer}
    return write[wanted.model.service.protocol](wanted.model, wanted.operation, values)


def refused(problem: ApiError, call: HttpCall) -> HttpAnswer:
    """In the protocol of the call, so that every client reads it as an error of its own."""
    if "x-amz-target" in call.headers:
        version = "1.0" if "json-1.0" in call.headers.get("content-type", "") else "1.1"
        return json_protocol.error(problem, version)
    if call.headers.get("content-type", "").startswith(FORM):
        return query_protocol.error(problem)
    return rest_json.error(problem)


def signing_name(call: HttpCall) -> str:
    """The service in the scope of the call's signature, or nothing. Signatures are not checked."""
    found = SCOPE.search(call.headers.get("authorization", "")) or PRESIGNED.search(call.query)
    return found[2] if found else "s3" if SIGNED_AS_BEFORE in call.query else ""


def _named(service: Service, name: str) -> Wanted:
    model = load(service)
    if name not in model.operations:
        raise _refused(f"{service.folder}: {name}")
    return Wanted(model, model.operations[name])


def _refused(what: str) -> ApiError:
    return fail(NOT_SUPPORTED, what=what[:NAME_CHARS_MAX], supported=listed())
