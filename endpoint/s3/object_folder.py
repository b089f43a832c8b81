"""Objects as files. What S3 knows beside the bytes (ETag, type, metadata) lies in a folder of its own, by the same names.

An object is written beside its place and moved there when it is whole and its checksums fit, so nobody reads a half one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from evenkeel.endpoint.s3.object_names import bucket_name, key_path
from evenkeel.endpoint.wire.api_errors import (
    S3_BUCKET_EXISTS,
    S3_BUCKET_FULL,
    S3_KEY_IN_WAY,
    S3_NO_BUCKET,
    S3_NO_KEY,
    fail,
)

BINARY = "binary/octet-stream"


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    etag: str
    content_type: str = BINARY
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredObject:
    path: Path
    size: int
    modified_s: float
    facts: ObjectFacts


class ObjectFolder:
    def __init__(self, folder: Path) -> None:
        """`folder` holds the buckets; what belongs to them lies beside it."""
        self._buckets, self._facts = folder, folder.with_name(folder.name + "-facts")
        self.unfinished = folder.with_name(folder.name + "-unfinished")
        for each in (self._buckets, self._facts, self.unfinished):
            each.mkdir(parents=True, exist_ok=True)
        for left in self.unfinished.glob("put-*"):  # of a process that was killed
            left.unlink()

    # ---- buckets -------------------------------------------------------------------------------------------------------

    def buckets(self) -> list[tuple[str, float]]:
        return sorted((entry.name, entry.stat().st_ctime) for entry in os.scandir(self._buckets) if entry.is_dir())

    def bucket(self, name: str) -> Path:
        path = self._buckets / bucket_name(name)
        if not path.is_dir():
            raise fail(S3_NO_BUCKET, name=name)
        return path

    def create_bucket(self, name: str) -> None:
        try:
            (self._buckets / bucket_name(name)).mkdir()
        except FileExistsError:
            raise fail(S3_BUCKET_EXISTS, name=name) from None

    def delete_bucket(self, name: str) -> None:
        path = self.bucket(name)
        if next(self.keys(name), None) is not None:
            raise fail(S3_BUCKET_FULL, name=name)
        shutil.rmtree(path)
        shutil.rmtree(self._facts / name, ignore_errors=True)

    def keys(self, bucket: str) -> Iterator[str]:
        """In the order of S3, which is that of whole keys and not of folders."""
        top = self.bucket(bucket)
        found = (Path(folder, name).relative_to(top).as_posix() for folder, _, names in os.walk(top) for name in names)
        yield from sorted(found, key=os.fsencode)

    # ---- objects -------------------------------------------------------------------------------------------------------

    def get(self, bucket: str, key: str) -> StoredObject:
        path = self.bucket(bucket) / key_path(key)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            status = None
        if status is None or not path.is_file():
            raise fail(S3_NO_KEY, key=key[:128])
        by_hand = ObjectFacts(f"{status.st_mtime_ns:032x}")  # a file that was put there by hand
        with contextlib.suppress(OSError, orjson.JSONDecodeError, TypeError):
            kept = orjson.loads(self._facts_path(bucket, key).read_bytes())
            if kept.pop("mtime_ns") == status.st_mtime_ns:
                return StoredObject(path, status.st_size, status.st_mtime, ObjectFacts(**kept))
        return StoredObject(path, status.st_size, status.st_mtime, by_hand)

    def fresh(self) -> Path:
        """A name for what is being written."""
        return self.unfinished / f"put-{uuid.uuid4().hex}"

    def place(self, written: Path, bucket: str, key: str, facts: ObjectFacts) -> None:
        """Move what was written to its place. Raises ApiError where a folder or a file is in the way."""
        target = self.bucket(bucket) / key_path(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            written.replace(target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise fail(S3_KEY_IN_WAY, key=key[:128]) from None
        beside = self._facts_path(bucket, key)
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(orjson.dumps({**asdict(facts), "mtime_ns": target.stat().st_mtime_ns}))

    def delete(self, bucket: str, key: str) -> None:
        """Also of what is not there, as S3 has it. Folders that are empty then go too."""
        top = self.bucket(bucket)
        path = top / key_path(key)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            path.unlink()
        self._facts_path(bucket, key).unlink(missing_ok=True)
        for folder in path.parents:
            if folder == top:
                break
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _facts_path(self, bucket: str, key: str) -> Path:
        path = key_path(key)
        return self._facts / bucket / path.parent / f"{path.name[:240]}.json"
