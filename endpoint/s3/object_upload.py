"""Bodies that become objects: written as they come, checked, then moved to their place; and the documents of clients."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evenkeel.endpoint.s3 import s3_xml
from evenkeel.endpoint.s3.aws_chunks import CHECKSUM, AwsChunks, Digests
from evenkeel.endpoint.s3.multipart_uploads import MultipartUploads
from evenkeel.endpoint.s3.object_folder import BINARY, ObjectFacts, ObjectFolder
from evenkeel.endpoint.s3.object_names import key_path
from evenkeel.endpoint.wire.api_errors import S3_BAD_PART, S3_MALFORMED_BODY, S3_MALFORMED_XML, S3_NOT_SUPPORTED, ApiError, fail

Receive = Callable[[], Awaitable[dict[str, Any]]]
DOCUMENT_BYTES_MAX = 4 << 20
META = "x-amz-meta-"
META_BYTES_MAX = 2048  # D: S3, user-defined metadata
ETAG = re.compile(r'"?([0-9a-f]{32})"?')


class ObjectUpload:
    def __init__(self, objects: ObjectFolder) -> None:
        self._objects, self._parts = objects, MultipartUploads(objects)

    async def put(self, bucket: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], receive: Receive) -> str:
        """Of an object, or of a part of an upload. The ETag."""
        if "x-amz-copy-source" in headers:
            raise fail(S3_NOT_SUPPORTED, what="UploadPartCopy")
        upload = query.get("uploadId", "")
        self._objects.bucket(bucket)
        key_path(key)
        fresh = self._parts.part(upload, query.get("partNumber", "")) if upload else self._objects.fresh()
        try:
            digests = await _written(fresh, headers, receive)
            if upload:
                self._parts.keep(fresh, digests.etag)
            else:
                facts = ObjectFacts(digests.etag, headers.get("content-type", BINARY), metadata_of(headers))
                self._objects.place(fresh, bucket, key, facts)
        finally:
            fresh.unlink(missing_ok=True)
        return digests.etag

    def begin(self, bucket: str, key: str, headers: Mapping[str, str]) -> str:
        key_path(key)
        return self._parts.begin(bucket, key, headers.get("content-type", ""), metadata_of(headers))

    async def complete(self, upload: str, receive: Receive) -> tuple[str, str, str]:
        root = s3_xml.read(await _document(receive))
        parts = []
        for part in root.findall("Part"):
            number, etag = part.findtext("PartNumber", ""), ETAG.fullmatch(part.findtext("ETag", ""))
            if etag is None or not (number.isascii() and number.isdigit() and len(number) < 6):
                raise fail(S3_BAD_PART, number=number[:16])
            parts.append((int(number), etag[1]))
        return await asyncio.to_thread(self._parts.complete, upload, parts)

    def abort(self, upload: str) -> None:
        self._parts.abort(upload)

    async def delete_many(self, bucket: str, receive: Receive) -> list[s3_xml.Part]:
        root = s3_xml.read(await _document(receive))
        self._objects.bucket(bucket)
        is_quiet = root.findtext("Quiet", "").lower() == "true"
        told: list[s3_xml.Part] = []
        for element in root.findall("Object"):
            key = element.findtext("Key", "")
            try:
                self._objects.delete(bucket, key)
            except ApiError as e:
                told.append(("Error", [("Key", key), ("Code", e.code), ("Message", e.message)]))
            else:
                told += [] if is_quiet else [("Deleted", [("Key", key)])]
        return told


def metadata_of(headers: Mapping[str, str]) -> dict[str, str]:
    found = {name.removeprefix(META): value for name, value in headers.items() if name.startswith(META)}
    if sum(len(name) + len(value) for name, value in found.items()) > META_BYTES_MAX:
        raise fail(S3_MALFORMED_BODY, why=f"its metadata is larger than {META_BYTES_MAX} bytes")
    return found


async def _written(path: Path, headers: Mapping[str, str], receive: Receive) -> Digests:
    digests = Digests()
    chunks = AwsChunks() if _is_chunked(headers) else None
    with path.open("wb") as file:
        async for data in _pieces(receive):
            for piece in chunks.feed(data) if chunks else _whole(data):
                digests.add(piece)
                file.write(piece)
        await asyncio.to_thread(os.fsync, file.fileno())
    if chunks and not chunks.is_complete:
        raise fail(S3_MALFORMED_BODY, why="it ends before its last piece")
    expected = headers.get("x-amz-decoded-content-length", "")
    if chunks and expected.isdigit() and int(expected) != digests.size:
        raise fail(S3_MALFORMED_BODY, why=f"it has {digests.size} bytes, and {expected[:20]} were announced")
    told = ("content-md5",) if chunks is None else ()
    digests.check({n: v for n, v in headers.items() if n.startswith(CHECKSUM) or n in told})
    digests.check(chunks.trailers if chunks else {})
    return digests


def _is_chunked(headers: Mapping[str, str]) -> bool:
    encoding, hashed = headers.get("content-encoding", ""), headers.get("x-amz-content-sha256", "")
    return "aws-chunked" in encoding or hashed.startswith("STREAMING-")


def _whole(data: bytes) -> Iterator[bytes]:
    yield data


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise fail(S3_MALFORMED_BODY, why="the client left before its end")
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def _document(receive: Receive) -> bytes:
    parts = bytearray()
    async for piece in _pieces(receive):
        parts += piece
        if len(parts) > DOCUMENT_BYTES_MAX:
            raise fail(S3_MALFORMED_XML)
    return _unchunked(bytes(parts))


def _unchunked(body: bytes) -> bytes:
    """Some SDKs send documents in aws-chunked as well."""
    if body.lstrip()[:1] == b"<":
        return body
    return b"".join(AwsChunks().feed(body))
