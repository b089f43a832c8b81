"""application/x-npy and tensor/pt: numpy's own bytes, read strictly."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest

from evenkeel.serve.codec.codec import Array, Form
from evenkeel.serve.codec.npy import HEADER_BYTES_MAX, HEADERS_REMEMBERED, _layouts
from evenkeel.serve.codec.registry import CODECS
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.errors import BadRequest, BadShape, NotAcceptable, UnsupportedMedia
from tests.serve.codec.samples import decode, model, same, values, x

NPY = "application/x-npy"
THREE = model(x("float32", 3))
ROWS = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version=version)
    return file.getvalue()


def headed(text: str, data: bytes = b"", version: int = 1) -> bytes:
    """A file with any header at all."""
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text.encode() + data


@pytest.mark.parametrize("mime", [NPY, "tensor/pt"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize(
    "array",
    [ROWS, ROWS.astype(">f4"), np.asfortranarray(ROWS), ROWS.astype(np.float64), ROWS.astype(np.float16),
     ROWS.astype(np.int64), ROWS.astype(">u2"), np.asfortranarray(ROWS.astype(">f8"))],
    ids=str,
)  # fmt: skip
def test_any_way_to_write_the_same_numbers_gives_the_same_array(mime: str, version: tuple[int, int], array: Array) -> None:
    for _ in "first", "remembered":
        decoded = decode(mime, npy(array, version), THREE)
        assert decoded.rows == 2 and same(decoded.arrays[0], ROWS) and decoded.arrays[0].flags.c_contiguous


def test_a_plain_array_is_a_view_of_the_body() -> None:
    assert decode(NPY, npy(ROWS), THREE).arrays[0].base is not None


def test_an_array_of_the_rank_of_a_row_is_one_row() -> None:
    assert values(decode(NPY, npy(ROWS[0]), THREE)) == [[1, 2, 3]]
    assert values(decode(NPY, npy(np.float32(7)), model(x()))) == [7]
    assert values(decode(NPY, npy(np.float32(7)), model(x(), rows_axis=False))) == 7
    assert decode(NPY, npy(ROWS), model(x("float32", "n", 3), rows_axis=False)).arrays[0].shape == (2, 3)


@pytest.mark.parametrize(
    "dtype, array, words",
    [
        ("float32", np.zeros((2, 4)), r"expected x: float32\[rows, 3\], got an array of shape \[2, 4\]"),
        ("float32", np.zeros(()), r"got an array of shape \[\]"),
        ("float32", np.zeros((1, 1, 3)), "got an array of shape"),
        ("float32", np.zeros((0, 3), np.float32), "no rows"),
        ("float32", np.array([[1, 2, 1e39]]), r"row 0, position \[2\]: 1e\+39 is too large for float32"),
        ("float16", np.array([[1, 2, 70000]]), "too large for float16"),
        ("float16", np.array([[1, 2, 70000.0]]), "too large for float16"),
        ("bfloat16", np.array([[1, 2, 3.4e38]]), "too large for bfloat16"),
        ("uint8", np.array([[1, 2, 3], [4, 300, 6]]), r"row 1, position \[1\]: 300 is out of the range of uint8"),
        ("uint64", np.array([[1, 2, -3]]), "out of the range"),
        ("int64", np.array([[1, 2, 2**63]], np.uint64), "out of the range"),
        ("bool", np.array([[0, 1, 2]]), "out of the range of bool"),
        ("int32", np.array([[1.0, 2, 3]]), "int32, which float64 does not convert to"),
        ("bool", np.array([[1.0, 2, 3]]), "bool, which float64 does not convert to"),
        ("float32", np.array([["1", "2", "3"]]), "which <U1 does not convert to"),
        ("float32", np.array([[1j, 2, 3]]), "dtype complex128 are not accepted"),
        ("float32", np.array([["2020", "2021", "2022"]], "M8[D]"), "are not accepted"),
        ("float32", np.zeros((1, 3), "f4,i4"), "not that of a plain array"),
        ("string", ROWS, "is string, which float32 does not convert to"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(dtype: str, array: Array, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        decode(NPY, npy(array), model(x(dtype, 3)))


def test_infinity_stays_infinity_when_narrowed() -> None:
    assert values(decode(NPY, npy(np.array([[np.inf, -np.inf, 1.0]])), THREE)) == [[np.inf, -np.inf, 1]]


def test_bools_and_small_ints_stand_for_each_other() -> None:
    assert values(decode(NPY, npy([[True, False, True]]), THREE)) == [[1, 0, 1]]
    assert values(decode(NPY, npy([[0, 1, 1]]), model(x("bool", 3)))) == [[False, True, True]]
    with pytest.raises(BadShape, match="neither 0 nor 1"):
        decode(NPY, npy([[True, False, True]])[:-1] + b"\x02", model(x("bool", 3)))


def test_fixed_width_text_becomes_strings() -> None:
    assert values(decode(NPY, npy(["é", "long"]), model(x("string")))) == ["é", "long"]
    assert values(decode(NPY, npy(np.array(["é".encode(), b"long"])), model(x("string")))) == ["é", "long"]
    for bad in (
        np.array([b"\xff"]),
        np.array([0xD800], np.uint32).view("U1"),
        np.array([0xFFFFFFFF], np.uint32).view("U1"),
    ):
        with pytest.raises(BadRequest, match="not valid Unicode"):
            decode(NPY, npy(bad), model(x("string")))


def test_bfloat16_travels_as_float32_and_rounds_to_even() -> None:
    spec = model(x("bfloat16"))
    sent = np.array([1, 1.00390625, 1.01171875, -2, np.nan, np.inf], np.float32)
    bits = decode(NPY, npy(sent), spec).arrays[0]
    assert decode(NPY, npy(np.float32(np.nan)), model(x("bfloat16"), rows_axis=False)).arrays[0].tolist() == 0x7FC0
    assert bits.tolist() == [0x3F80, 0x3F80, 0x3F82, 0xC000, 0x7FC0, 0x7F80]
    back = np.load(io.BytesIO(CODECS[NPY].encode((bits,), spec, Form.BARE)))
    assert np.array_equal(back, np.array([1, 1, 1.015625, -2, np.nan, np.inf], np.float32), equal_nan=True)


def test_objects_are_never_unpickled() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("unpickled",)

    body = headed("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", pickle.dumps([Bomb()]))
    with pytest.raises(BadShape, match="dtype object"):
        decode(NPY, body, THREE)


def test_every_cut_and_every_trailing_byte_is_noticed() -> None:
    whole = npy(ROWS)
    for length in range(len(whole)):
        with pytest.raises(BadRequest):
            decode(NPY, whole[:length], THREE)
    with pytest.raises(BadRequest, match="trailing bytes: its header says 152 bytes in all, there are 153"):
        decode(NPY, whole + b"\0", THREE)
    with pytest.raises(BadRequest, match="truncated"):
        decode(NPY, whole[:-1], THREE)


@pytest.mark.parametrize(
    "header",
    [
        "", "{}", "{'descr': '<f4'}", "not python at all", "[" * 5000, "-" * 8000 + "1",
        "(" * 150 + ")" * 150, "\0" * 100, "{" + " " * 60000, "{" + "'shape': (), " * 4000,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }",
        "{'descr': '<f4', 'fortran_order': 1, 'shape': (3,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1 3), }",
        "{'descr': '<f4', 'fortran_order': '0', 'shape': (1, 3), }",
        "{'descr': True, 'fortran_order': False, 'shape': (1, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': '1,3', }",
        "{'descr': '|V4', 'fortran_order': False, 'shape': (1, 3), }",
        "{'descr': ('<f4', (3,)), 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, " + "9" * 300 + "), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 100 + "), }",
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("signature", [THREE, model(x("float32", "n")), model(x("string", "n", "m"))])
def test_an_impossible_header_is_refused(header: str, version: int, signature: Signature) -> None:
    with pytest.raises(BadRequest):
        decode(NPY, headed(header + "\n", version=version), signature)


def test_a_header_has_a_bound_and_the_memory_of_headers_too() -> None:
    with pytest.raises(BadRequest, match="header is over 65536 bytes"):
        decode(NPY, headed(" " * HEADER_BYTES_MAX, b"\0" * 12, version=2), THREE)
    with pytest.raises(BadRequest, match="header is over 65536 bytes"):
        decode(NPY, b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100, THREE)
    with pytest.raises(BadRequest, match="version 9"):
        decode(NPY, headed("{}", version=9), THREE)
    for rows in range(1, HEADERS_REMEMBERED + 10):
        decode(NPY, npy(np.zeros((rows, 1), np.uint8)), model(x("uint8", 1)))
    assert len(_layouts) <= HEADERS_REMEMBERED


def test_one_array_is_all_that_npy_carries() -> None:
    two = model(x("float32", 3), TensorSpec("y", "float32", ()))
    with pytest.raises(UnsupportedMedia, match="use application/x-npz or application/json"):
        decode(NPY, npy(ROWS), two)
    with pytest.raises(NotAcceptable, match="ask for application/x-npz or application/json"):
        CODECS[NPY].encode((ROWS, ROWS), two, Form.BARE)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint64", "bool"])
@pytest.mark.parametrize("shape", [(2,), (2, 3), (1, 2, 2), (2, 0)])
def test_a_reply_is_what_numpy_save_writes(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    file = io.BytesIO()
    np.save(file, array)
    assert CODECS[NPY].encode((array,), model(x(dtype, *shape[1:])), Form.BARE) == file.getvalue()


def test_replies_may_hold_nan_strings_and_strides() -> None:
    def load(spec: TensorSpec, array: Array) -> Array:
        loaded: Array = np.load(io.BytesIO(CODECS[NPY].encode((array,), model(spec), Form.BARE)), allow_pickle=False)
        return loaded

    assert np.isnan(load(x(), np.array([np.nan], np.float32)))[0]
    assert load(x("string"), np.array(["é", ""], dtype=object)).tolist() == ["é", ""]
    assert load(x("float32", 2), ROWS[:, ::2]).tolist() == [[1, 3], [4, 6]]
