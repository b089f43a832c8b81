"""text/csv: strict about numbers, kind about line ends."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evenkeel.serve.codec import pieces
from evenkeel.serve.codec.codec import Form
from evenkeel.serve.codec.codec_plan import plan_of
from evenkeel.serve.codec.csv_rows import CsvRows, _by_cell, _columns, _quick
from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.errors import BadRequest, OutputNotFinite, UnsupportedMedia
from tests.serve.codec.samples import decode, model, same, values, x

CSV = "text/csv"
THREE = model(x("float32", 3))


@pytest.mark.parametrize(
    "body",
    [
        b"1,2,3\n4,5,6", b"1,2,3\n4,5,6\n", b"1,2,3\r\n4,5,6\r\n", b"1,2,3\r\n4,5,6", b"1.0,2e0,+3\n4.,5,6",
        b" 1, 2,3\n4,5,6 ",
        b'"1",2,3\n4,"5",6', b"\xef\xbb\xbf1,2,3\n4,5,6", b"1,2,3\r4,5,6", b"1,\t2,3\n4,5,6",
    ],
)  # fmt: skip
def test_a_line_is_a_row_however_it_ends(body: bytes) -> None:
    assert same(decode(CSV, body, THREE).arrays[0], np.array([[1, 2, 3], [4, 5, 6]], np.float32))


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "empty"),
        (b"\n", "line 1 is blank"),
        (b"1,2,3\n\n4,5,6", "line 2 is blank"),
        (b"1,2,3\n\n", "line 2 is blank"),
        (b"1,2,3\n4,5", "line 2: expected 3 columns, got 2"),
        (b"1,2,3\n4,5,6,7\n", "line 2: expected 3 columns, got 4"),
        (b"1,2,3,\n", "line 1: expected 3 columns, got 4"),
        (b"1,2,3\n1,,3", "line 2, column 2: the cell is empty"),
        (b"1,nan,3", "line 1, column 2: 'nan' is not a float32"),
        (b"1,inf,3", "'inf' is not a float32"),
        (b"1,null,3", "'null' is not a float32"),
        (b"1,true,3", "'true' is not a float32"),
        (b"1_0,2,3", "'1_0' is not a float32"),
        ("\u0661,2,3".encode(), "is not a float32"),
        (b"0x1,2,3", "'0x1' is not a float32"),
        (b"[1],2,3", "'[1]' is not a float32"),
        (b"1],[2,3", "is not a float32"),
        (b"a,b,c\n1,2,3", "line 1, column 1: 'a' is not a float32"),
        (b"1,2,1e39", "position [2]: 1e+39 is out of the range of float32"),
        (b"1,2,1e999", "'1e999' is not a float32"),
        (b'1,2,"3', "line 1: not valid CSV"),
        (b'1,2,"3"4', "not valid CSV"),
        (b"1,2,\xff", "not utf-8 text: byte 4"),
        (b"1 2,3,4", "'1 2' is not a float32"),
        (b"1,\r2,3", "line 1"),
    ],
)
def test_a_wrong_body_is_refused_by_line_and_column(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(CSV, body, THREE)
    assert words in caught.value.message


def test_a_float_is_no_int_and_an_int_has_its_range() -> None:
    ints = model(x("uint8", 2))
    assert values(decode(CSV, b"255,0", ints)) == [[255, 0]]
    assert values(decode(CSV, b"+7,007", ints)) == [[7, 7]]
    for body, words in (
        (b"1.0,2", "'1.0' is not a uint8"),
        (b"256,1", "out of the range"),
        (b"9" * 30 + b",1", "out of"),
    ):
        with pytest.raises(BadRequest, match=words):
            decode(CSV, body, ints)


def test_nan_needs_permission() -> None:
    allowed = model(x("float32", 4, allow_nan=True))
    row = decode(CSV, b"nan,,-inf,1", allowed).arrays[0][0]
    assert np.isnan(row[:2]).all() and row[2] == -np.inf and row[3] == 1


def test_all_inputs_share_a_line_in_signature_order() -> None:
    mixed = model(TensorSpec("a", "float32", (2, 1)), TensorSpec("b", "int64", ()), TensorSpec("s", "string", (2,)))
    a, b, s = decode(CSV, b'1,2,3,"p, q",r\n4,5,6,,"t\nu"\n', mixed).arrays
    assert same(a, np.array([[[1], [2]], [[4], [5]]], np.float32)) and same(b, np.array([3, 6]))
    assert s.tolist() == [["p, q", "r"], ["", "t\nu"]]
    numbers = model(TensorSpec("a", "float32", (2,)), TensorSpec("b", "int64", ()))
    assert [array.tolist() for array in decode(CSV, b"1,2,3\n4,5,6\n", numbers).arrays] == [[[1, 2], [4, 5]], [3, 6]]


def test_one_free_dim_takes_any_number_of_columns_alike_on_all_lines() -> None:
    free = model(x("float32", "n"))
    assert decode(CSV, b"1,2\n3,4\n", free).arrays[0].shape == (2, 2)
    with pytest.raises(BadRequest, match="line 2: expected 2 columns, got 1"):
        decode(CSV, b"1,2\n3\n", free)
    with pytest.raises(BadRequest, match="line 1 is blank"):
        decode(CSV, b"\n", free)
    with pytest.raises(UnsupportedMedia, match="use application/json"):
        decode(CSV, b"1,2\n", model(x("float32", "n", "m")))


def test_parameters_are_read() -> None:
    assert decode(CSV, b"a,b,c\n1,2,3\n", THREE, header="present").rows == 1
    assert decode(CSV, b"1,2,3\n", THREE, header="absent", label_size="0").rows == 1
    assert values(decode(CSV, "é".encode("latin-1"), model(x("string")), charset="ISO-8859-1")) == ["é"]
    assert decode(CSV, "1,2,3\n".encode("utf-16"), THREE, charset="utf-16").rows == 1
    with pytest.raises(BadRequest, match="label_size"):
        decode(CSV, b"1,2,3", THREE, label_size="1")
    with pytest.raises(UnsupportedMedia, match="'zip'"):
        decode(CSV, b"1,2,3", THREE, charset="zip")
    with pytest.raises(BadRequest, match="no rows"):
        decode(CSV, b"a,b,c\n", THREE, header="present")


def test_a_model_without_rows_takes_one_line() -> None:
    one = model(x("float32", 2, 2), rows_axis=False)
    assert values(decode(CSV, b"1,2,3,4\n", one)) == [[1, 2], [3, 4]]
    with pytest.raises(BadRequest, match="got 2 lines"):
        decode(CSV, b"1,2,3,4\n1,2,3,4\n", one)


def test_a_long_body_is_read_in_pieces_of_whole_lines() -> None:
    rows = np.arange(60_000, dtype=np.float32).reshape(-1, 3)
    body = CsvRows().encode((rows,), THREE, Form.INSTANCES)
    assert len(body) > 3 * pieces.PIECE_BYTES
    assert same(decode(CSV, body, THREE).arrays[0], rows)
    assert same(decode(CSV, body[:-1], THREE).arrays[0], rows)
    with pytest.raises(BadRequest, match="line 20001"):
        decode(CSV, body + b"1,2\n", THREE)


@given(st.text(alphabet="0123456789+-.eE, \r\n", max_size=24), st.sampled_from(["float32", "int64"]), st.booleans())
def test_the_fast_path_agrees_with_the_patient_one(text: str, dtype: str, free: bool) -> None:
    plan = plan_of(model(x(dtype, "n" if free else 2)))
    quick = _quick(text.encode(), plan, _columns(plan))
    if quick is not None:
        patient = _by_cell(text.encode(), plan, _columns(plan), "utf-8", header=False)
        assert quick.rows == patient.rows and same(quick.arrays[0], patient.arrays[0])


@given(st.text(alphabet="0123456789+-.eE, \r\n", max_size=24), st.sampled_from(["float32", "int64"]), st.booleans())
@example("1,2\r\n", "float32", False)
@example("1,2\r", "float32", True)
@example("1,2\n\n", "float32", False)
@example("1,2,3", "float32", False)
@example("1,1e39", "float32", False)
@example("-0,1.5", "int64", False)
@example("", "int64", False)
def test_one_line_by_the_short_way_is_the_row_that_the_others_give(text: str, dtype: str, square: bool) -> None:
    signature = model(x(dtype, *(1, 2) if square else (2,)))
    row = CsvRows().decode_row(text.encode(), plan_of(signature))
    if row is not None:
        decoded = decode(CSV, text.encode(), signature)
        assert decoded.rows == 1 and decoded.form == Form.INSTANCES and decoded.arrays[0].tobytes() == bytes(row)


@pytest.mark.parametrize("body", [b"1,2", b"1.5, 2e3\n", b"-1,2\r\n"])
def test_a_plain_line_takes_the_short_way(body: bytes) -> None:
    plan = plan_of(model(x("float64", 2)))
    assert CsvRows().decode_row(body, plan) is not None and CsvRows().decode_row(bytearray(body), plan) is None


# --- replies ----------------------------------------------------------------------------------------------------------


def test_a_reply_is_one_line_a_row_in_the_shortest_text() -> None:
    y, z, w = TensorSpec("y", "float32", (2,)), TensorSpec("z", "string", ()), TensorSpec("w", "bool", (1, 1))
    arrays = (
        np.array([[0.1, 2], [3e20, 4]], np.float32),
        np.array(["a", 'b,"'], dtype=object),
        np.ones((2, 1, 1), bool),
    )
    encode = CsvRows().encode
    assert encode(arrays[:1], model(x(), outputs=(y,)), Form.BARE) == b"0.1,2.0\n3e+20,4.0\n"
    assert encode(arrays, model(x(), outputs=(y, z, w)), Form.BARE) == b'0.1,2.0,a,true\n3e+20,4.0,"b,""",true\n'
    assert encode((arrays[0], arrays[2]), model(x(), outputs=(y, w)), Form.BARE) == b"0.1,2.0,true\n3e+20,4.0,true\n"
    assert encode((arrays[0],), model(x(), outputs=(y,), rows_axis=False), Form.BARE) == b"0.1,2.0,3e+20,4.0\n"
    assert encode((np.float32(0.5) * np.ones((), np.float32),), model(x(), rows_axis=False), Form.BARE) == b"0.5\n"
    assert encode((np.zeros((2, 0), np.float32),), model(x("float32", "n")), Form.BARE) == b"\n\n"


def test_a_reply_that_is_not_finite_needs_permission() -> None:
    array = np.array([[np.nan, -np.inf, 0.1]], np.float32)
    with pytest.raises(OutputNotFinite, match="'x'"):
        CsvRows().encode((array,), THREE, Form.BARE)
    allowed = model(x("float32", 3, allow_nan=True))
    text = CsvRows().encode((array,), allowed, Form.BARE)
    assert text == b"nan,-inf,0.1\n"
    assert np.array_equal(decode(CSV, text, allowed).arrays[0], array, equal_nan=True)


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=2, max_size=2), min_size=1, max_size=3))
def test_any_text_survives_the_quotes(rows: list[list[str]]) -> None:
    strings = model(x("string", 2))
    array = np.array(rows, dtype=object)
    text = CsvRows().encode((array,), strings, Form.BARE)
    assert list(csv.reader(io.StringIO(text.decode(), newline=""))) == rows
    assert values(decode(CSV, text, strings)) == rows
