"""Heads of an invocation: what the platform passes on to the container, what it passes back, and the errors it makes. Pure.

Sources: the API's model for which headers there are; sagemaker-contract: what the container sees (1.2.5) and the mapping of
errors (2.7). Of other headers nothing is passed on, either way, as the platform does.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from evenkeel.endpoint.wire import event_stream
from evenkeel.endpoint.wire.api_errors import ApiError
from evenkeel.endpoint.wire.rest_json import error

_RUN = uuid.uuid4().hex[:16]  # of this process
_NUMBERS = itertools.count(1)
Headers = Sequence[tuple[bytes, bytes]]  # names in lower case

AMZN = b"x-amzn-sagemaker-"
STREAM_ACCEPT = AMZN + b"accept"
PASSED_ON = frozenset({b"content-type", b"accept"})
KEPT_BY_PLATFORM = frozenset(
    {AMZN + b"target-variant", AMZN + b"inference-component", AMZN + b"enable-explanations", STREAM_ACCEPT}
)
PASSED_BACK = {
    b"content-type": b"content-type", AMZN + b"custom-attributes": AMZN + b"custom-attributes",
    AMZN + b"new-session-id": AMZN + b"new-session-id", AMZN + b"session-id": AMZN + b"new-session-id",
    AMZN + b"closed-session-id": AMZN + b"closed-session-id",
}  # fmt: skip
MESSAGE_CHARS_MAX = 1024  # of a container's error in the message; OriginalMessage has more
ORIGINAL_CHARS_MAX = 64 << 10
REASONS = {200: b"OK", 400: b"Bad Request", 413: b"Payload Too Large", 424: b"Failed Dependency", 503: b"Service Unavailable"}


@dataclass(frozen=True, slots=True)
class InvocationPath:
    """What the path of a request means."""

    endpoint: str
    is_stream: bool


@lru_cache(maxsize=4096)
def invocation(path: bytes) -> InvocationPath | None:
    parts = path.partition(b"?")[0].split(b"/")
    if len(parts) != 4 or parts[1] != b"endpoints" or parts[3] not in (b"invocations", b"invocations-response-stream"):
        return None
    return InvocationPath(unquote(parts[2].decode("latin-1")), parts[3] != b"invocations")


def to_container(headers: Headers, length: int, is_stream: bool) -> bytes:
    lines = [
        b"POST /invocations HTTP/1.1\r\nhost: model.aws.local:8080\r\nuser-agent: AHC/2.0\r\nx-amzn-sagemaker-forwarded-api: ",
        b"InvokeEndpointWithResponseStream" if is_stream else b"InvokeEndpoint",
        b"\r\ncontent-length: %d\r\n" % length,
    ]
    for name, value in headers:
        if is_stream and name == STREAM_ACCEPT:
            lines.append(b"accept: " + value + b"\r\n")
        elif (name in PASSED_ON and not (is_stream and name == b"accept")) or (
            name.startswith(AMZN) and name not in KEPT_BY_PLATFORM
        ):
            lines.append(name + b": " + value + b"\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def request_id() -> bytes:
    """In the form of a UUID: what tells this process, and a number that goes up."""
    digits = f"{_RUN}{next(_NUMBERS):016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}".encode()


def answer_head(headers: Headers, variant: str, length: int | None) -> bytes:
    """`length` None: a stream of events, in chunks."""
    lines = [b"HTTP/1.1 200 OK\r\nx-amzn-requestid: ", request_id(), b"\r\nx-amzn-invoked-production-variant: ",
             variant.encode(), b"\r\n"]  # fmt: skip
    for name, value in headers:
        back = PASSED_BACK.get(name)
        if back is not None:
            is_type = length is None and back == b"content-type"
            lines.append((AMZN if is_type else b"") + back + b": " + value + b"\r\n")
    if length is None:
        lines.append(b"content-type: " + event_stream.CONTENT_TYPE.encode() + b"\r\ntransfer-encoding: chunked\r\n\r\n")
    else:
        lines.append(b"content-length: %d\r\n\r\n" % length)
    return b"".join(lines)


def error_answer(problem: ApiError) -> bytes:
    answer = error(problem)
    reason = REASONS.get(problem.status, b"Error")
    lines = [b"HTTP/1.1 %d %s\r\nx-amzn-requestid: %s\r\ncontent-length: %d\r\n" % (
        answer.status, reason, request_id(), len(answer.body))]  # fmt: skip
    lines += [f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in answer.headers.items()]
    return b"".join([*lines, b"\r\n", answer.body])


def model_error(endpoint: str, status: int, original: bytes, region: str, account: str) -> ApiError:
    """For an answer of the container that is not of the kind 2xx (O: aws/sagemaker-python-sdk#1971)."""
    text = original[:ORIGINAL_CHARS_MAX].decode("utf-8", "replace")
    kind = "client" if 400 <= status < 500 else "server"
    where = (
        f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logEventViewer:group=/aws/sagemaker/Endpoints/"
        f"{endpoint} in account {account}"
    )
    shown = text[:MESSAGE_CHARS_MAX]
    message = f'Received {kind} error ({status}) from primary with message "{shown}". See {where} for more information.'
    return _model_error(endpoint, status, text, message, region, account)


def no_answer(endpoint: str, why: str, region: str, account: str) -> ApiError:
    """Where the container did not answer: the original status is 0 then (O: aws/amazon-sagemaker-examples#799)."""
    return _model_error(endpoint, 0, why, f'Received server error (0) from primary with message "{why}".', region, account)


def _model_error(endpoint: str, status: int, original: str, message: str, region: str, account: str) -> ApiError:
    stream = f"arn:aws:logs:{region}:{account}:log-group:/aws/sagemaker/Endpoints/{endpoint}"
    return ApiError(
        "ModelError", 424, message, {"OriginalStatusCode": status, "OriginalMessage": original, "LogStreamArn": stream}
    )


def stream_broken(why: str, code: str) -> bytes:
    return event_stream.stream_error("ModelStreamError", Message=why, ErrorCode=code)
