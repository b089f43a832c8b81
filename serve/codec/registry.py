"""Which codec reads a request and which one writes its reply: a table by MIME type, and the rules of Accept.

Both answers depend on nothing but header text, so those given lately are remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from evenkeel.serve.codec.codec import ROOM_BYTES, Array, Body, Codec, Decoded, Form
from evenkeel.serve.codec.csv_rows import CsvRows
from evenkeel.serve.codec.json_document import JsonDocument
from evenkeel.serve.codec.json_lines import JsonLines
from evenkeel.serve.codec.media import HEADERS_REMEMBERED, accepted, parse_media
from evenkeel.serve.codec.npy import Npy
from evenkeel.serve.codec.npz import Npz
from evenkeel.serve.codec.raw import Raw
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.errors import NotAcceptable, UnsupportedMedia

JSON = JsonDocument()
CODECS: dict[str, Codec] = {
    codec.mime: codec
    for codec in (
        JSON, JsonLines("application/jsonlines"), JsonLines("application/jsons"), JsonLines("application/x-jsonlines"),
        JsonLines("application/x-ndjson"), CsvRows(), Npy("application/x-npy"), Npz(), Raw(), Npy("tensor/pt"),
    )
}  # fmt: skip
SUPPORTED = ", ".join(CODECS)


class Guess:
    """For bodies without a Content-Type: JSON when it looks like JSON. The reply is JSON too."""

    mime = JSON.mime
    quick_output_bytes = JSON.quick_output_bytes

    def decode(self, body: Body, signature: Signature, params: Mapping[str, str], room: int = ROOM_BYTES) -> Decoded:
        if bytes(body[:64]).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"["):
            raise UnsupportedMedia(f"there is no Content-Type and the body is not JSON: say one of {SUPPORTED}")
        return JSON.decode(body, signature, params, room)

    def is_quick(self, body: Body, signature: Signature) -> bool:
        return JSON.is_quick(body, signature)

    def encode(self, arrays: Sequence[Array], signature: Signature, form: Form, finite: bool = False) -> bytes:
        return JSON.encode(arrays, signature, form, finite)


GUESS = Guess()


@lru_cache(maxsize=HEADERS_REMEMBERED)
def decoder_for(content_type: str) -> Codec:
    """Raises UnsupportedMedia."""
    mime = parse_media(content_type).mime
    if mime in ("", "*/*"):
        return GUESS
    if mime not in CODECS:
        raise UnsupportedMedia(f"Content-Type {mime[:80]!r} is not supported: send one of {SUPPORTED}")
    return CODECS[mime]


@lru_cache(maxsize=HEADERS_REMEMBERED)
def negotiate(accept: str, request_mime: str, default: str | None) -> Codec:
    """The codec of the reply. Nothing said, or anything allowed: `default`, else the request's own format.

    Raises NotAcceptable.
    """
    offers = _offers(request_mime, default)
    wanted = accepted(accept) or (("*/*", 1.0),)
    refused = {mime for mime, q in wanted if q == 0}
    for mime, q in wanted:
        if q == 0:
            break
        if mime in CODECS:
            return CODECS[mime]
        if mime.endswith("/*"):
            fits = (o for o in offers if (mime == "*/*" or o.startswith(mime[:-1])) and o not in refused)
            chosen = next(fits, None)
            if chosen is not None:
                return CODECS[chosen]
    raise NotAcceptable(f"Accept {accept[:120]!r} is not supported: ask for one of {SUPPORTED}")


def _offers(request_mime: str, default: str | None) -> list[str]:
    """All formats, in the order in which a wildcard should find them."""
    first = [parse_media(mime).mime for mime in (default or "", request_mime)]
    return [mime for mime in dict.fromkeys([*first, *CODECS]) if mime in CODECS]
