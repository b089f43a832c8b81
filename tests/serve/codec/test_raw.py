"""application/octet-stream: bytes of one tensor."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.serve.codec.codec import Form
from evenkeel.serve.codec.raw import Raw
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.errors import BadRequest, BadShape, NotAcceptable, UnsupportedMedia
from tests.serve.codec.samples import decode, model, same, x

RAW = "application/octet-stream"


def test_the_length_says_how_many_rows_there_are() -> None:
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    decoded = decode(RAW, array.tobytes(), model(x("float32", 2, 3)))
    assert decoded.rows == 2 and same(decoded.arrays[0], array)
    assert Raw().encode((array,), model(x("float32", 2, 3)), Form.BARE) == array.tobytes()


def test_bfloat16_travels_as_its_bits() -> None:
    assert decode(RAW, b"\x80\x3f", model(x("bfloat16"))).arrays[0].tolist() == [0x3F80]


def test_a_model_without_rows_takes_exactly_one_item() -> None:
    one = model(x("int16", 2), rows_axis=False)
    assert decode(RAW, b"\1\0\2\0", one).arrays[0].tolist() == [1, 2]
    with pytest.raises(BadShape, match="so 4 bytes; got 8"):
        decode(RAW, b"\1\0\2\0" * 2, one)


def test_a_wrong_length_an_empty_body_and_odd_bools_are_refused() -> None:
    with pytest.raises(BadShape, match="so 12 bytes or a multiple of it; got 13"):
        decode(RAW, b"\0" * 13, model(x("float32", 3)))
    with pytest.raises(BadRequest, match="empty"):
        decode(RAW, b"", model(x("float32", 3)))
    with pytest.raises(BadShape, match="neither 0 nor 1"):
        decode(RAW, b"\0\2", model(x("bool", 2)))


@pytest.mark.parametrize("signature", [model(x("string")), model(x("float32", "n")), model(x(), TensorSpec("y", "int8", ()))])
def test_what_bytes_alone_cannot_say_is_refused(signature: Signature) -> None:
    with pytest.raises(UnsupportedMedia, match="use application/json"):
        decode(RAW, b"\0" * 8, signature)


def test_several_outputs_or_strings_need_another_format() -> None:
    two = model(x(), outputs=(x(), TensorSpec("y", "int8", ())))
    for signature in (two, model(x("string"))):
        with pytest.raises(NotAcceptable, match="ask for application/json"):
            Raw().encode(tuple(np.zeros(1) for _ in signature.outputs), signature, Form.BARE)
