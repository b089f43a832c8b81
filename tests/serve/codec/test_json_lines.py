"""JSON Lines under each of its names."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.serve.codec.codec import Form
from evenkeel.serve.codec.pieces import PIECE_BYTES
from evenkeel.serve.codec.registry import CODECS
from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.errors import BadRequest, OutputNotFinite
from tests.serve.codec.samples import decode, model, same, values, x

NAMES = ["application/jsonlines", "application/jsons", "application/x-jsonlines", "application/x-ndjson"]
THREE = model(x("float32", 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "body",
    [
        b"[1,2,3]\n[4,5,6]", b"[1,2,3]\r\n[4,5,6]\r\n", b'{"features":[1,2,3]}\n{"x":[4,5,6]}\n',
        b'{"data":{"features":{"values":[1,2,3]}}}\n{"keys":[0,1,2],"shape":[3],"values":[4,5,6]}\n',
        b"\xef\xbb\xbf[1,2,3]\n[4,5,6]",
    ],
)  # fmt: skip
def test_a_line_is_a_row(name: str, body: bytes) -> None:
    decoded = decode(name, body, THREE)
    assert decoded.rows == 2 and same(decoded.arrays[0], np.array([[1, 2, 3], [4, 5, 6]], np.float32))


def test_scalars_and_named_records_are_lines_too() -> None:
    assert values(decode(NAMES[0], b"1\n2\n", model(x("int64")))) == [1, 2]
    two = model(TensorSpec("a", "int8", ()), TensorSpec("b", "string", ()))
    assert [a.tolist() for a in decode(NAMES[0], b'{"a":1,"b":"p"}\n{"b":"q","a":2}', two).arrays] == [
        [1, 2],
        ["p", "q"],
    ]


def test_a_model_without_rows_takes_one_line() -> None:
    one = model(x("float32", 3), rows_axis=False)
    assert values(decode(NAMES[0], b"[1,2,3]\n", one)) == [1, 2, 3]
    assert values(decode(NAMES[0], b'{"x":[1,2,3]}', one)) == [1, 2, 3]
    with pytest.raises(BadRequest, match="got 2 lines"):
        decode(NAMES[0], b"[1,2,3]\n[1,2,3]", one)


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "empty"),
        (b"\n", "line 1 is blank"),
        (b"[1,2,3]\n\n[4,5,6]", "line 2 is blank"),
        (b"[1,2,3]\n[4,5", "line 2 is not valid JSON"),
        (b"[1,2,3]\n[1,2,NaN]", "line 2 is not valid JSON"),
        (b"1,2\n[3\n4]", "line 1 is not valid JSON"),
        (b"[1,2,3]\n[1,2]", "line 2: input 'x': expected 3 values, got 2"),
        (b"[1,2,3]\n[1,2,true]", "line 2: input 'x', position [2]: float32 expected, got true"),
        (b'{"instances":[[1,2,3]]}', "line 1: expected a value"),
        (b'[1,2,3]\n{"z":[1]}', "line 2"),
    ],
)
def test_an_error_names_its_line(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(NAMES[0], body, THREE)
    assert words in caught.value.message


def test_a_reply_is_one_value_a_line_without_a_wrapper() -> None:
    y, z = TensorSpec("y", "float32", (2,)), TensorSpec("z", "string", ())
    arrays = (np.array([[0.1, 2], [3, 4]], np.float32), np.array(["a", "b"], dtype=object))
    codec = CODECS[NAMES[0]]
    assert codec.encode(arrays[:1], model(x(), outputs=(y,)), Form.BARE) == b"[0.1,2.0]\n[3.0,4.0]\n"
    both = codec.encode(arrays, model(x(), outputs=(y, z)), Form.COLUMNS)
    assert both == b'{"y":[0.1,2.0],"z":"a"}\n{"y":[3.0,4.0],"z":"b"}\n'
    whole = codec.encode((arrays[0],), model(x(), outputs=(y,), rows_axis=False), Form.INSTANCES)
    assert whole == b"[[0.1,2.0],[3.0,4.0]]\n"


def test_a_reply_that_is_not_finite_is_refused() -> None:
    with pytest.raises(OutputNotFinite, match="'x'"):
        CODECS[NAMES[0]].encode((np.array([np.nan], np.float32),), model(x()), Form.BARE)


def test_a_long_body_is_read_in_pieces_of_whole_lines() -> None:
    rows = np.random.default_rng(3).random((6000, 3)).astype(np.float32)
    body = b"\n".join(b"[%.9g, %.9g, %.9g]" % tuple(row) for row in rows.tolist())
    assert len(body) > 3 * PIECE_BYTES
    for sent in (body, body + b"\n", bytearray(body), memoryview(body)):
        decoded = decode(NAMES[0], sent, THREE)
        assert decoded.rows == len(rows) and same(decoded.arrays[0], rows)


def test_a_bool_far_behind_is_no_number_however_the_body_comes() -> None:
    body = b"[1,2,3]\n" * 20_000 + b"[1,2,true]\n"
    for sent in (body, memoryview(body)):
        with pytest.raises(BadRequest, match="line 20001"):
            decode(NAMES[0], sent, THREE)


@pytest.mark.parametrize("document", [b'{"instances": [[1, 2, true]]}', b"[[1, 2, true]]"])
def test_a_bool_in_a_body_that_was_read_to_its_place_is_no_number(document: bytes) -> None:
    for sent in (document, bytearray(document), memoryview(document)):
        with pytest.raises(BadRequest):
            decode("application/json", sent, THREE)
