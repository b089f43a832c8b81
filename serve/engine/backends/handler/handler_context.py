"""What a handler can ask about its request and say about its reply, as in the model servers that AWS uses.

The names are those of Context and RequestProcessor in TorchServe and the multi-model server. Owns nothing but the reply
headers and the status that the script sets for one request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from evenkeel.serve.engine.backends.base import RawRequest
from evenkeel.serve.engine.foreign import kind_of, name_of_header, plain, status_of, text_of, value_of_header

CONTENT_TYPE, ATTRIBUTES = "content-type", "x-amzn-sagemaker-custom-attributes"  # of a reply; no other header passes
TYPES_REMEMBERED = 16
HEADER_CHARS_MAX = 1024  # the platform's limit; both headers together stay below its 4096 bytes for all of them


def checked_header(name: str, value: object) -> str:
    """The value as text that may stand in a head; "" for none. Raises TypeError or ValueError."""
    if name == CONTENT_TYPE and value is not None and plain(value) is None:
        raise TypeError(f"a content type must be text, not {kind_of(value)}")
    text = value_of_header(value)
    if len(text) > HEADER_CHARS_MAX or not all(" " <= c <= "~" for c in text):
        shown = ascii(text[:40])
        raise ValueError(f"the header {name} must be at most {HEADER_CHARS_MAX} visible ASCII characters, not {shown}")
    return text


def type_of_answer(content_type: str) -> str:
    """The same of the type that a script has returned with its answer: nearly always the same one. Raises ValueError."""
    return _checked_type(content_type) if len(content_type) <= HEADER_CHARS_MAX else checked_header(CONTENT_TYPE, content_type)


@lru_cache(TYPES_REMEMBERED)
def _checked_type(content_type: str) -> str:
    return checked_header(CONTENT_TYPE, content_type)


@dataclass(frozen=True, slots=True)
class Facts:
    model_name: str
    model_dir: str
    gpu_id: int | None = None  # its number among those that this process sees


class Context:
    """`idx` is the place of a request in the call: always 0, unless predict_fn takes batches."""

    def __init__(self, facts: Facts, processors: Sequence[Processor] = ()) -> None:
        self.model_name = facts.model_name
        self.manifest: Mapping[str, Any] = {"model": {"modelName": facts.model_name}}
        self.metrics = NoMetrics()
        self.system_properties: Mapping[str, Any] = {
            "model_dir": facts.model_dir, "gpu_id": facts.gpu_id, "batch_size": len(processors),
            "server_name": "evenkeel"}  # fmt: skip
        self.request_processor = self._request_processor = processors  # TorchServe's name, which scripts use though it is private

    @property
    def request_id(self) -> str | None:
        return self.get_request_id()

    def get_request_id(self, idx: int | None = 0) -> str | None:
        return self.request_processor[idx or 0].request_id if self.request_processor else None

    def get_request_header(self, idx: int | None, key: str) -> str | None:
        return self.request_processor[idx or 0].get_request_property(key)

    def get_all_request_header(self, idx: int | None = 0) -> Mapping[str, str]:
        return self.request_processor[idx or 0].get_request_properties()

    def set_response_header(self, idx: int | None, key: object, value: object) -> None:
        """Kept of these: Content-Type and X-Amzn-SageMaker-Custom-Attributes. No other passes SageMaker's router."""
        self.request_processor[idx or 0].add_response_property(key, value)

    def set_response_content_type(self, idx: int | None, value: object) -> None:
        self.set_response_header(idx, CONTENT_TYPE, value)

    def get_response_content_type(self, idx: int | None = 0) -> str | None:
        return self.get_response_headers(idx).get(CONTENT_TYPE)

    def get_response_headers(self, idx: int | None = 0) -> Mapping[str, str]:
        return self.request_processor[idx or 0].headers

    def set_response_status(self, code: object = 200, phrase: object = "", idx: int | None = 0) -> None:
        self.request_processor[idx or 0].report_status(code, phrase)


class Processor:
    """One request and its reply under the names of the model servers' RequestProcessor."""

    def __init__(self, request: RawRequest) -> None:
        sent = {"content-type": request.content_type, "accept": request.accept}
        self.request_id = request.request_id
        self._properties = Headers({**{k: v for k, v in sent.items() if v}, **request.headers})
        self.headers: dict[str, Any] = {}  # of the reply, by lower-case name
        self.code, self.phrase = 200, ""

    def get_request_property(self, key: str) -> str | None:
        return self._properties.get(key)

    def get_request_properties(self) -> Mapping[str, str]:
        return self._properties

    def add_response_property(self, key: object, value: object) -> None:
        """Raises in the script's own line when the value cannot be sent."""
        name = name_of_header(key)
        self.headers[name] = checked_header(name, value) if name in (CONTENT_TYPE, ATTRIBUTES) else value

    def report_status(self, code: object, reason_phrase: object = None) -> None:
        self.code = 200 if code is None else status_of(code)
        self.phrase = "" if reason_phrase is None else text_of(reason_phrase)


class Headers(dict[str, str]):
    """Headers by lower-case name, found under any spelling."""

    def __getitem__(self, key: str) -> str:
        return super().__getitem__(key.lower())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and super().__contains__(key.lower())

    def get(self, key: str, default: str | None = None) -> str | None:  # type: ignore[override]
        return super().get(key.lower(), default)


class NoMetrics:
    """Takes `context.metrics.add_counter(...)` and its like, and forgets them."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


# Of a request whose script takes no context: nothing can be asked of them or set on them, so all requests share them.
UNASKED = Processor(RawRequest(b"", "", "", ""))
NO_CONTEXT = Context(Facts("", ""))
