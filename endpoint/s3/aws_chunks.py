"""Bodies in the encoding `aws-chunked`, which SDKs send today: pieces with their length, and a checksum behind the last. Pure.

    400;chunk-signature=…CRLF  1024 bytes  CRLF  …  0CRLF  x-amz-checksum-crc32:AAAAAA==CRLF  CRLF

Signatures are not looked at.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator

from evenkeel.endpoint.wire.api_errors import S3_BAD_DIGEST, S3_MALFORMED_BODY, fail

LINE_BYTES_MAX = 4096
TRAILERS_MAX = 16
CHECKSUM = "x-amz-checksum-"


class AwsChunks:
    """Feed it bytes as they come; it gives the object's."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._left = 0  # bytes of this piece
        self._stage = "size"  # then data, crlf and size again; at the end trailers, done
        self._trailers_left = TRAILERS_MAX
        self.trailers: dict[str, str] = {}

    @property
    def is_complete(self) -> bool:
        return self._stage == "done"

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._waiting += data
        while self._waiting and self._stage != "done":
            if self._stage == "data":
                piece = bytes(self._waiting[: self._left])
                del self._waiting[: len(piece)]
                self._left -= len(piece)
                if self._left == 0:
                    self._stage = "crlf"
                yield piece
                continue
            line = self._line()
            if line is None:
                return
            self._take(line)
        if self._stage == "done" and self._waiting:
            raise fail(S3_MALFORMED_BODY, why="bytes follow its end")

    def _line(self) -> str | None:
        end = self._waiting.find(b"\r\n")
        if end < 0 and len(self._waiting) < LINE_BYTES_MAX:
            return None
        if end < 0 or end > LINE_BYTES_MAX:
            raise fail(S3_MALFORMED_BODY, why="a line of it does not end")
        line = self._waiting[:end].decode("latin-1")
        del self._waiting[: end + 2]
        return line

    def _take(self, line: str) -> None:
        if self._stage == "crlf":
            if line:
                raise fail(S3_MALFORMED_BODY, why="a piece is longer than its length says")
            self._stage = "size"
        elif self._stage == "size":
            digits = line.partition(";")[0].strip()
            if not digits or len(digits) > 15 or not set(digits) <= set("0123456789abcdefABCDEF"):
                raise fail(S3_MALFORMED_BODY, why="the length of a piece is no hexadecimal number")
            self._left = int(digits, 16)
            self._stage = "data" if self._left else "trailers"
        elif not line:
            self._stage = "done"
        else:
            name, _, value = line.partition(":")
            self._trailers_left -= 1
            if self._trailers_left < 0:
                raise fail(S3_MALFORMED_BODY, why=f"more than {TRAILERS_MAX} trailers")
            self.trailers[name.strip().lower()] = value.strip()


class Digests:
    """What an object's bytes come to. The ETag is their MD5, as S3's of one part is."""

    def __init__(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._crc32 = 0
        self.size = 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self._crc32 = zlib.crc32(data, self._crc32)
        for digest in (self._md5, self._sha256, self._sha1):
            digest.update(data)

    @property
    def etag(self) -> str:
        return self._md5.hexdigest()

    def check(self, told: dict[str, str]) -> None:
        """Against what a client told in headers or trailers; algorithms that the standard library lacks are let pass.

        Raises ApiError.
        """
        known = {
            "content-md5": self._md5.digest(), f"{CHECKSUM}crc32": self._crc32.to_bytes(4, "big"),
            f"{CHECKSUM}sha256": self._sha256.digest(), f"{CHECKSUM}sha1": self._sha1.digest(),
        }  # fmt: skip
        for name, digest in known.items():
            if name in told and told[name] != base64.b64encode(digest).decode():
                raise fail(S3_BAD_DIGEST, name=name)
