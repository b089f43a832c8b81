"""What /openapi.json says: every route of the data port, the hot path's too, with every answer that it can give.

FastAPI lists its own routes; what they answer, and the two that it never sees, are in the table here.
"""

from __future__ import annotations

import warnings
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from evenkeel.serve import codec
from evenkeel.serve.errors import FAMILIES

Json = dict[str, Any]
VERSION = "1"
DESCRIPTION = "The data port of an evenkeel container: the model, its health, its metrics."
BINARY: Json = {"type": "string", "format": "binary"}
ERROR: Json = {
    "type": "object", "required": ["error"], "additionalProperties": False,
    "properties": {"error": {
        "type": "object", "required": ["code", "message"], "additionalProperties": False,
        "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
    }},
}  # fmt: skip
PARAMETERS: Json = {
    "type": "object", "required": ["MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"], "additionalProperties": False,
    "properties": {
        "MaxConcurrentTransforms": {"type": "integer", "minimum": 1},
        "BatchStrategy": {"enum": ["MULTI_RECORD", "SINGLE_RECORD"]},
        "MaxPayloadInMB": {"type": "integer", "minimum": 1, "maximum": 100},
    },
}  # fmt: skip
# Of a request to the model; the others belong to processes, models and settings, and are never an answer.
REQUEST_HEADERS = {
    "X-Amzn-SageMaker-Custom-Attributes": 1024, "X-Amzn-SageMaker-Inference-Id": 64, "X-Amzn-SageMaker-Accept": 1024,
    "X-Amzn-SageMaker-Target-Model": 1024, "X-Amzn-SageMaker-Target-Variant": 63, "X-Amzn-SageMaker-Session-Id": 256,
}  # fmt: skip
NAMED: Json = {"X-Evenkeel-Model": {"description": "name/version@sha256[:12]", "schema": {"type": "string"}}}
ATTRIBUTES: Json = {"X-Amzn-SageMaker-Custom-Attributes": {
    "description": "what a handler set", "schema": {"type": "string", "maxLength": 1024}}}  # fmt: skip
RETRY: Json = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}
# Of any request, before it is looked at: what is not HTTP, comes too slowly, has too much of a head, or finds no place.
OF_ANY = {"400": "bad_request", "408": "header_timeout, body_timeout", "431": "headers_too_large", "503": "too_many_connections"}
NEVER = ("bad_model", "bad_setting", "cancelled", "not_found", "method_not_allowed")
SUMMARIES = {
    "/metrics": "Metrics in the Prometheus text format", "/execution-parameters": "What batch transform should send",
    "/v2/health/live": "Whether the process lives", "/v2/health/ready": "Whether traffic may come",
    "/v2/models/{name}/ready": "Whether the model may be asked",
    "/v2/models/{name}/versions/{version}/ready": "Whether this version may be asked",
}  # fmt: skip


def described(app: FastAPI) -> Json:
    """The OpenAPI document."""
    document: Json = app.openapi_schema or {}
    if not document:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of FastAPI, about ids that are equal for GET and HEAD: ours take their place
            document = get_openapi(title="evenkeel", version=VERSION, routes=app.routes, description=DESCRIPTION)
        routes = {path: _of_route(path, operations) for path, operations in document["paths"].items()}
        document["paths"] = {"/invocations": {"post": _invocations()}, "/ping": _pings(), **routes}
        document["components"] = {"schemas": {"Error": ERROR, "ExecutionParameters": PARAMETERS}}
        app.openapi_schema = document
    return document


def _answer(what: str, *media: tuple[str, Json]) -> Json:
    return {"description": what, **({"content": {kind: {"schema": schema} for kind, schema in media}} if media else {})}


def _error(what: str) -> Json:
    return _answer(what, ("application/json", {"$ref": "#/components/schemas/Error"}))


def _of_route(path: str, operations: Json) -> Json:
    """With our answers in place of FastAPI's guesses."""
    return {
        method: {
            "summary": SUMMARIES[path], "operationId": _id(method, path), "responses": _responses(path),
            **({"parameters": operation["parameters"]} if "parameters" in operation else {}),
        }
        for method, operation in sorted(operations.items())
    }  # fmt: skip


def _id(method: str, path: str) -> str:
    return f"{method}{path.replace('/', '_').replace('-', '_').replace('{', '').replace('}', '')}"


def _responses(path: str) -> Json:
    if path == "/metrics":
        return {"200": _answer("Samples", ("text/plain", {"type": "string"})), **_of_any()}
    if path == "/execution-parameters":
        good = ("application/json", {"$ref": "#/components/schemas/ExecutionParameters"})
        return {"200": _answer("Parameters", good), **_of_any("No replica is ready yet; too_many_connections")}
    state = ("application/json", {"type": "object"})
    responses = {"200": _answer("Yes", state), **_of_any()}
    if path != "/v2/health/live":
        responses["503"] = _answer("Not now, with the reason; or too_many_connections", state)
    if "{name}" in path:
        responses["404"] = _error("Another model or version than the one served")
    return responses


def _of_any(unready: str = OF_ANY["503"]) -> Json:
    return {status: _error(unready if status == "503" else what) for status, what in OF_ANY.items()}


def _pings() -> Json:
    answers = {"200": _answer("Ready"), **_of_any("Not ready; the code is the reason")}
    return {m: {"summary": "Whether traffic may come", "operationId": f"{m}_ping", "responses": answers}
            for m in ("get", "post", "head")}  # fmt: skip


def _invocations() -> Json:
    kinds = sorted(codec.CODECS)
    body = {kind: {"schema": {} if kind == "application/json" else BINARY} for kind in kinds}
    streamed = {"text/event-stream": {"schema": BINARY}}
    good = {"description": "The prediction, in the format of Accept or else of the request; a handler may give any other type, "
                           "or stream", "headers": NAMED | ATTRIBUTES,
            "content": {**body, **streamed, "*/*": {"schema": {}}}}  # fmt: skip
    by_status: dict[int, list[str]] = {}
    for family in FAMILIES:
        if family.code not in NEVER and family.code not in by_status.setdefault(family.status, []):
            by_status[family.status].append(family.code)
    errors = {str(status): {**_error(", ".join(codes)), "headers": NAMED | (RETRY if status in (429, 503) else {})}
              for status, codes in sorted(by_status.items()) if codes}  # fmt: skip
    return {
        "summary": "Ask the model", "operationId": "post_invocations", "responses": {"200": good, **errors},
        "requestBody": {"required": True, "content": body},
        "parameters": [
            {"name": name, "in": "header", "required": False, "schema": {"type": "string", "maxLength": length}}
            for name, length in REQUEST_HEADERS.items()
        ],
    }  # fmt: skip
