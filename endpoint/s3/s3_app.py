"""The S3 API over HTTP: which call is meant, and its answer. Bodies go in pieces; no object is ever in memory."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from evenkeel.endpoint.s3 import s3_xml
from evenkeel.endpoint.s3.byte_range import wanted_range
from evenkeel.endpoint.s3.object_folder import ObjectFolder
from evenkeel.endpoint.s3.object_listing import KEYS_MAX, KeysWanted, page_of
from evenkeel.endpoint.s3.object_upload import ObjectUpload, Receive, metadata_of
from evenkeel.endpoint.wire.api_errors import S3_NOT_SUPPORTED, ApiError, fail
from evenkeel.endpoint.wire.http_records import HttpAnswer, HttpCall

PIECE_BYTES = 256 << 10
Send = Callable[[dict[str, Any]], Awaitable[None]]
# queries that choose another operation, none of which there is
OTHERS = frozenset({
    "acl", "tagging", "policy", "versioning", "versions", "cors", "lifecycle", "encryption", "website", "logging", "notification",
    "replication", "torrent", "retention", "legal-hold", "object-lock", "attributes", "select", "restore", "publicAccessBlock",
    "ownershipControls", "inventory", "metrics", "analytics", "accelerate", "requestPayment", "policyStatus",
    "intelligent-tiering",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class S3Call:
    """`key` is "" for a call about the bucket, `bucket` is "" for one about all."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


def s3_call(call: HttpCall) -> S3Call:
    """Raises ApiError where it is an operation that there is not."""
    bucket, _, key = unquote(call.path.removeprefix("/"), errors="surrogateescape").partition("/")
    query = dict(parse_qsl(call.query, keep_blank_values=True, max_num_fields=64, errors="surrogateescape"))
    if other := sorted(OTHERS & query.keys()):
        raise fail(S3_NOT_SUPPORTED, what=f"?{other[0]}")
    return S3Call(call.method, bucket, key, query, call.headers)


class S3App:
    def __init__(self, objects: ObjectFolder) -> None:
        self._objects = objects
        self._uploads = ObjectUpload(objects)

    async def answer(self, head: HttpCall, receive: Receive, send: Send) -> None:
        try:
            call = s3_call(head)
            if call.method == "GET" and call.key and "uploadId" not in call.query:
                await self._get(call, send)
                return
            reply = await self._does(call, receive)
        except ApiError as e:
            reply = refused(e, head)
        await _send(reply, send)

    async def _does(self, call: S3Call, receive: Receive) -> HttpAnswer:
        if call.key:
            return await self._on_object(call, receive)
        if call.bucket:
            return await self._on_bucket(call, receive)
        if call.method == "GET":
            found = [
                ("Bucket", [("Name", name), ("CreationDate", s3_xml.moment(at_s))]) for name, at_s in self._objects.buckets()
            ]
            owner = [("ID", "evenkeel"), ("DisplayName", "evenkeel")]
            return _xml("ListAllMyBucketsResult", [("Owner", owner), ("Buckets", found)])
        raise fail(S3_NOT_SUPPORTED, what=f"{call.method} of all buckets")

    async def _on_bucket(self, call: S3Call, receive: Receive) -> HttpAnswer:
        name = call.bucket
        if call.method == "PUT":
            self._objects.create_bucket(name)
            return HttpAnswer(200, b"", {"location": f"/{name}"})
        if call.method == "POST" and "delete" in call.query:
            return _xml("DeleteResult", await self._uploads.delete_many(name, receive))
        path = self._objects.bucket(name)
        if call.method == "HEAD":
            return HttpAnswer(200)
        if call.method == "DELETE":
            self._objects.delete_bucket(name)
            return HttpAnswer(204)
        if call.method == "GET" and "location" in call.query:
            return _xml("LocationConstraint", [])
        if call.method == "GET" and call.query.get("list-type") == "2":
            return self._listed(call, path)
        raise fail(S3_NOT_SUPPORTED, what=f"{call.method} of a bucket (of lists there is ListObjectsV2)")

    def _listed(self, call: S3Call, bucket: Path) -> HttpAnswer:
        text = call.query.get
        most = text("max-keys", "")
        count = min(KEYS_MAX, int(most)) if most.isascii() and most.isdigit() and len(most) < 9 else KEYS_MAX
        after = text("continuation-token", "") or text("start-after", "")
        page = page_of(self._objects.keys(call.bucket), KeysWanted(text("prefix", ""), text("delimiter", ""), after, count))
        encode = quote if text("encoding-type") == "url" else str
        parts: list[s3_xml.Part] = [("Name", call.bucket), ("Prefix", encode(text("prefix", ""))), ("MaxKeys", count),
                                    ("KeyCount", len(page.keys) + len(page.prefixes)),
                                    ("IsTruncated", str(bool(page.last)).lower())]  # fmt: skip
        shown = {"Delimiter": text("delimiter", ""), "StartAfter": text("start-after", "")}
        parts += [(name, encode(value)) for name, value in shown.items() if value]
        parts += [("EncodingType", "url")] if encode is quote else []
        parts += [("NextContinuationToken", page.last)] if page.last else []
        for key in page.keys:
            found = self._objects.get(call.bucket, key)
            parts.append(("Contents", [
                ("Key", encode(key)), ("LastModified", s3_xml.moment(found.modified_s)), ("ETag", f'"{found.facts.etag}"'),
                ("Size", found.size), ("StorageClass", "STANDARD"),
            ]))  # fmt: skip
        parts += [("CommonPrefixes", [("Prefix", encode(prefix))]) for prefix in page.prefixes]
        return _xml("ListBucketResult", parts)

    async def _on_object(self, call: S3Call, receive: Receive) -> HttpAnswer:
        upload = call.query.get("uploadId", "")
        if call.method == "HEAD":
            found = self._objects.get(call.bucket, call.key)
            return HttpAnswer(200, b"", {**_facts(found.modified_s, found.facts), "content-length": str(found.size)})
        if call.method == "PUT" and "x-amz-copy-source" in call.headers and not upload:
            return await self._copy(call)
        if call.method == "PUT":
            etag = await self._uploads.put(call.bucket, call.key, call.query, call.headers, receive)
            return HttpAnswer(200, b"", {"etag": f'"{etag}"'})
        if call.method == "POST" and "uploads" in call.query:
            name = self._uploads.begin(call.bucket, call.key, call.headers)
            return _xml("InitiateMultipartUploadResult", [("Bucket", call.bucket), ("Key", call.key), ("UploadId", name)])
        if call.method == "POST" and upload:
            bucket, key, etag = await self._uploads.complete(upload, receive)
            return _xml("CompleteMultipartUploadResult", [("Bucket", bucket), ("Key", key), ("ETag", f'"{etag}"')])
        if call.method == "DELETE" and upload:
            self._uploads.abort(upload)
            return HttpAnswer(204)
        if call.method == "DELETE":
            self._objects.delete(call.bucket, call.key)
            return HttpAnswer(204)
        raise fail(S3_NOT_SUPPORTED, what=f"{call.method} of an object")

    async def _copy(self, call: S3Call) -> HttpAnswer:
        source = unquote(call.headers["x-amz-copy-source"].partition("?")[0], errors="surrogateescape").removeprefix("/")
        bucket, _, key = source.partition("/")
        found = self._objects.get(bucket, key)
        facts = found.facts
        if call.headers.get("x-amz-metadata-directive") == "REPLACE":
            facts = type(facts)(facts.etag, call.headers.get("content-type", facts.content_type), metadata_of(call.headers))
        fresh = self._objects.fresh()
        try:
            await asyncio.to_thread(shutil.copyfile, found.path, fresh)
            self._objects.place(fresh, call.bucket, call.key, facts)
        finally:
            fresh.unlink(missing_ok=True)
        placed = self._objects.get(call.bucket, call.key)
        return _xml("CopyObjectResult", [("LastModified", s3_xml.moment(placed.modified_s)), ("ETag", f'"{placed.facts.etag}"')])

    async def _get(self, call: S3Call, send: Send) -> None:
        """What is there when it begins, also while it is replaced: the open file stays."""
        found = self._objects.get(call.bucket, call.key)
        with found.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, end = wanted_range(call.headers.get("range", ""), size)
            headers = {**_facts(found.modified_s, found.facts), "content-length": str(end - start)}
            is_part = "range" in call.headers and (start, end) != (0, size)
            if is_part:
                headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
            await _start(206 if is_part else 200, headers, send)
            file.seek(start)
            left = end - start
            while left and (piece := file.read(min(PIECE_BYTES, left))):
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def refused(problem: ApiError, head: HttpCall) -> HttpAnswer:
    """A body that was not read is left behind with its connection."""
    body = b"" if head.method == "HEAD" else s3_xml.error(problem)
    headers = {"content-type": "application/xml"}
    return HttpAnswer(problem.status, body, headers if head.method in ("GET", "HEAD") else {**headers, "connection": "close"})


def _facts(modified_s: float, facts: Any) -> dict[str, str]:
    kept = {f"x-amz-meta-{name}": value for name, value in facts.metadata.items()}
    return {"content-type": facts.content_type, "etag": f'"{facts.etag}"', "accept-ranges": "bytes",
            "last-modified": formatdate(modified_s, usegmt=True), **kept}  # fmt: skip


def _xml(name: str, parts: list[s3_xml.Part]) -> HttpAnswer:
    return HttpAnswer(200, s3_xml.document(name, parts), {"content-type": "application/xml"})


async def _send(answer: HttpAnswer, send: Send) -> None:
    await _start(answer.status, {"content-length": str(len(answer.body)), **answer.headers}, send)
    await send({"type": "http.response.body", "body": answer.body})


async def _start(status: int, headers: Mapping[str, str], send: Send) -> None:
    packed = [(name.encode("latin-1"), value.encode("utf-8", "surrogateescape")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": packed})
