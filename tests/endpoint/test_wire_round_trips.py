"""Every supported operation, both ways, against botocore's own serialisers and parsers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.endpoint.wire import calls
from evenkeel.endpoint.wire.api_errors import ApiError
from evenkeel.endpoint.wire.api_model import load
from evenkeel.endpoint.wire.supported import RUNTIME, SAGEMAKER, SERVICES, STS, Service
from tests.endpoint.sdk import sent, understood
from tests.endpoint.shapes import values, with_dates, without_dates

EVERY = [(service, name) for service in SERVICES for name in service.operations]
IDS = [name for _, name in EVERY]
PARSERS = {"json": calls.json_protocol, "rest-json": calls.rest_json, "query": calls.query_protocol}


@pytest.mark.parametrize(("service", "name"), EVERY, ids=IDS)
@settings(max_examples=15)
@given(data=st.data())
def test_what_a_client_sends_is_what_we_read(service: Service, name: str, data: st.DataObject) -> None:
    model = load(service)
    operation = model.operations[name]
    params = data.draw(values(model, operation.takes)) if operation.takes else {}
    for member in model.shape(operation.takes).members if operation.takes else ():
        if member.location == "uri":  # a path is never without its names
            params[member.name] = params[member.name] or "x"
    call = sent(
        service, name, with_dates(model, operation.takes, params) if operation.takes else {}, authorization=scope(service)
    )
    wanted = calls.wanted(call)
    assert wanted.operation is operation
    read = PARSERS[service.protocol].parse(model, operation, call)
    assert without_empty(rounded(read)) == without_empty(rounded(params)) if service is STS else rounded(read) == rounded(params)


@pytest.mark.parametrize(("service", "name"), EVERY, ids=IDS)
@settings(max_examples=15)
@given(data=st.data())
def test_what_we_answer_is_what_a_client_reads(service: Service, name: str, data: st.DataObject) -> None:
    model = load(service)
    operation = model.operations[name]
    reply = data.draw(values(model, operation.gives)) if operation.gives else {}
    read = understood(service, name, calls.answered(calls.Wanted(model, operation), reply))
    if operation.gives and model.shape(operation.gives).payload:
        payload = model.shape(operation.gives).payload
        read[payload] = getattr(read[payload], "read", lambda: read[payload])() if payload in reply else None
    assert rounded(without_dates(drop_none(read))) == rounded(reply)


@pytest.mark.parametrize("service", SERVICES, ids=lambda s: s.folder)
def test_a_client_reads_our_errors(service: Service) -> None:
    name = service.operations[0]
    call = sent(service, name, {"EndpointName": "e", "Body": b""} if service is RUNTIME else {}, authorization=scope(service))
    error = calls.refused(ApiError("SomeCode", 424, "what is <wrong> \x07", {"OriginalStatusCode": 503}), call)
    read = understood(service, name, error)
    assert read["Error"]["Code"] == "SomeCode" and read["Error"]["Message"].startswith("what is <wrong> ")
    assert error.status == 424
    if service is RUNTIME:
        model_error = calls.refused(ApiError("ModelError", 424, "m", {"OriginalStatusCode": 503, "OriginalMessage": "o"}), call)
        assert b'"OriginalStatusCode":503' in model_error.body


def scope(service: Service) -> str:
    return f"AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/{service.signing}/aws4_request, SignedHeaders=host, Signature=0"


def rounded(value: object) -> object:
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 3) if isinstance(value, float) and value > 1 else value


def without_empty(value: object) -> object:
    return {k: v for k, v in value.items() if v not in ([], {})} if isinstance(value, dict) else value


def drop_none(value: dict[str, object]) -> dict[str, object]:
    return {k: v for k, v in value.items() if v is not None}


def test_requests_in_the_query_protocol_are_nested_by_their_names() -> None:
    """No supported operation of it takes anything yet, so a shape of the other protocol lends itself."""
    model = load(SAGEMAKER)
    operation = model.operations["AddTags"]
    call = calls.HttpCall(
        "POST", "/", "", {}, b"Action=AddTags&ResourceArn=arn&Tags.member.2.Key=b&Tags.member.1.Key=a&Tags.member.1.Value=1"
    )
    read = calls.query_protocol.parse(model, operation, call)
    assert read == {"ResourceArn": "arn", "Tags": [{"Key": "a", "Value": "1"}, {"Key": "b"}]}
    clash = calls.HttpCall("POST", "/", "", {}, b"Tags=1&Tags.member.1.Key=a")
    with pytest.raises(ApiError, match="both for a value"):
        calls.query_protocol.parse(model, operation, clash)
