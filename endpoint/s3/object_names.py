"""Names of buckets and objects, and where they lie. Pure: what would lead out of its bucket, or be no file, is refused."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from evenkeel.endpoint.wire.api_errors import S3_BAD_BUCKET, S3_BAD_KEY, fail

BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
KEY_BYTES_MAX = 1024  # D: S3, object key names
PART_BYTES_MAX = 255  # of a file's name


def bucket_name(name: str) -> str:
    if not BUCKET.fullmatch(name) or ".." in name:
        raise fail(S3_BAD_BUCKET, name=name[:64])
    return name


def key_path(key: str) -> PurePosixPath:
    """Relative to its bucket. Raises ApiError where S3 would take it and a folder cannot, too."""
    parts = key.split("/")
    why = ""
    if len(key.encode("utf-8", "surrogateescape")) > KEY_BYTES_MAX:
        why = f"it is longer than {KEY_BYTES_MAX} bytes"
    elif any(part in ("", ".", "..") for part in parts):
        why = "a part of it is empty, `.` or `..`, and objects are files in folders here"
    elif "\0" in key or any(len(part.encode("utf-8", "surrogateescape")) > PART_BYTES_MAX for part in parts):
        why = f"a part of it is no name of a file (up to {PART_BYTES_MAX} bytes)"
    if why:
        raise fail(S3_BAD_KEY, key=key[:128], why=why)
    return PurePosixPath(*parts)
