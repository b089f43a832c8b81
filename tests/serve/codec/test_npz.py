"""application/x-npz: named arrays, SciPy's sparse matrices, and zips that mean harm."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from evenkeel.serve.codec.codec import Array, Form
from evenkeel.serve.codec.npz import Npz
from evenkeel.serve.contract.signature import TensorSpec
from evenkeel.serve.errors import BadRequest, BadShape, BodyTooLarge
from tests.serve.codec.samples import decode, model, same, values, x
from tests.serve.codec.test_npy import npy

NPZ = "application/x-npz"
TWO = model(TensorSpec("a", "float32", (2,)), TensorSpec("b", "string", ()))
MATRIX = np.array([[0, 1.5, 0], [2, 0, 0], [0, 0, 3]], np.float32)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def saved(*args: Array, **arrays: Array) -> bytes:
    file = io.BytesIO()
    np.savez(file, *args, **arrays)  # type: ignore[arg-type]  # numpy's stub sees allow_pickle in any keyword
    return file.getvalue()


def sparse(kind: str, **changes: object) -> bytes:
    """The members that scipy.sparse.save_npz writes for MATRIX."""
    at = {"csr": np.nonzero(MATRIX), "csc": np.nonzero(MATRIX.T)[::-1], "coo": np.nonzero(MATRIX)}[kind]
    parts: dict[str, object] = {"format": np.array(kind.encode()), "shape": np.array([3, 3]), "data": MATRIX[at]}
    if kind == "coo":
        parts |= {"row": at[0].astype(np.int32), "col": at[1].astype(np.int32)}
    else:
        parts |= {"indices": at[1 if kind == "csr" else 0].astype(np.int32), "indptr": np.array([0, 1, 2, 3], np.int32)}
    return zipped({f"{name}.npy": npy(part) for name, part in (parts | changes).items() if part is not None})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_go_to_the_inputs_of_their_names(save: object) -> None:
    file = io.BytesIO()
    save(file, b=np.array(["p", "q"]), a=np.array([[1, 2], [3, 4]]))  # type: ignore[operator]
    decoded = decode(NPZ, file.getvalue(), TWO)
    assert same(decoded.arrays[0], np.array([[1, 2], [3, 4]], np.float32)) and decoded.arrays[1].tolist() == ["p", "q"]


def test_arrays_without_names_go_in_order() -> None:
    decoded = decode(NPZ, saved(np.array([[1, 2]]), np.array(["p"])), TWO)
    assert [array.tolist() for array in decoded.arrays] == [[[1, 2]], ["p"]]


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_a_sparse_matrix_becomes_dense(kind: str) -> None:
    assert same(decode(NPZ, sparse(kind), model(x("float32", 3))).arrays[0], MATRIX)
    assert same(decode(NPZ, sparse(kind), model(x("float64", "n"))).arrays[0], MATRIX.astype(np.float64))


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_scipys_own_bytes_are_read(kind: str) -> None:
    scipy_sparse = pytest.importorskip("scipy.sparse")
    for compressed in (True, False):
        file = io.BytesIO()
        scipy_sparse.save_npz(file, scipy_sparse.coo_matrix(MATRIX).asformat(kind), compressed=compressed)
        assert same(decode(NPZ, file.getvalue(), model(x("float32", 3))).arrays[0], MATRIX)


def test_what_is_stored_plainly_is_not_copied_and_still_checked() -> None:
    array = np.arange(1200, dtype=np.float32).reshape(400, 3)
    body = saved(x=array)
    decoded = decode(NPZ, body, model(x("float32", 3)))
    assert same(decoded.arrays[0], array)
    assert np.shares_memory(decoded.arrays[0], np.frombuffer(body, np.uint8))
    at = body.index(array[200:].tobytes())
    damaged = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
    with pytest.raises(BadRequest, match="array 'x': it is damaged"):
        decode(NPZ, damaged, model(x("float32", 3)))


def test_a_length_that_two_places_state_differently_is_refused() -> None:
    body = zipped({"x.npy": npy(np.ones((4, 3), np.float32))})
    entry = body.rindex(b"PK\x01\x02")  # of the directory at the end: its sizes are what a reader believes
    for at in (20, 24):  # the packed size, the unpacked size
        for change in (-1, 1, 1 << 30):
            size = int.from_bytes(body[entry + at : entry + at + 4], "little") + change
            wrong = body[: entry + at] + size.to_bytes(4, "little") + body[entry + at + 4 :]
            with pytest.raises((BadRequest, BodyTooLarge)):
                decode(NPZ, wrong, model(x("float32", 3)))


def test_duplicate_places_add_up_as_scipy_adds_them() -> None:
    body = sparse("coo", row=np.array([0, 0, 1]), col=np.array([1, 1, 0]), data=np.array([1, 2, 5], np.float32))
    assert values(decode(NPZ, body, model(x("float32", 3)))) == [[0, 3, 0], [5, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "kind, changes, words",
    [
        ("csr", {"shape": np.array([3, 4])}, "expected x: float32"),
        ("csr", {"shape": np.array([-3, 3])}, "malformed"),
        ("csr", {"shape": np.array([3])}, "malformed"),
        ("csr", {"shape": np.array([3.0, 3.0])}, "malformed"),
        ("csr", {"indices": np.array([0, 1, 3])}, "outside of its shape"),
        ("csr", {"indices": np.array([0, 1, -1])}, "outside of its shape"),
        ("csr", {"indices": np.array([0, 1])}, "differ in length"),
        ("csr", {"indptr": np.array([0, 1, 2])}, "indptr does not fit"),
        ("csr", {"indptr": np.array([0, 2, 1, 3])}, "indptr does not fit"),
        ("csr", {"indptr": np.array([1, 1, 2, 3])}, "indptr does not fit"),
        ("csr", {"indptr": None}, "csr, csc or coo"),
        ("csr", {"data": np.array(["1", "2", "3"])}, "malformed"),
        ("csr", {"format": np.array(b"dia")}, "csr, csc or coo"),
        ("csr", {"format": np.array(7)}, "csr, csc or coo"),
        ("csr", {"format": np.array([b"csr"])}, "csr, csc or coo"),
        ("coo", {"row": np.array([0, 1])}, "differ in length"),
    ],
)
def test_a_malformed_sparse_matrix_is_refused(kind: str, changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        decode(NPZ, sparse(kind, **changes), model(x("float32", 3)))


def test_a_sparse_matrix_is_one_input() -> None:
    with pytest.raises(BadShape, match="the model has 2 inputs"):
        decode(NPZ, sparse("csr"), TWO)


@pytest.mark.parametrize(
    "members, words",
    [
        ({"a.npy": npy(np.zeros((1, 2)))}, "'b' is missing"),
        ({"a.npy": npy(np.zeros((1, 2))), "b.npy": npy(["p"]), "c.npy": npy([1])}, "no input 'c'"),
        ({"a.npy": npy(np.zeros((1, 3))), "b.npy": npy(["p"])}, "expected a: float32"),
        ({"a.npy": npy(np.zeros((2, 2))), "b.npy": npy(["p"])}, "disagree on rows: 'a' has 2, 'b' 1"),
        ({"a.npy": b"what?", "b.npy": npy(["p"])}, "array 'a': not an NPY file"),
        ({"a.npy": npy(np.zeros((1, 2)))[:-1], "b.npy": npy(["p"])}, "array 'a': the NPY file is truncated"),
        ({"a.npy": b"", "b.npy": npy(["p"])}, "array 'a'"),
        ({}, "is missing"),
    ],
)
def test_wrong_members_are_refused(members: dict[str, bytes], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        decode(NPZ, zipped(members), TWO)


def test_a_bomb_that_lies_about_its_size_yields_no_more_than_it_admits() -> None:
    honest = zipped({"x.npy": npy(np.zeros((1, 1 << 16)))}, zipfile.ZIP_DEFLATED)
    lying = honest.replace((128 + (8 << 16)).to_bytes(4, "little"), (200).to_bytes(4, "little"))
    assert lying != honest
    with pytest.raises(BadRequest):
        decode(NPZ, lying, model(x("float32", "n")))


def test_too_many_members_duplicates_and_odd_compression_are_refused() -> None:
    with pytest.raises(BadRequest, match="over 256 members"):
        decode(NPZ, zipped({f"{i}.npy": b"" for i in range(257)}), TWO)
    with pytest.raises(BadRequest, match="twice"):
        decode(NPZ, zipped({"a": npy([1]), "a.npy": npy([1])}), TWO)
    with pytest.raises(BadRequest, match="compressed in a way that is not known"):
        decode(NPZ, zipped({"a.npy": npy([1])}, zipfile.ZIP_LZMA), TWO)


def test_every_cut_is_noticed() -> None:
    whole = saved(a=np.zeros((1, 2)), b=np.array(["p"]))
    for length in range(0, len(whole), 7):
        with pytest.raises(BadRequest):
            decode(NPZ, whole[:length], TWO)


def test_a_reply_holds_every_output_by_name_and_is_the_same_each_time() -> None:
    outputs = (TensorSpec("file", "float32", (2,)), TensorSpec("z", "string", ()), TensorSpec("w", "bfloat16", ()))
    arrays = (np.array([[0.1, np.nan]], np.float32), np.array(["é"], dtype=object), np.array([0x3F80], np.uint16))
    body = Npz().encode(arrays, model(x(), outputs=outputs), Form.BARE)
    loaded = np.load(io.BytesIO(body), allow_pickle=False)
    assert np.array_equal(loaded["file"], arrays[0], equal_nan=True)
    assert loaded["z"].tolist() == ["é"] and loaded["w"].tolist() == [1.0]
    assert body == Npz().encode(arrays, model(x(), outputs=outputs), Form.BARE)
