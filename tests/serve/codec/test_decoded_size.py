"""What a body becomes is known and bounded before it is made, whatever the body weighs."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from evenkeel.serve.codec import decoded_size, json_document, npz, zip_directory
from evenkeel.serve.codec.codec_plan import plan_of
from evenkeel.serve.codec.registry import CODECS
from evenkeel.serve.codec.zip_directory import Directory, read_directory
from evenkeel.serve.contract.signature import Signature
from evenkeel.serve.errors import BadRequest, BadShape, BodyTooLarge, EvenkeelError
from evenkeel.serve.transport.slots import SLOT_BYTES_MAX
from tests.serve.codec.samples import decode, model, x
from tests.serve.codec.test_npy import npy
from tests.serve.codec.test_npz import NPZ, sparse, zipped

MIB = 1 << 20
NUMBERS, TEXTS, BYTES = model(x("float32", "n")), model(x("string")), model(x("uint8", "n"))


def header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


@pytest.fixture
def inflated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many bytes came out of each call that inflates."""
    sizes: list[int] = []
    real = zlib.decompressobj

    class Counted:
        def __init__(self, *args: int) -> None:
            self._real = real(*args)

        def decompress(self, data: bytes, bound: int = 0) -> bytes:
            out = self._real.decompress(data, bound)
            sizes.append(len(out))
            return out

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    monkeypatch.setattr(zipfile.zlib, "decompressobj", Counted)  # type: ignore[attr-defined]
    yield sizes


def bomb(shape: str, content: int, name: str = "x.npy") -> bytes:
    return zipped({name: header(shape) + bytes(content)}, zipfile.ZIP_DEFLATED)


def test_no_array_may_be_larger_than_the_largest_slot() -> None:
    assert decoded_size.ARRAY_BYTES_MAX == SLOT_BYTES_MAX


@pytest.mark.parametrize(
    ("body", "signature", "words"),
    [
        (bomb("(2, 8, 8)", 64 * MIB), model(x("float32", 8, 8)), "its header says 640 bytes"),
        (bomb("(1, 16777216)", 64 * MIB), model(x("float32", 8)), "expected x: float32"),
        (bomb("(1, 16777216)", 64 * MIB, "other.npy"), NUMBERS, "no input 'other'"),
        (zipped({"x.npy": bytes(64 * MIB)}, zipfile.ZIP_DEFLATED), NUMBERS, "does not start as one"),
    ],
)
def test_an_archive_is_refused_by_its_header_and_not_inflated(
    body: bytes, signature: Signature, words: str, inflated: list[int]
) -> None:
    assert len(body) < 100_000
    with pytest.raises(BadRequest, match=words):
        decode(NPZ, body, signature)
    assert sum(inflated) <= 4096


def test_an_archive_that_promises_more_than_there_is_room_for_is_not_opened(inflated: list[int]) -> None:
    with pytest.raises(BodyTooLarge, match="would take up to 17 MiB to decode, over the limit of 8 MiB"):
        CODECS[NPZ].decode(bomb("(1, 4194304)", 16 * MIB), NUMBERS, {}, room=8 * MIB)
    assert inflated == []


def claiming(size: int, archive: bytes) -> bytes:
    """The archive's one member is said to unpack to so many bytes, in both places."""
    body = bytearray(archive)
    for magic, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<I", body, body.index(magic) + at, size)
    return bytes(body)


def test_an_array_that_no_slot_takes_is_refused_by_its_header_and_at_every_time(inflated: list[int]) -> None:
    head = header("(1, 134217728)")
    body = claiming(len(head) + 512 * MIB, bomb("(1, 134217728)", MIB))
    with pytest.raises(BodyTooLarge, match="takes 512 MiB, over the limit of 256 MiB") as caught:
        decode(NPZ, body, NUMBERS)
    assert sum(inflated) <= 4096
    assert caught.value.needed == 0, "no memory that others give back would help"


def test_what_fits_is_inflated_once_into_memory_of_its_size() -> None:
    array = np.arange(3 * MIB, dtype=np.float32).reshape(2, -1)
    decoded = decode(NPZ, zipped({"x.npy": npy(array)}, zipfile.ZIP_DEFLATED), NUMBERS)
    assert np.array_equal(decoded.arrays[0], array)


def test_a_damaged_archive_is_refused_at_its_checksum() -> None:
    body = bytearray(zipped({"x.npy": npy(np.arange(64.0)[None])}, zipfile.ZIP_DEFLATED))
    at = body.index(b"PK\1\2") + 16
    body[at] ^= 1  # of the checksum in the directory
    with pytest.raises(BadRequest, match="CRC"):
        decode(NPZ, bytes(body), NUMBERS)


@pytest.mark.parametrize("shape", [[10**9, 10**9], [1, 10**8], [10**8, 1]])
def test_a_sparse_matrix_is_charged_by_its_shape(shape: list[int]) -> None:
    with pytest.raises(BodyTooLarge, match="over the limit of 256 MiB"):
        decode(NPZ, sparse("coo", shape=np.array(shape)), NUMBERS)


def test_a_sparse_matrix_within_a_slot_is_charged_against_the_room() -> None:
    with pytest.raises(BodyTooLarge, match="over the limit of 8 MiB"):
        CODECS[NPZ].decode(sparse("coo", shape=np.array([3, MIB])), NUMBERS, {}, room=8 * MIB)


def test_an_array_is_charged_as_the_input_that_it_becomes() -> None:
    body = header("(1, 20971520)", "|u1") + bytes(20 * MIB)
    with pytest.raises(BodyTooLarge, match="would take up to 160 MiB"):
        CODECS["application/x-npy"].decode(body, model(x("float64", "n")), {}, room=100 * MIB)
    wide = header("(1, 41943040)", "|u1") + bytes(40 * MIB)
    with pytest.raises(BodyTooLarge, match="takes 320 MiB, over the limit of 256 MiB"):
        CODECS["application/x-npy"].decode(wide, model(x("float64", "n")), {})


MANY = 64 * 1024  # records, of few bytes each


@pytest.mark.parametrize(
    ("mime", "body", "signature"),
    [
        ("application/json", b'{"instances":[' + b",".join([b'"ab"'] * MANY) + b"]}", TEXTS),
        ("application/json", b"[" + b",".join([b"[]"] * 2 * MANY) + b"]", model(x("float32", 2))),
        ("application/json", b"[" + b",".join([b"{}"] * 2 * MANY) + b"]", model(x("float32", 2))),
        ("application/json", b"[" * 512 * 1024 + b"]" * 512 * 1024, NUMBERS),
        ("application/jsonlines", b'"ab"\n' * MANY, TEXTS),
        ("application/jsonlines", b"[]\n" * 2 * MANY, model(x("float32", 2))),
        ("text/csv", b"ab\n" * MANY, TEXTS),
        ("text/csv", b'"1"\n' * MANY, model(x("float32", 1))),
        ("application/x-npy", npy(np.full(MANY, b"ab")), TEXTS),
    ],
)  # fmt: skip
def test_text_is_charged_by_the_objects_that_it_becomes(mime: str, body: bytes, signature: Signature) -> None:
    with pytest.raises(BodyTooLarge, match="MiB to decode, over the limit of 2 MiB") as caught:
        CODECS[mime].decode(body, signature, {}, room=2 * MIB)
    assert caught.value.needed > 2 * MIB


def test_plain_numbers_need_no_objects_however_many_they_are() -> None:
    body = json.dumps({"instances": [[0.5] * 100_000]}).encode()
    assert CODECS["application/json"].decode(body, NUMBERS, {}, room=MIB).rows == 1
    lines = b"[1,2]\n" * 100_000
    assert CODECS["application/jsonlines"].decode(lines, model(x("float32", 2)), {}, room=MIB).rows == 100_000


@pytest.mark.parametrize("shape", ["(1099511627776, 0)", "(4294967297, 0)", "(65537, 0)"])
def test_rows_that_hold_nothing_are_bounded_by_number(shape: str) -> None:
    with pytest.raises(BadShape, match="rows that hold nothing"):
        decode("application/x-npy", header(shape), NUMBERS)
    assert decode("application/x-npy", header("(65536, 0)"), NUMBERS).rows == 65536


@pytest.mark.parametrize(
    ("mime", "body", "signature", "quick"),
    [
        ("application/json", b'{"instances": [[1, 2]]}', NUMBERS, True),
        ("application/json", b'{"instances": [[' + b"1," * 30_000 + b"1]]}", NUMBERS, True),
        ("application/json", b'{"instances": [[' + b"1," * 60_000 + b"1]]}", NUMBERS, False),
        ("application/json", b"[" + b"[]," * 20_000 + b"[]]", NUMBERS, False),
        ("application/json", b'{"instances": [' + b'"ab",' * 8_000 + b'""]}', TEXTS, False),
        ("application/json", b'{"instances":[{"keys":[],"shape":[784],"values":[]}]}', NUMBERS, True),
        ("application/json", b'{"instances":[{"keys":[],"shape" : [ 60000000],"values":[]}]}', NUMBERS, False),
        ("application/json", b'{"instances":[{"keys":[],"sh\\u0061pe":[60000000],"values":[]}]}', NUMBERS, False),
        ("application/jsonlines", b'{"keys":[],"shape":[60000000],"values":[]}\n', NUMBERS, False),
        ("text/csv", b"1,2\n" * 20_000, model(x("float32", 2)), True),
        ("text/csv", b'"1",2\n' * 8_000, model(x("float32", 2)), False),
        ("text/csv", b"some text\n" * 8_000, TEXTS, False),
        ("application/x-npy", header("(1, 131072)") + bytes(131072 * 4), NUMBERS, True),
        ("application/x-npy", npy(np.full(40_000, b"ab")), TEXTS, False),
        ("application/x-npy", b"what?", NUMBERS, True),
        (NPZ, zipped({"x.npy": npy(np.zeros((1, 1000)))}), NUMBERS, True),
        (NPZ, zipped({"x.npy": npy(np.zeros((1, 1000)))}, zipfile.ZIP_DEFLATED), NUMBERS, True),
        (NPZ, bomb("(1, 262144)", MIB), NUMBERS, False),
        (NPZ, sparse("coo"), NUMBERS, False),
        (NPZ, b"what?", NUMBERS, True),
        ("application/octet-stream", bytes(MIB), model(x("float32", 4)), True),
    ],
)  # fmt: skip
def test_only_what_is_quick_is_decoded_between_other_requests(mime: str, body: bytes, signature: Signature, quick: bool) -> None:
    codec = CODECS[mime]
    assert codec.is_quick(body, signature) is quick
    assert codec.is_quick(memoryview(bytearray(body)), signature) is quick


def test_a_directory_in_disorder_promises_anything() -> None:
    whole = zipped({"x.npy": npy(np.zeros((1, 64)))}, zipfile.ZIP_DEFLATED)
    assert read_directory(whole) == Directory((b"x.npy",), 128 + 64 * 8)
    for length in range(len(whole)):
        with pytest.raises(BadRequest, match="not a readable NPZ"):
            read_directory(whole[:length])


def end_of(entries: int, size: int, offset: int) -> bytes:
    return zip_directory.END.pack(b"PK\5\6", 0, 0, entries, entries, size, offset, 0)


def lies(whole: bytes) -> dict[str, bytes]:
    """Archives of which zipfile would read another directory than the one that the end seems to tell of."""
    _, _, _, _, entries, size, offset, _ = zip_directory.END.unpack_from(whole, len(whole) - 22)
    content, directory, small = whole[:offset], whole[offset:-22], zipped({"x.npy": npy(np.zeros((1, 2)))})
    decoy = small[:-22]
    *_, decoy_at, _ = zip_directory.END.unpack_from(small, len(small) - 22)
    many = directory * 300
    return {
        "counts none": content + directory + end_of(0, size, offset),
        "counts one less than two": content + 2 * directory + end_of(1, 2 * size, offset),
        "another directory where it points": decoy + content + directory + end_of(entries, size, decoy_at),
        "a size that holds more": content + directory + end_of(entries, size - 1, offset + 1),
        "more entries than may be": content + many + end_of(300, len(many), offset),
        "a remark": whole[:-2] + b"\1\0?",
        "bytes in front": b"#!/bin/sh\n" + whole,
        "the end of an archive of over 4 GiB": content + directory + b"PK\6\7" + bytes(16) + end_of(entries, size, offset),
    }


@pytest.mark.parametrize("lie", list(lies(zipped({"x.npy": npy(np.zeros((1, 64)))}, zipfile.ZIP_DEFLATED))))
def test_an_archive_that_tells_two_stories_is_refused_before_it_is_opened(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = lies(zipped({"x.npy": npy(np.zeros((1, 64)))}, zipfile.ZIP_DEFLATED))[lie]
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it was opened"))
    assert CODECS[NPZ].is_quick(body, NUMBERS), "to be refused"
    with pytest.raises(BadRequest, match="NPZ file"):
        decode(NPZ, body, NUMBERS)
    with pytest.raises(BadRequest, match="NPZ"):
        npz.opened(body)  # the way of handlers


def test_texts_in_an_archive_are_not_quick_however_they_are_packed() -> None:
    assert not CODECS[NPZ].is_quick(zipped({"x.npy": npy(np.full((1, 9), b"a"))}), TEXTS)


def test_deep_nesting_is_no_crash() -> None:
    for body in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"instances":' + b"[" * 5000 + b"]" * 5000 + b"}"):
        with pytest.raises(EvenkeelError):
            decode("application/json", body, NUMBERS)


@pytest.mark.parametrize("mime", ["application/json", "application/jsonlines"])
@pytest.mark.parametrize("row", [b'"ab"', b'{"a": 1, "b": 2}', '"中文"'.encode()])
def test_a_text_is_no_list_of_its_letters_and_an_object_none_of_its_names(mime: str, row: bytes) -> None:
    for dtype in ("float32", "int64"):
        body = row + b"\n" if mime == "application/jsonlines" else b'{"instances": [' + row + b"]}"
        with pytest.raises(BadShape):
            decode(mime, body, model(x(dtype, 2)))


@pytest.mark.parametrize("mime", ["application/json", "application/jsonlines"])
def test_a_long_text_is_charged_by_its_widest_character(mime: str) -> None:
    body = b'["' + "中".encode() * (MIB // 2) + b'"]\n'
    with pytest.raises(BodyTooLarge, match="would take up to 7 MiB to decode"):
        CODECS[mime].decode(body, NUMBERS, {}, room=4 * MIB)


def test_a_document_of_very_many_lists_is_refused_before_it_is_read() -> None:
    body = b"[" + b"[]," * decoded_size.CONTAINERS_MAX + b"[]]"
    with pytest.raises(BodyTooLarge, match="lists and objects"):
        decode("application/json", body, model(x("float32", 2)))


def test_one_row_of_many_lists_is_not_read_on_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(model(x("float32", 2)))
    codec = CODECS["application/json"]
    monkeypatch.setattr(json_document.orjson, "loads", lambda body: pytest.fail("it was read"))
    assert codec.decode_row(b'{"instances":[' + b"[]," * 1000 + b"[]]}", plan) is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(("shape", "descr"), [("(4611686018427387904, 0)", "|b1"), ("(4611686018427387904, 0)", "|S1"),
                                              ("(4294967296, 0)", "<f4")])  # fmt: skip
@pytest.mark.parametrize("signature", [NUMBERS, model(x("string", "n")), model(x("float32", 0))])
def test_absurd_empty_shapes_are_refused_as_bad_requests(shape: str, descr: str, signature: Signature) -> None:
    with pytest.raises(BadRequest):
        decode("application/x-npy", header(shape, descr), signature)


@pytest.mark.parametrize("body", [b"1,2\n", b"\n", b'""\n'])
def test_cells_for_a_model_that_takes_none_are_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        decode("text/csv", body, model(x("float32", 0)))
