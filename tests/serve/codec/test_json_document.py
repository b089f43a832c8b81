"""application/json: the shapes it takes, what it refuses and how it says so, and what it answers."""

from __future__ import annotations

import time

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.serve.codec.codec import Array, Form
from evenkeel.serve.codec.codec_plan import plan_of
from evenkeel.serve.codec.json_document import JsonDocument, _quick, decode_document
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.errors import BadRequest, BadShape, BodyTooLarge, ModelFailed, OutputNotFinite, UnsupportedMedia
from tests.serve.codec.samples import decode, model, same, values, x

JSON = "application/json"
THREE = model(x("float32", 3))
TWO_INPUTS = model(TensorSpec("a", "float32", ("n",)), TensorSpec("b", "int32", ("n",)), TensorSpec("s", "string", ()))


@pytest.mark.parametrize(
    "body, form",
    [
        (b'{"instances": [[1, 2, 3]]}', Form.INSTANCES),
        (b'{"instances": [{"x": [1, 2, 3]}]}', Form.INSTANCES),
        (b'{"instances": [{"features": [1, 2, 3]}]}', Form.INSTANCES),
        (b'{"instances": [{"data": {"features": {"values": [1, 2, 3]}}}]}', Form.INSTANCES),
        (b'{"instances": [[1, 2, 3]], "configuration": {}}', Form.INSTANCES),
        (b'{"instances": [{"keys": [0, 1, 2], "shape": [3], "values": [1, 2, 3.0]}]}', Form.INSTANCES),
        (b'{"inputs": {"x": [[1, 2, 3]]}}', Form.COLUMNS),
        (b'{"inputs": [[1, 2, 3]]}', Form.COLUMNS),
        (b'{"inputs": [1, 2, 3]}', Form.COLUMNS),
        (b"[[1, 2, 3]]", Form.BARE),
        (b"[1, 2, 3]", Form.BARE),
        (b'[{"x": [1, 2, 3]}]', Form.BARE),
        (b"\xef\xbb\xbf[1, 2, 3]", Form.BARE),
    ],
)
def test_the_same_row_may_be_written_in_many_forms(body: bytes, form: Form) -> None:
    decoded = decode(JSON, body, THREE)
    assert (decoded.rows, decoded.form) == (1, form)
    assert same(decoded.arrays[0], np.array([[1, 2, 3]], np.float32))


@pytest.mark.parametrize(
    "record", [b'{"features": [1, 2, 3, 4, 5, 6]}', b'{"data": {"features": {"values": [1, 2, 3, 4, 5, 6]}}}',
               b'{"features": [[1, 2], [3, 4], [5, 6]]}', b'{"x": [[1, 2], [3, 4], [5, 6]]}'])  # fmt: skip
def test_features_of_a_row_with_several_dimensions_may_be_one_flat_list(record: bytes) -> None:
    signature = model(x("int64", 3, 2))
    want = [[[1, 2], [3, 4], [5, 6]]]
    assert values(decode(JSON, b'{"instances": [' + record + b"]}", signature)) == want
    assert values(decode("application/jsonlines", record + b"\n", signature)) == want


@pytest.mark.parametrize("record", [b'{"features": [1, 2, 3, 4, 5]}', b'{"x": [1, 2, 3, 4, 5, 6]}', b"[1, 2, 3, 4, 5, 6]"])
def test_only_features_are_folded_and_only_when_their_number_fits(record: bytes) -> None:
    with pytest.raises(BadShape, match=r"expected 3 values, got [56]"):
        decode(JSON, b'{"instances": [' + record + b"]}", model(x("int64", 3, 2)))


def test_sparse_and_plain_instances_may_be_mixed() -> None:
    body = b'{"instances":[{"data":{"features":{"keys":[2],"shape":[3],"values":[5]}}},[1,2,3]]}'
    assert values(decode(JSON, body, THREE)) == [[0, 0, 5], [1, 2, 3]]


def test_a_bare_list_for_a_model_of_scalars_is_rows() -> None:
    assert values(decode(JSON, b"[1, 2]", model(x("int64")))) == [1, 2]
    assert values(decode(JSON, b'{"instances": [1, 2]}', model(x("int64")))) == [1, 2]
    assert values(decode(JSON, b"7", model(x("int64")))) == [7]


def test_several_inputs_come_by_name_in_rows_or_in_columns() -> None:
    rows = decode(JSON, b'{"instances": [{"a":[1,2],"b":[3,4],"s":"hi"}, {"s":"you","b":[7,8],"a":[5,6]}]}', TWO_INPUTS)
    columns = decode(JSON, b'{"inputs": {"a":[[1,2],[5,6]],"b":[[3,4],[7,8]],"s":["hi","you"]}}', TWO_INPUTS)
    for left, right in zip(rows.arrays, columns.arrays, strict=True):
        assert same(left, right)
    assert rows.arrays[2].tolist() == ["hi", "you"] and rows.arrays[1].dtype == np.int32


@pytest.mark.parametrize("body", [b"[1,2,3]", b'{"instances":[1,2,3]}', b'{"inputs":{"x":[1,2,3]}}', b'{"inputs":[1,2,3]}'])
def test_a_model_without_rows_takes_its_one_item_as_it_is(body: bytes) -> None:
    decoded = decode(JSON, body, model(x("float32", 3), rows_axis=False))
    assert decoded.rows == 1 and same(decoded.arrays[0], np.array([1, 2, 3], np.float32))


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "empty"),
        (b"NaN", "JSON has no NaN or Infinity (line 1 column 1): leave the row out"),
        (b'{"instances": [[1, 2, NaN]]}', "JSON has no NaN or Infinity (line 1 column 23)"),
        (b'{"instances": [[1, 2, -Infinity]]}', "JSON has no NaN or Infinity"),
        (b'{"instances": [[1, 2, 3]', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"instances": []}', "no rows"),
        (b"[]", "no rows"),
        (b'{"inputs": {"x": []}}', "no rows"),
        (b'{"instances": [], "inputs": []}', "both"),
        (b'{"instances": {"x": 1}}', '"instances" must be a list'),
        (b'{"instance": [[1, 2, 3]]}', 'unknown key "instance"'),
        (b"{}", "expected"),
        (b"null", "null"),
        (b'"text"', "the string 'text'"),
        (b"3", "float32[rows, 3]"),
        (b'{"instances": [[1, 2, 3], [1, 2]]}', "instance 1: input 'x': expected 3 values, got 2"),
        (b'{"instances": [[1, 2, true]]}', "instance 0: input 'x', position [2]: float32 expected, got true"),
        (b'{"instances": [[1, 2, "3"]]}', "got the string '3'"),
        (b'{"instances": [[1, 2, null]]}', "got null"),
        (b'{"instances": [[1, 2, [3]]]}', "got a list of 1"),
        (b'{"instances": [[1, 2, {}]]}', "got an object"),
        (b'{"instances": [[1, 2, 1e39]]}', "1e+39 is out of the range of float32"),
        (b'{"instances": [[1, 2, 3], 7]}', "instance 1"),
        (b"[[1, 2, 3], [1, 2, 3, 4]]", "row 1: expected 3 values, got 4"),
        (b'{"inputs": {"y": [[1, 2, 3]]}}', "no input 'y'"),
        (b'{"inputs": {}}', "'x' is missing"),
        (b'{"instances": [{"y": [1, 2, 3]}]}', "got keys: y"),
        (b'{"instances": [{"keys": [0], "shape": [4], "values": [1]}]}', "expected x: float32[rows, 3]"),
        (b'{"instances": [{"keys": [3], "shape": [3], "values": [1]}]}', "from 0 to 2"),
        (b'{"instances": [{"keys": [-1], "shape": [3], "values": [1]}]}', "from 0 to 2"),
        (b'{"instances": [{"keys": [1, 1], "shape": [3], "values": [1, 2]}]}', "different"),
        (b'{"instances": [{"keys": [1], "shape": [3], "values": [1, 2]}]}', "same length"),
        (b'{"instances": [{"keys": [1], "shape": [3, 1], "values": [1]}]}', '"shape"'),
        (b'{"instances": [{"keys": [1], "shape": [3], "values": ["1"]}]}', "got the string"),
        (b'{"instances": [{"keys": [1], "shape": [3]}]}', "got keys: keys, shape"),
    ],
)
def test_a_wrong_body_is_refused_and_the_reason_named(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(JSON, body, THREE)
    assert words in caught.value.message


@pytest.mark.parametrize(
    "dtype, text, words",
    [
        ("uint8", b"300", "300 is out of the range of uint8, 0 to 255"),
        ("int8", b"-129", "out of the range"),
        ("uint64", b"-1", "out of the range"),
        ("int64", b"9223372036854775808", "out of the range"),
        ("int64", b"18446744073709551616", "int64 expected"),
        ("int32", b"1.0", "int32 expected, got the number 1.0"),
        ("int32", b"true", "got true"),
        ("bool", b"2", "out of the range of bool"),
        ("bool", b"99999999999999999999", "bool expected"),
        ("bool", b"0.0", "bool expected"),
        ("bool", b'"true"', "bool expected"),
        ("float16", b"65520", "65520 is out of the range of float16, -65504.0 to 65504.0"),
        ("bfloat16", b"3.4e38", "too large for bfloat16"),
        ("float64", b"1e309", "not valid JSON"),
        ("string", b"1", "string expected"),
        ("string", b"null", "string expected"),
    ],
)
def test_a_value_that_does_not_fit_its_dtype_is_refused(dtype: str, text: bytes, words: str) -> None:
    for body in (b"[[" + text + b"]]", b'{"instances": [[' + text + b"]]}"):
        with pytest.raises(BadRequest) as caught:
            decode(JSON, body, model(x(dtype, 1)))
        assert words in caught.value.message


def test_integers_are_exact_to_the_last_bit() -> None:
    assert values(decode(JSON, b"[9223372036854775807, -9223372036854775808]", model(x("int64")))) == [
        2**63 - 1,
        -(2**63),
    ]
    assert values(decode(JSON, b"[18446744073709551615]", model(x("uint64")))) == [2**64 - 1]


def test_bools_may_be_written_as_words_or_as_zero_and_one() -> None:
    assert values(decode(JSON, b"[[true, false, 1, 0]]", model(x("bool", 4)))) == [[True, False, True, False]]


def test_null_is_nan_where_the_model_allows_it_and_only_for_floats() -> None:
    decoded = decode(JSON, b"[[1, null, 3]]", model(x("float32", 3, allow_nan=True)))
    assert np.isnan(decoded.arrays[0][0, 1])
    with pytest.raises(BadShape):
        decode(JSON, b"[[1, null, 3]]", model(x("int32", 3, allow_nan=True)))


def test_a_number_becomes_bfloat16_by_rounding_to_even() -> None:
    # 1 + 2**-8 lies halfway between 1 and the next bfloat16; 1 + 3 * 2**-8 halfway above an odd one.
    decoded = decode(JSON, b"[1, 1.00390625, 1.01171875, -2]", model(x("bfloat16")))
    assert values(decoded) == [0x3F80, 0x3F80, 0x3F82, 0xC000]


def test_free_dims_take_any_size_but_one_size_a_request() -> None:
    free = model(x("uint8", "n"))
    assert decode(JSON, b"[[1,2],[3,4]]", free).arrays[0].shape == (2, 2)
    assert decode(JSON, b"[[],[]]", free).arrays[0].shape == (2, 0)
    assert decode(JSON, b"[]", free).arrays[0].shape == (1, 0)
    with pytest.raises(BadShape, match="row 1: expected 1 values, got 2"):
        decode(JSON, b"[[1],[2,3]]", free)
    with pytest.raises(BadShape, match="dimension 'n' is 3, but 2 in input 'a'"):
        decode(JSON, b'{"instances": [{"a":[1,2],"b":[3,4,5],"s":""}]}', TWO_INPUTS)


@pytest.mark.parametrize(
    "body, words",
    [
        (b'{"instances": [{"a":[1],"s":""}]}', "instance 0: input 'b' is missing"),
        (b'{"instances": [{"a":[1],"b":[1],"s":"","t":1}]}', "no input 't'"),
        (b'{"instances": [[1]]}', "instance 0 must name the inputs: a, b, s"),
        (b'{"inputs": [1]}', '{"inputs": {"a": ...'),
        (b'{"inputs": {"a":[[1]],"b":[[1],[2]],"s":["x"]}}', "disagree on rows: 'a' has 1, 'b' 2"),
    ],
)
def test_names_and_rows_must_agree_across_inputs(body: bytes, words: str) -> None:
    with pytest.raises(BadShape) as caught:
        decode(JSON, body, TWO_INPUTS)
    assert words in caught.value.message


def test_a_small_sparse_record_cannot_unfold_to_all_memory() -> None:
    body = b'{"instances": [{"keys": [], "shape": [1000000000000], "values": []}]}'
    with pytest.raises(BodyTooLarge, match="over the limit of 256 MiB"):
        decode(JSON, body, model(x("float32", "n")))


@pytest.mark.parametrize("prefix", [b"", b'{"instances":', b'{"inputs":{"x":'])
def test_a_million_brackets_are_refused_at_once(prefix: bytes) -> None:
    started_s = time.monotonic()
    with pytest.raises((BadRequest, BodyTooLarge)):
        decode(JSON, prefix + b"[" * 1_000_000, THREE)
    with pytest.raises((BadRequest, BodyTooLarge)):
        decode(JSON, prefix + b"[" * 500_000 + b"]" * 500_000, THREE)
    assert time.monotonic() - started_s < 2


def test_only_utf8_is_json() -> None:
    assert decode(JSON, b"[1,2,3]", THREE, charset="UTF-8").rows == 1
    with pytest.raises(UnsupportedMedia, match="utf-16"):
        decode(JSON, b"[1,2,3]", THREE, charset="utf-16")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_buffer_will_do(kind: type) -> None:
    assert values(JsonDocument().decode(kind(b'{"instances":[[1,2,3]]}'), THREE, {})) == [[1, 2, 3]]


LEAVES: st.SearchStrategy[object] = st.one_of(
    st.integers(-300, 300), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([None, True, False, "1", "", [], {}, 1e39, -0.0, 2**63]),
)  # fmt: skip


@given(
    rows=st.lists(st.lists(LEAVES, min_size=1, max_size=3) | LEAVES, max_size=3),
    dtype=st.sampled_from(["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "uint64"]),
    wrapped=st.booleans(),
    size=st.integers(1, 3),
)
def test_the_fast_path_agrees_with_the_general_one(rows: list[object], dtype: str, wrapped: bool, size: int) -> None:
    try:
        body = orjson.dumps({"instances": rows} if wrapped else rows)
    except TypeError:
        return  # an integer of more than 64 bits
    plan = plan_of(model(x(dtype, size)))
    quick = _quick(orjson.loads(body), body, plan)
    if quick is None:
        return
    general = decode_document(orjson.loads(body), plan)
    assert (quick.rows, quick.form) == (general.rows, general.form) and same(quick.arrays[0], general.arrays[0])


def test_plain_rows_take_the_fast_path() -> None:
    for body in (b'{"instances":[[1,2.5,3]]}', b"[[1,2,3],[4,5,6]]"):
        assert _quick(orjson.loads(body), body, plan_of(THREE)) is not None


# --- replies ----------------------------------------------------------------------------------------------------------

Y = TensorSpec("y", "float32", (2,))
Z = TensorSpec("z", "string", ())
ONE_OUT = model(x(), outputs=(Y,))
TWO_OUT = model(x(), outputs=(Y, Z))
y = np.array([[0.1, 2], [3, 4]], np.float32)
z = np.array(["a", 'b"'], dtype=object)


@pytest.mark.parametrize(
    "signature, form, text",
    [
        (ONE_OUT, Form.INSTANCES, b'{"predictions":[[0.1,2.0],[3.0,4.0]]}'),
        (ONE_OUT, Form.BARE, b"[[0.1,2.0],[3.0,4.0]]"),
        (ONE_OUT, Form.COLUMNS, b'{"outputs":{"y":[[0.1,2.0],[3.0,4.0]]}}'),
        (TWO_OUT, Form.INSTANCES, b'{"predictions":[{"y":[0.1,2.0],"z":"a"},{"y":[3.0,4.0],"z":"b\\""}]}'),
        (TWO_OUT, Form.BARE, b'[{"y":[0.1,2.0],"z":"a"},{"y":[3.0,4.0],"z":"b\\""}]'),
        (TWO_OUT, Form.COLUMNS, b'{"outputs":{"y":[[0.1,2.0],[3.0,4.0]],"z":["a","b\\""]}}'),
    ],
)
def test_a_reply_mirrors_the_form_of_its_request(signature: Signature, form: Form, text: bytes) -> None:
    assert JsonDocument().encode((y, z)[: len(signature.outputs)], signature, form) == text


def test_a_model_without_rows_answers_with_its_one_item() -> None:
    one = model(x(), outputs=(TensorSpec("y", "float32", ()),), rows_axis=False)
    assert JsonDocument().encode((np.float32(0.1) * np.ones((), np.float32),), one, Form.INSTANCES) == b'{"predictions":0.1}'
    two = model(x(), outputs=(Y, Z), rows_axis=False)
    reply = JsonDocument().encode((y[0], np.array("hi", dtype=object)), two, Form.INSTANCES)
    assert reply == b'{"predictions":{"y":[0.1,2.0],"z":"hi"}}'


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", list(Form))
def test_what_is_not_finite_is_refused_by_the_name_of_its_output(bad: float, form: Form) -> None:
    broken = np.array([[1, 2], [bad, 4]], np.float32)
    for signature, arrays in ((ONE_OUT, (broken,)), (TWO_OUT, (broken, z))):
        with pytest.raises(OutputNotFinite, match="'y' holds NaN or an infinity in 1 of 4 values, first in row 1"):
            JsonDocument().encode(arrays, signature, form)


def test_what_is_not_finite_is_null_where_the_output_allows_it() -> None:
    allowed = model(x(), outputs=(TensorSpec("y", "float32", (2,), allow_nan=True),))
    assert JsonDocument().encode((np.array([[np.nan, np.inf]], np.float32),), allowed, Form.BARE) == b"[[null,null]]"


def test_a_string_output_may_say_null() -> None:
    words = model(x(), outputs=(TensorSpec("null", "string", ()), Y))
    reply = JsonDocument().encode((np.array(["null"], dtype=object), y[:1]), words, Form.BARE)
    assert reply == b'[{"null":"null","y":[0.1,2.0]}]'


@pytest.mark.parametrize(
    "dtype, array, text",
    [
        ("bool", np.array([True, False]), b"[true,false]"),
        ("float16", np.array([1.5], np.float16), b"[1.5]"),
        ("float64", np.array([0.1]), b"[0.1]"),
        ("bfloat16", np.array([0x3F80, 0xC000], np.uint16), b"[1.0,-2.0]"),
        ("uint64", np.array([2**64 - 1], np.uint64), b"[18446744073709551615]"),
        ("float32", np.array([[1, 2], [3, 4]], np.float32)[:, 0], b"[1.0,3.0]"),
        ("int32", np.array([1, 2], ">i4"), b"[1,2]"),
    ],
)
def test_every_dtype_has_its_text(dtype: str, array: Array, text: bytes) -> None:
    assert JsonDocument().encode((array,), model(x(), outputs=(TensorSpec("y", dtype, ()),)), Form.BARE) == text


def test_an_output_that_is_no_text_is_the_models_fault() -> None:
    with pytest.raises(ModelFailed):
        JsonDocument().encode((np.array(["\ud800"], dtype=object),), model(x(), outputs=(Z,)), Form.BARE)
