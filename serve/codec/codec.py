"""The seam of the codecs: what bytes become, and what every format must be able to do.

A codec is pure and keeps no request: the same bytes and signature give the same arrays. It knows nothing of HTTP
beyond the MIME type, nothing of slots, engines or frameworks, and it never unpickles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Protocol

import numpy as np

from evenkeel.serve.codec.codec_plan import CodecPlan
from evenkeel.serve.contract.signature import Signature

Array = np.ndarray[Any, Any]
Body = bytes | bytearray | memoryview
ROOM_BYTES = 1 << 30  # that decoding may take where the caller names no bound


class Form(IntEnum):
    """How a JSON reply mirrors its request."""

    INSTANCES = 0  # {"instances": [...]} -> {"predictions": [...]}; several outputs: a list of {name: value}
    BARE = 1  # [[...], ...] -> [...]
    COLUMNS = 2  # {"inputs": {name: array}} -> {"outputs": {name: array}}


class Decoded:
    """One request as arrays. They may be read-only views of the body, so the body must outlive them.

    `arrays`: in signature order, C-contiguous, of exactly the spec's dtype (bfloat16: uint16 bit patterns; string:
    objects of str) and of shape (rows, *dims); without a rows axis of shape dims, and `rows` is 1.
    `packed`: the bytes of the only array, when the codec has them anyway; the array is then made only if asked for.
    """

    __slots__ = ("_arrays", "_dtype", "form", "packed", "rows")

    def __init__(
        self,
        rows: int,
        arrays: tuple[Array, ...] | None,
        form: Form,
        packed: Body | None = None,
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        """Either `arrays`, or `packed` with the dtype of one whole row."""
        self.rows, self.form, self.packed = rows, form, packed
        self._arrays, self._dtype = arrays, dtype

    @property
    def arrays(self) -> tuple[Array, ...]:
        if self._arrays is None:
            assert self.packed is not None and self._dtype is not None, "bytes come with the dtype of a row"
            self._arrays = (np.frombuffer(self.packed, self._dtype),)
        return self._arrays


# A request of one plain row of the only input, as the bytes of that row; None for any other body, also for a wrong one,
# which `decode` then says what is wrong with.
DecodeRow = Callable[[Body, CodecPlan], Body | None]


class RowsCodec(Protocol):
    """A codec with a short way for requests of one row each: in, and out many at once."""

    def decode_row(self, body: Body, plan: CodecPlan) -> Body | None:
        """Whatever this accepts, `decode` accepts with the same bytes and in form INSTANCES."""

    def encode_rows(self, rows: Array) -> list[bytes]:
        """`rows` is (n, items), C-contiguous, finite, numeric and not bfloat16: the only output of n requests.

        Exactly the bytes that `encode` gives for each alone in form INSTANCES, for about a tenth of the work.
        """


class Codec(Protocol):
    """One format. `mime` is the exact Content-Type of its replies: NumpyDeserializer compares it as a whole."""

    @property
    def mime(self) -> str: ...

    @property
    def quick_output_bytes(self) -> int:
        """Of the outputs as they lie in memory: encoding so many takes about 2 ms."""

    def decode(self, body: Body, signature: Signature, params: Mapping[str, str], room: int = ROOM_BYTES) -> Decoded:
        """`room`: bytes of memory that it may take, arrays included.

        Raises BadRequest, BadShape, BodyTooLarge, or UnsupportedMedia when this format cannot carry these inputs at all.
        """

    def is_quick(self, body: Body, signature: Signature) -> bool:
        """Whether `decode` takes at most about 2 ms and makes little of it. Asked of bodies up to a mebibyte."""

    def encode(self, arrays: Sequence[Array], signature: Signature, form: Form, finite: bool = False) -> bytes:
        """`finite`: the caller knows that no output holds NaN or an infinity. Raises OutputNotFinite, NotAcceptable."""
