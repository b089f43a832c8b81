"""Uploads in parts: each part a file, put together when the client says that it has sent all."""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import orjson

from evenkeel.endpoint.s3.object_folder import BINARY, ObjectFacts, ObjectFolder
from evenkeel.endpoint.wire.api_errors import S3_BAD_PART, S3_NO_UPLOAD, fail

PARTS_MAX = 10_000  # D: S3, multipart limits
ID = re.compile(r"[0-9a-f]{32}")


class MultipartUploads:
    def __init__(self, objects: ObjectFolder) -> None:
        self._objects = objects

    def begin(self, bucket: str, key: str, content_type: str, metadata: dict[str, str]) -> str:
        """The upload's id."""
        self._objects.bucket(bucket)
        name = uuid.uuid4().hex
        folder = self._objects.unfinished / name
        folder.mkdir()
        facts = {"bucket": bucket, "key": key, "content_type": content_type or BINARY, "metadata": metadata}
        (folder / "facts.json").write_bytes(orjson.dumps(facts))
        return name

    def part(self, upload: str, number: str) -> Path:
        """Where the part is to be written; its ETag is kept by `keep`."""
        if not (number.isascii() and number.isdigit() and len(number) < 6 and 1 <= int(number) <= PARTS_MAX):
            raise fail(S3_BAD_PART, number=number[:16])
        return self._folder(upload) / f"part-{int(number)}-{uuid.uuid4().hex}"

    def keep(self, written: Path, etag: str) -> None:
        """Under its ETag; a part that is sent again takes the place of the first."""
        number = written.name.split("-")[1]
        for older in written.parent.glob(f"{number}.*"):
            older.unlink()
        written.replace(written.with_name(f"{number}.{etag}"))

    def complete(self, upload: str, parts: Sequence[tuple[int, str]]) -> tuple[str, str, str]:
        """Bucket, key and ETag of the whole. `parts`: number and ETag of each, in order."""
        folder = self._folder(upload)
        numbers = [number for number, _ in parts]
        files = [folder / f"{number}.{etag}" for number, etag in parts]
        for file, (number, _) in zip(files, parts, strict=True):
            if not file.is_file():
                raise fail(S3_BAD_PART, number=number)
        if not parts or numbers != sorted(set(numbers)):
            raise fail(S3_BAD_PART, number="in this order")
        whole = folder / "whole"
        with whole.open("wb") as out:
            for file in files:
                with file.open("rb") as part:
                    shutil.copyfileobj(part, out, 1 << 20)
        sums = b"".join(bytes.fromhex(etag) for _, etag in parts)
        etag = f"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(parts)}"
        facts = orjson.loads((folder / "facts.json").read_bytes())
        self._objects.place(whole, facts["bucket"], facts["key"], ObjectFacts(etag, facts["content_type"], facts["metadata"]))
        shutil.rmtree(folder)
        return facts["bucket"], facts["key"], etag

    def abort(self, upload: str) -> None:
        shutil.rmtree(self._folder(upload))

    def _folder(self, upload: str) -> Path:
        folder = self._objects.unfinished / upload
        if not ID.fullmatch(upload) or not folder.is_dir():
            raise fail(S3_NO_UPLOAD, upload=upload[:64])
        return folder
