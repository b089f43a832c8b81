"""What clients send that does not fit: refused with AWS's codes and words, never by a traceback."""

from __future__ import annotations

import gzip
import json
import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.endpoint.wire import api_model, calls
from evenkeel.endpoint.wire.api_errors import ApiError
from evenkeel.endpoint.wire.http_records import HttpCall
from evenkeel.endpoint.wire.java_patterns import compiled

SERVICES_READ = ("sagemaker", "sagemaker-runtime", "cloudwatch", "application-autoscaling", "sts", "s3")


def call(operation: str, body: object, target: str = "SageMaker") -> HttpCall:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return HttpCall("POST", "/", "", {"x-amz-target": f"{target}.{operation}"}, data)


def refusal(asked: HttpCall) -> ApiError:
    with pytest.raises(ApiError) as caught:
        calls.parameters(calls.wanted(asked), asked)
    return caught.value


MODEL = {"ModelName": "m", "ExecutionRoleArn": "arn:aws:iam::123456789012:role/r"}
CONSTRAINT = "failed to satisfy constraint: Member must"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({**MODEL, "ModelName": "m_1"}, f"Value 'm_1' at 'modelName' {CONSTRAINT} satisfy regular expression pattern: "),
        ({**MODEL, "ModelName": "m" * 64}, f"at 'modelName' {CONSTRAINT} have length less than or equal to 63"),
        ({"ExecutionRoleArn": MODEL["ExecutionRoleArn"]}, f"Value null at 'modelName' {CONSTRAINT} not be null"),
        ({**MODEL, "PrimaryContainer": {"Mode": "Both"}},
         f"Value 'Both' at 'primaryContainer.mode' {CONSTRAINT} satisfy enum value set: [SingleModel, MultiModel]"),
        ({**MODEL, "Tags": [{"Key": "a", "Value": ""}, {"Key": "", "Value": ""}]},
         f"Value '' at 'tags.2.member.key' {CONSTRAINT} have length greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_broken_constraint_is_told_as_aws_tells_it(body: object, message: str) -> None:
    error = refusal(call("CreateModel", body))
    assert (error.code, error.status) == ("ValidationException", 400)
    assert error.message.startswith("1 validation error detected: Value ") and message in error.message


def test_every_broken_constraint_of_a_call_is_told_up_to_ten() -> None:
    error = refusal(call("CreateModel", {"ModelName": "_"}))
    assert "1 validation error" in error.message
    many = refusal(call("CreateModel", {**MODEL, "Tags": [{"Key": ""}] * 40}))
    assert many.message.startswith("10 validation errors detected: ")


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"7", b'{"ModelName": 7}', b'{"Tags": {}}', b'{"Tags": ["a"]}', b'{"EnableNetworkIsolation": "yes"}',
     b"\xff", b"[" * 100_000,
     b'{"PrimaryContainer": []}', b'{"PrimaryContainer": {"Environment": {"A": 1}}}'],
)  # fmt: skip
def test_a_body_of_a_wrong_type_is_no_traceback(body: bytes) -> None:
    error = refusal(call("CreateModel", body))
    assert (error.code, error.status) == ("SerializationException", 400)


def test_members_that_are_null_or_unknown_are_left_out() -> None:
    asked = call("CreateModel", {**MODEL, "PrimaryContainer": None, "NotThere": {"deep": 1}})
    assert calls.parameters(calls.wanted(asked), asked) == MODEL


@pytest.mark.parametrize(
    "asked",
    [call("CreateTrainingJob", {}), call("ListTables", {}, "DynamoDB_20120810"), HttpCall("GET", "/bucket/key", "", {}, b""),
     HttpCall("POST", "/", "", {"content-type": "application/x-www-form-urlencoded"}, b"Action=ListRoles&Version=2010-05-08"),
     HttpCall("POST", "/endpoints/e/async-invocations", "", {}, b""), HttpCall("POST", "/", "", {"x-amz-target": ""}, b"")],
)  # fmt: skip
def test_what_is_not_supported_is_refused_with_the_list_of_what_is(asked: HttpCall) -> None:
    error = refusal(asked)
    assert error.status == 501 and error.code == "NotSupportedByEvenkeel"
    assert "CreateEndpointConfig" in error.message and "nothing was sent to AWS" in error.message


@given(st.binary(max_size=200), st.sampled_from(["SageMaker.CreateModel", "SageMaker.CreateEndpointConfig", ""]))
def test_any_bytes_are_read_or_refused(body: bytes, target: str) -> None:
    headers = (
        {"x-amz-target": target}
        if target
        else {"content-type": calls.FORM, "authorization": "Credential=a/20260101/r/sts/aws4_request"}
    )
    asked = HttpCall("POST", "/", "", headers, body)
    try:
        calls.parameters(calls.wanted(asked), asked)
    except ApiError as e:
        assert calls.refused(e, asked).status in (400, 501)


@pytest.mark.parametrize("folder", SERVICES_READ)
def test_every_pattern_of_the_models_compiles(folder: str) -> None:
    version = max((api_model.data_folder() / folder).iterdir())
    raw = json.loads(gzip.decompress((version / "service-2.json.gz").read_bytes()))
    patterns = {shape["pattern"] for shape in raw["shapes"].values() if "pattern" in shape}
    assert patterns
    for pattern in patterns:
        compiled(pattern)


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        (r"\p{ASCII}*", ["", "a\n~"], ["é"]),
        (r"\A\S[\p{Print}]*\z", ["a b"], [" a", "a\x07", "aé"]),
        (r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)", ["Zürich 東京 7-a@b", "/x"], ["a!", "a\\"]),
        (r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\t]*", ["a\U0001f600\t"], ["\n"]),
        (r"[\p{L}\p{M}\p{S}\p{N}\p{P}]+", ["a[b]^c", "é\\"], ["a b"]),
        (r"([\p{L}]*)${1,128}", ["ab"], ["7"]),
        (r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", ["a-b"], ["a-", "a b", "a\n"]),
        (r"[^\p{Print}]", ["é"], ["a"]),
    ],
)
def test_a_pattern_of_javas_means_the_same_here(pattern: str, fits: list[str], does_not: list[str]) -> None:
    assert [text for text in fits if not compiled(pattern).match(text)] == []
    assert [text for text in does_not if compiled(pattern).match(text)] == []


def test_an_unknown_class_is_told_and_not_guessed() -> None:
    with pytest.raises(re.error):
        compiled(r"\p{Nothing}")


def test_the_model_of_a_service_without_botocore_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(api_model.NoBotocore, match=r"pip install 'evenkeel\[endpoint\]'"):
        api_model.data_folder()
