"""What a request's head says, worked out once: route, codecs, length, and the answer's own head.

Clients on kept-alive connections repeat their head byte for byte, so parsed heads are remembered under their exact
bytes: a head seen before needs no parsing at all. Only heads that the strict reader has accepted are remembered, and
only those after which a connection goes on as it was (a Content-Length body, kept alive, no Expect).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from evenkeel.serve import codec
from evenkeel.serve.errors import EvenkeelError, UnsupportedMedia

HEADS_MAX = 1024  # remembered heads; each is at most HEAD_BYTES_REMEMBERED long
HEAD_BYTES_REMEMBERED = 2048
AMZN = b"x-amzn-sagemaker-"
_ID = b"x-amzn-sagemaker-inference-id"


class Route(IntEnum):
    INVOKE = 0
    PING = 1
    APPLICATION = 2
    NOWHERE = 3  # the request is refused


@dataclass(slots=True)
class Head:
    """A parsed head, which nobody changes: frozen it would take three times as long to make, and callers that send a trace id
    have a new one made with each request. `wrong` is what the codecs refuse; it is raised only if the model needs them."""

    route: Route
    is_head: bool  # the method is HEAD: an answer has no body
    length: int | None  # None: chunked
    keep_alive: bool
    content_type: str
    accept: str
    params: Mapping[str, str]  # of the Content-Type
    decoder: codec.Codec  # these two mean nothing when `wrong` is set
    encoder: codec.Codec
    wrong: EvenkeelError | None
    encoded: bool  # by a Content-Encoding, which handlers too would not expect
    decode_row: codec.DecodeRow | None  # the decoder's way with one plain row, where it has one and nothing is wrong
    request_id: str
    answer_start: bytes  # of a 200, up to the value of Content-Length
    expects_continue: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


_JSON = codec.decoder_for("application/json")
_numbers = itertools.count(1)


def build(
    route: Route, method: bytes, headers: Sequence[tuple[bytes, bytes]], keep_alive: bool, default_accept: str | None
) -> Head:
    """Read the headers that matter. Names are lower case. Unknown headers are ignored, as the contract asks."""
    values = dict(headers)
    content_type = values.get(b"content-type", b"").decode("latin-1")
    accept = (values.get(b"accept") or values.get(b"x-amzn-sagemaker-accept") or b"").decode("latin-1")
    if accept.strip() == "*/*" and b"x-amzn-sagemaker-accept" in values:
        accept = values[b"x-amzn-sagemaker-accept"].decode("latin-1")  # a generic client's default beside a real wish
    decoder, encoder, wrong = _JSON, _JSON, None
    if route is Route.INVOKE:
        try:
            _refuse_encodings(values.get(b"content-encoding", b""))
            decoder = codec.decoder_for(content_type)
            encoder = codec.negotiate(accept, decoder.mime, default_accept)
        except EvenkeelError as e:
            wrong = e
    params = codec.parse_media(content_type).params
    length = values.get(b"content-length")
    return Head(
        route=route, is_head=method == b"HEAD", keep_alive=keep_alive, content_type=content_type, accept=accept,
        params=params,
        length=None if b"transfer-encoding" in values else int(length or 0), decoder=decoder, encoder=encoder, wrong=wrong,
        encoded=b"content-encoding" in values,
        decode_row=None if wrong is not None or params else getattr(decoder, "decode_row", None),
        request_id=values.get(_ID, b"").decode("latin-1"), answer_start=ok_start(encoder.mime),
        expects_continue=values.get(b"expect", b"").lower() == b"100-continue",
        headers={k.decode("latin-1"): v.decode("latin-1") for k, v in headers if k.startswith(AMZN)})  # fmt: skip


def ok_start(mime: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: " + mime.encode("latin-1") + b"\r\ncontent-length: "


def new_request_id() -> str:
    """An id for logs when the client sent none; unique within this worker."""
    return f"r{next(_numbers)}"


def _refuse_encodings(value: bytes) -> None:
    if value and value.lower() != b"identity":
        raise UnsupportedMedia(f"Content-Encoding {value.decode('latin-1')!r} is not supported: send the body as it is")


class Heads:
    """The remembered heads of one worker. Full: forgotten all at once, which costs each client one parse."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self.get = self._known.get

    def remember(self, raw: bytes, head: Head) -> None:
        """`raw` is all that the strict reader has accepted as this head, with its empty line."""
        if not head.keep_alive or head.length is None or head.expects_continue or len(raw) > HEAD_BYTES_REMEMBERED:
            return
        if len(self._known) >= HEADS_MAX:
            self._known.clear()
        self._known[raw] = head


@dataclass(slots=True)
class Usual:
    """The last request of a connection, which most clients repeat: its head as bytes, how long the whole was, and what
    the head says."""

    raw: bytes
    length: int
    head: Head
