"""What a request's head says: route, ids, and the formats of its body and its answer.

A trace id makes every head a new one, so what is built from a head is what all heads of one shape share (head_shapes.py); ids and
lengths are each request's own. What costs most to find out is the formats, and those depend on a few headers only, under which
they are remembered on their own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from evenkeel.serve import codec
from evenkeel.serve.errors import EvenkeelError, UnsupportedMedia

FORMATS_MAX = 256  # remembered formats, by headers of at most FORMAT_BYTES_REMEMBERED together
FORMAT_BYTES_REMEMBERED = 1024
PLATFORM_LINE = re.compile(rb"\r\n(x-amzn-sagemaker-[^:]*):[\t ]*([^\r]*)", re.IGNORECASE)
ID = "x-amzn-sagemaker-inference-id"


class Route(IntEnum):
    INVOKE = 0
    PING = 1
    APPLICATION = 2
    NOWHERE = 3  # the request is refused
    NAMED = 4  # as INVOKE, for the model that the path names


@dataclass(frozen=True, slots=True)
class Formats:
    """Of a body and its answer. `wrong` is what the codecs refuse; it is raised only if the model needs them."""

    content_type: str
    accept: str
    params: Mapping[str, str]  # of the Content-Type
    decoder: codec.Codec  # these two mean nothing when `wrong` is set
    encoder: codec.Codec
    wrong: EvenkeelError | None
    encoded: bool  # by a Content-Encoding, which handlers too would not expect
    decode_row: codec.DecodeRow | None  # the decoder's way with one plain row, where it has one and nothing is wrong
    answer_start: bytes  # of a 200, up to the value of Content-Length


@dataclass(frozen=True, slots=True)
class Head:
    """What all heads of one shape say."""

    route: Route
    is_head: bool  # the method is HEAD: an answer has no body
    keep_alive: bool
    formats: Formats
    model_name: str = ""  # that its path names


_JSON = codec.decoder_for("application/json")
_numbers = itertools.count(1)


def build(route: Route, method: bytes, values: Mapping[bytes, bytes], keep_alive: bool, default_accept: str | None) -> Head:
    """Read the headers that matter; their names are lower case. Unknown headers are ignored, as the contract asks."""
    if route is not Route.INVOKE and route is not Route.NAMED:
        return Head(route, method == b"HEAD", keep_alive, NO_FORMATS)
    get = values.get
    content_type, encoding = get(b"content-type", b""), get(b"content-encoding")
    accept, platform_accept = get(b"accept", b""), get(b"x-amzn-sagemaker-accept", b"")
    remembered = len(content_type) + len(accept) + len(platform_accept) + len(encoding or b"") <= FORMAT_BYTES_REMEMBERED
    make = formats_of if remembered else formats_of.__wrapped__
    return Head(route, False, keep_alive, make(content_type, accept, platform_accept, encoding, default_accept))


@lru_cache(FORMATS_MAX)
def formats_of(
    content_type: bytes, accept: bytes, platform_accept: bytes, encoding: bytes | None, default_accept: str | None
) -> Formats:
    """`encoding` None: the header is not there."""
    if not accept or (accept.strip() == b"*/*" and platform_accept):  # a generic client's default beside a real wish
        accept = platform_accept
    kind, wish = content_type.decode("latin-1"), accept.decode("latin-1")
    decoder, encoder, wrong = _JSON, _JSON, None
    try:
        _refuse_encodings(encoding or b"")
        decoder = codec.decoder_for(kind)
        encoder = codec.negotiate(wish, decoder.mime, default_accept)
    except EvenkeelError as e:
        wrong = e
    params = codec.parse_media(kind).params
    decode_row = None if wrong is not None or params else getattr(decoder, "decode_row", None)
    return Formats(kind, wish, params, decoder, encoder, wrong, encoding is not None, decode_row, ok_start(encoder.mime))


def ok_start(mime: str, line: bytes = b"HTTP/1.1 200 OK\r\n") -> bytes:
    return line + b"content-type: " + mime.encode("latin-1") + b"\r\ncontent-length: "


def platform_headers(raw: bytes) -> dict[str, str]:
    """Those of the platform, which a handler may ask for: of an accepted head, as it came. Of one that comes twice, the last."""
    pairs = PLATFORM_LINE.findall(raw)
    return {name.decode("latin-1").lower(): value.rstrip(b"\t ").decode("latin-1") for name, value in pairs}


def request_id(raw: bytes) -> str:
    """The client's; "" where it gave none."""
    return platform_headers(raw).get(ID, "")


def new_request_id() -> str:
    """An id for logs when the client sent none; unique within this worker."""
    return f"r{next(_numbers)}"


def _refuse_encodings(value: bytes) -> None:
    if value and value.lower() != b"identity":
        raise UnsupportedMedia(f"Content-Encoding {value.decode('latin-1')!r} is not supported: send the body as it is")


NO_FORMATS = Formats("", "", {}, _JSON, _JSON, None, False, None, ok_start(_JSON.mime))  # of a request without a body for us
NO_HEAD = Head(Route.NOWHERE, False, False, NO_FORMATS)
