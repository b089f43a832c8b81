"""The pure parts of S3 on folders: names, chunks, ranges and lists, with whatever comes from outside."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.endpoint.s3.aws_chunks import AwsChunks, Digests
from evenkeel.endpoint.s3.byte_range import wanted_range
from evenkeel.endpoint.s3.object_listing import KeysWanted, page_of
from evenkeel.endpoint.s3.object_names import bucket_name, key_path
from evenkeel.endpoint.wire.api_errors import ApiError


@pytest.mark.parametrize("key", ["../x", "a/../b", "/a", "a//b", "a/", ".", "a/./b", "a\0b", "é" * 600, "a" * 256, ""])
def test_a_key_that_leaves_its_bucket_or_is_no_file_is_refused(key: str) -> None:
    with pytest.raises(ApiError) as caught:
        key_path(key)
    assert caught.value.code == "InvalidArgument"


@pytest.mark.parametrize("name", ["..", "A", "ab", "a/b", "192.168.0.1", "a..b", "-ab", "x" * 64, ""])
def test_a_bucket_has_a_name_that_s3_takes(name: str) -> None:
    with pytest.raises(ApiError):
        bucket_name(name)
    assert bucket_name("my-bucket.1") == "my-bucket.1"


def chunked(pieces: list[bytes], *trailers: str) -> bytes:
    body = b"".join(b"%x;chunk-signature=0\r\n%b\r\n" % (len(p), p) for p in pieces if p)
    return body + b"0\r\n" + "".join(f"{t}\r\n" for t in trailers).encode() + b"\r\n"


@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 50))
def test_chunks_come_whole_however_they_are_cut(pieces: list[bytes], step: int) -> None:
    wire = chunked(pieces, "x-amz-checksum-crc32:AAAAAA==")
    chunks = AwsChunks()
    read = b"".join(part for at in range(0, len(wire), step) for part in chunks.feed(wire[at : at + step]))
    assert read == b"".join(pieces) and chunks.is_complete and chunks.trailers == {"x-amz-checksum-crc32": "AAAAAA=="}


@given(st.binary(max_size=200))
def test_any_bytes_are_chunks_or_refused(data: bytes) -> None:
    chunks = AwsChunks()
    try:
        b"".join(chunks.feed(data))
    except ApiError as e:
        assert e.status == 400


@pytest.mark.parametrize("wire", [b"zz\r\n", b"3\r\nabcd\r\n", b"0\r\n\r\nmore", b"1" * 5000, b"0\r\n" + b"a:b\r\n" * 40])
def test_broken_chunks_are_refused(wire: bytes) -> None:
    with pytest.raises(ApiError):
        list(AwsChunks().feed(wire))


def test_a_checksum_that_does_not_fit_is_refused() -> None:
    digests = Digests()
    digests.add(b"abc")
    right = base64.b64encode(zlib.crc32(b"abc").to_bytes(4, "big")).decode()
    digests.check({"x-amz-checksum-crc32": right, "x-amz-checksum-crc64nvme": "unknown here"})
    with pytest.raises(ApiError) as caught:
        digests.check({"x-amz-checksum-crc32": "AAAAAA=="})
    assert caught.value.code == "BadDigest"


@pytest.mark.parametrize(
    ("header", "span"),
    [("", (0, 10)), ("bytes=0-3", (0, 4)), ("bytes=5-", (5, 10)), ("bytes=-4", (6, 10)), ("bytes=-40", (0, 10)),
     ("bytes=8-99", (8, 10)),
     ("bytes=0-1,4-5", (0, 10)), ("items=1-2", (0, 10)), ("bytes=-", (0, 10))],
)  # fmt: skip
def test_a_range_is_one_span(header: str, span: tuple[int, int]) -> None:
    assert wanted_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=5-2", "bytes=-0"])
def test_a_range_beyond_the_end_is_refused(header: str) -> None:
    with pytest.raises(ApiError) as caught:
        wanted_range(header, 10)
    assert caught.value.status == 416


KEYS = st.lists(st.text("ab/", min_size=1, max_size=6), unique=True, max_size=30).map(sorted)


@given(KEYS, st.sampled_from(["", "a", "a/"]), st.sampled_from(["", "/"]), st.integers(1, 5))
def test_pages_tell_every_key_and_prefix_once(keys: list[str], prefix: str, delimiter: str, most: int) -> None:
    found: list[str] = []
    after = ""
    for _ in range(100):
        page = page_of(keys, KeysWanted(prefix, delimiter, after, most))
        assert len(page.keys) + len(page.prefixes) <= most
        found += [*page.keys, *page.prefixes]
        after = page.last
        if not after:
            break
    whole = {k for k in keys if k.startswith(prefix)}
    rolled = {k[: k.index(delimiter, len(prefix)) + 1] for k in whole if delimiter and delimiter in k[len(prefix) :]}
    plain = {k for k in whole if not (delimiter and delimiter in k[len(prefix) :])}
    assert sorted(found) == sorted(rolled | plain)
