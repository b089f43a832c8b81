"""botocore's own ends of the wire: what its clients send, and what they understand of an answer."""

from __future__ import annotations

import io
from functools import cache
from typing import Any
from urllib.parse import urlencode, urlsplit

import botocore.loaders
import botocore.model
import botocore.parsers
import botocore.serialize
from botocore.awsrequest import HeadersDict

from evenkeel.endpoint.wire.http_records import HttpAnswer, HttpCall
from evenkeel.endpoint.wire.supported import Service


@cache
def service_model(service: Service) -> botocore.model.ServiceModel:
    raw = botocore.loaders.Loader().load_service_model(service.folder, "service-2", service.version)
    return botocore.model.ServiceModel(raw, service.folder)


def sent(service: Service, operation: str, params: dict[str, Any], **headers: str) -> HttpCall:
    """The call that a client makes of these parameters."""
    serializer = botocore.serialize.create_serializer(service.protocol, include_validation=False)
    made = serializer.serialize_to_request(params, service_model(service).operation_model(operation))
    body = made["body"]
    if isinstance(body, dict):
        body = urlencode(body)
    parts = urlsplit(made["url_path"])
    given = {k.lower(): str(v) for k, v in {**made["headers"], **headers}.items()}
    return HttpCall(made["method"], parts.path, parts.query, given, body.encode() if isinstance(body, str) else body)


def understood(service: Service, operation: str, answer: HttpAnswer) -> dict[str, Any]:
    """What a client makes of an answer, without the metadata."""
    parser = botocore.parsers.create_parser(service.protocol)
    shape = service_model(service).operation_model(operation).output_shape
    is_stream = service_model(service).operation_model(operation).has_streaming_output and answer.status < 300
    body = io.BytesIO(answer.body) if is_stream else answer.body
    response = {"status_code": answer.status, "headers": HeadersDict(answer.headers), "body": body, "context": {}}
    parsed: dict[str, Any] = parser.parse(response, shape)
    return {k: v for k, v in parsed.items() if k != "ResponseMetadata"}
