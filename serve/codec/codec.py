"""The seam of the codecs: what bytes become, and what every format must be able to do.

A codec is pure and keeps no request: the same bytes and signature give the same arrays. It knows nothing of HTTP
beyond the MIME type, nothing of slots, engines or frameworks, and it never unpickles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np

from serve.contract.signature import Signature

Array = np.ndarray[Any, Any]
Body = bytes | bytearray | memoryview


class Form(IntEnum):
    """How a JSON reply mirrors its request."""

    INSTANCES = 0  # {"instances": [...]} -> {"predictions": [...]}; several outputs: a list of {name: value}
    BARE = 1  # [[...], ...] -> [...]
    COLUMNS = 2  # {"inputs": {name: array}} -> {"outputs": {name: array}}


@dataclass(slots=True)
class Decoded:
    """One request as arrays. They may be read-only views of the body, so the body must outlive them.

    In signature order, C-contiguous, of exactly the spec's dtype (bfloat16: uint16 bit patterns; string: objects of
    str) and of shape (rows, *dims); without a rows axis of shape dims, and `rows` is 1.
    """

    rows: int
    arrays: tuple[Array, ...]
    form: Form


class Codec(Protocol):
    """One format. `mime` is the exact Content-Type of its replies: NumpyDeserializer compares it as a whole."""

    @property
    def mime(self) -> str: ...

    def decode(self, body: Body, signature: Signature, params: Mapping[str, str]) -> Decoded:
        """Raises BadRequest, BadShape, or UnsupportedMedia when this format cannot carry these inputs at all."""

    def encode(self, arrays: Sequence[Array], signature: Signature, form: Form, finite: bool = False) -> bytes:
        """`finite`: the caller knows that no output holds NaN or an infinity. Raises OutputNotFinite, NotAcceptable."""
