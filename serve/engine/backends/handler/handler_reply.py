"""What a script returned, as an answer: the body, its type, and what the script said on its context.

Every object here is foreign. So all of it runs inside one guard, and a RawReply holds plain types only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from evenkeel.serve.engine.backends.base import RawReply, RawRequest, RawStream
from evenkeel.serve.engine.backends.handler.handler_context import (
    ATTRIBUTES,
    CONTENT_TYPE,
    Processor,
    checked_header,
    type_of_answer,
)
from evenkeel.serve.engine.backends.handler.handler_defaults import JSON, concrete_types, encoded_json, first_type
from evenkeel.serve.engine.backends.handler.handler_files import DATA, content_of, is_file
from evenkeel.serve.engine.backends.handler.handler_stream import stream
from evenkeel.serve.engine.foreign import STATUS_MAX, STATUS_MIN, TEXT_CHARS_MAX, kind_of, plain, status_of
from evenkeel.serve.engine.script_guard import Unfit, judged, refusal

PLAIN = (str, bytes)
TYPE_NAMES = (
    "content_type",
    "mimetype",
    "media_type",
)  # of the type in a response object: Flask's, with its charset; Starlette's
RESPONSE_NAMES = ("mimetype", "media_type")  # one of which every response object has
BODILESS = (204, 205, 304)
BYTES, TEXT = "application/octet-stream", "text/plain; charset=utf-8"  # of a file when nobody has named a type


def reply(name: str, result: Any, request: RawRequest, processor: Processor) -> RawReply | RawStream:
    """The answer that `name` returned: str, bytes, (body, content type), a response object as Flask has it, a file, anything that
    fits into JSON, or an iterator of parts (in any of these places). Raises an EvenkeelError: also for a status of 400 or
    more that the script has set."""
    made: RawReply | RawStream = judged(name, result, _reply, name, result, request, processor)
    return made


def _reply(name: str, result: Any, request: RawRequest, processor: Processor) -> RawReply | RawStream:
    if type(result) is str or type(result) is bytes:  # the usual answers, which need no look
        return _whole(result, "", first_type(request.accept), processor, processor.code)
    body, content_type, code = _parts_of(result)
    code = processor.code if code is None else code
    if type(body) in PLAIN:
        return _whole(body, content_type, first_type(request.accept), processor, code)
    if body is None and hasattr(result, "body_iterator"):
        raise Unfit("its parts come from an async iterator, and handlers are called one after another: yield them instead")
    if body is None:
        raise Unfit("does it lack a return?" if result is None else "it has no body")
    if isinstance(body, AsyncIterator):
        raise Unfit("an async generator: handlers are called one after another, write it with def")
    if is_file(body):
        content = content_of(body)
        kinds = (*concrete_types(request.accept), TEXT if isinstance(content, str) else BYTES)
        return _whole(content, content_type, kinds[0], processor, code)
    if isinstance(body, Iterator):
        return stream(name, body, request.accept, lambda kind: _head_of_stream(content_type, kind, processor, code))
    written = plain(body)
    if written is None:
        written, content_type = encoded_json(body), JSON
    return _whole(written, content_type, first_type(request.accept), processor, code)


def _parts_of(result: Any) -> tuple[Any, Any, int | None]:
    """What it holds, the type that it names, and its status: of (body, type), of Flask's (body, status) and (body, status,
    headers), of a response object. None: it names no status."""
    if type(result) is tuple and len(result) in (2, 3):
        body, second, *more = result
        if len(result) == 2 and isinstance(second, str) and "/" in second:
            return body, second, None
        if isinstance(body, str | bytes | dict | list) and _says_status(second) and (not more or isinstance(more[0], Mapping)):
            headers = {str(name).lower(): value for name, value in more[0].items()} if more else {}
            return body, headers.get(CONTENT_TYPE, ""), status_of(second)
    if not _is_response(result):
        return result, "", None
    code = getattr(result, "status_code", None)
    kind = next((t for name in TYPE_NAMES if (t := getattr(result, name, None)) is not None), "")
    return _body_of(result), kind, None if code is None else status_of(code)


def _says_status(x: Any) -> bool:
    """A number that could be one: of what a model predicts, (4, 2) is none."""
    return isinstance(x, int) and type(x) is not bool and STATUS_MIN <= x <= STATUS_MAX


def _whole(content: str | bytes, content_type: Any, otherwise: str, processor: Processor, code: int) -> RawReply:
    body = content.encode("utf-8", "replace") if isinstance(content, str) else content
    code = _checked_status(code, processor, body)
    return RawReply(body, *_head(content_type, otherwise, processor), code)


def _checked_status(code: int, processor: Processor, body: bytes = b"") -> int:
    """200 to 299. An error is raised, with the words that the script has for it."""
    if code == 200 or ((code := status_of(code)) < 300 and code >= 200 and code not in BODILESS):
        return code
    if code < 400:
        raise Unfit(f"the status {code} has no body of its own: an answer is 200 to 299, or an error")
    phrase = plain(processor.phrase)
    raise refusal(code, phrase if phrase and isinstance(phrase, str) else body[: 4 * TEXT_CHARS_MAX].decode("utf-8", "replace"))


def _head_of_stream(content_type: Any, otherwise: str, processor: Processor, code: int) -> tuple[str, str | None]:
    """What the script has set before its first part counts, so this looks only then."""
    _checked_status(processor.code if code == 200 else code, processor)
    return _head(content_type, otherwise, processor)


def _head(content_type: Any, otherwise: str, processor: Processor) -> tuple[str, str | None]:
    """Content type and custom attributes: what was returned with the body counts before what was set on the context."""
    headers = processor.headers
    if not headers and type(content_type) is str:
        return type_of_answer(content_type) or otherwise, None
    kind = checked_header(CONTENT_TYPE, content_type) or checked_header(CONTENT_TYPE, headers.get(CONTENT_TYPE))
    return kind or otherwise, checked_header(ATTRIBUTES, headers.get(ATTRIBUTES)) or None


# Response objects -------------------------------------------------------------------------------------------------------------


def _is_response(result: Any) -> bool:
    return not isinstance(result, DATA) and any(hasattr(result, name) for name in RESPONSE_NAMES)


def _body_of(response: Any) -> Any:
    """The body of a response object: Flask's get_data(), Starlette's body, or the list Werkzeug keeps."""
    if callable(getattr(response, "get_data", None)):
        return response.get_data()
    body = getattr(response, "response", getattr(response, "body", None))
    return b"".join(map(_bytes_of, body)) if isinstance(body, list | tuple) else body


def _bytes_of(part: Any) -> bytes:
    content = plain(part)
    if content is None:
        raise Unfit(f"a part of its body is {kind_of(part)}: it must be str or bytes")
    return content.encode("utf-8", "replace") if isinstance(content, str) else content
