"""What a request's head says: route, length, ids, and the formats of its body and its answer.

Clients on kept-alive connections repeat their head byte for byte, so parsed heads are remembered under their exact
bytes: a head seen before needs no parsing at all. Only heads that the strict reader has accepted are remembered, and
only those after which a connection goes on as it was (a Content-Length body, kept alive, no Expect).

A trace id makes every head a new one. What costs most to find out is the formats, and those depend on a few headers only,
under which they are remembered on their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

from evenkeel.serve import codec
from evenkeel.serve.errors import EvenkeelError, UnsupportedMedia

HEADS_MAX = 1024  # remembered heads; each is at most HEAD_BYTES_REMEMBERED long
HEAD_BYTES_REMEMBERED = 2048
FORMATS_MAX = 256  # remembered formats, by headers of at most FORMAT_BYTES_REMEMBERED together
FORMAT_BYTES_REMEMBERED = 1024
AMZN = b"x-amzn-sagemaker-"
_ID = b"x-amzn-sagemaker-inference-id"


class Route(IntEnum):
    INVOKE = 0
    PING = 1
    APPLICATION = 2
    NOWHERE = 3  # the request is refused


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


@dataclass(slots=True)
class Head:
    """A parsed head, which nobody changes: frozen it would take three times as long to make, and callers that send a trace id
    have a new one made with each request."""

    route: Route
    is_head: bool  # the method is HEAD: an answer has no body
    length: int | None  # None: chunked
    keep_alive: bool
    formats: Formats
    expects_continue: bool = False
    values: Mapping[bytes, bytes] = field(default_factory=dict)  # of its headers

    @property
    def request_id(self) -> str:
        return self.values.get(_ID, b"").decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        """Those of the platform, which a handler may ask for."""
        return {k.decode("latin-1"): v.decode("latin-1") for k, v in self.values.items() if k.startswith(AMZN)}


_JSON = codec.decoder_for("application/json")
_numbers = itertools.count(1)


def build(
    route: Route, method: bytes, values: Mapping[bytes, bytes], length: int | None, keep_alive: bool,
    default_accept: str | None, expects_continue: bool = False,
) -> Head:  # fmt: skip
    """Read the headers that matter; their names are lower case. Unknown headers are ignored, as the contract asks."""
    if route is not Route.INVOKE:
        return Head(route, method == b"HEAD", length, keep_alive, NO_FORMATS, expects_continue, values)
    get = values.get
    content_type, encoding = get(b"content-type", b""), get(b"content-encoding")
    accept, platform_accept = get(b"accept", b""), get(b"x-amzn-sagemaker-accept", b"")
    remembered = len(content_type) + len(accept) + len(platform_accept) + len(encoding or b"") <= FORMAT_BYTES_REMEMBERED
    make = formats_of if remembered else formats_of.__wrapped__
    formats = make(content_type, accept, platform_accept, encoding, default_accept)
    return Head(route, False, length, keep_alive, formats, expects_continue, values)


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


def ok_start(mime: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: " + mime.encode("latin-1") + b"\r\ncontent-length: "


def new_request_id() -> str:
    """An id for logs when the client sent none; unique within this worker."""
    return f"r{next(_numbers)}"


def _refuse_encodings(value: bytes) -> None:
    if value and value.lower() != b"identity":
        raise UnsupportedMedia(f"Content-Encoding {value.decode('latin-1')!r} is not supported: send the body as it is")


NO_FORMATS = Formats("", "", {}, _JSON, _JSON, None, False, None, ok_start(_JSON.mime))  # of a request without a body for us


class Heads:
    """The remembered heads of one worker. When it is full, each new one takes the place of the oldest: a client that repeats its
    own is parsed once more now and then."""

    def __init__(self) -> None:
        self._by_bytes: dict[bytes, Head] = {}
        self.get = self._by_bytes.get

    def remember(self, raw: bytes, head: Head) -> None:
        """`raw` is all that the strict reader has accepted as this head, with its empty line."""
        if not head.keep_alive or head.length is None or head.expects_continue or len(raw) > HEAD_BYTES_REMEMBERED:
            return
        by_bytes = self._by_bytes
        if len(by_bytes) >= HEADS_MAX:
            del by_bytes[next(iter(by_bytes))]
        by_bytes[raw] = head


@dataclass(slots=True)
class Usual:
    """The last request of a connection, which most clients repeat: its head as bytes, how long the whole was, and what
    the head says."""

    raw: bytes
    length: int
    head: Head
