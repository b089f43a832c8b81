"""The directory of a zip archive, read before the archive is opened: how many members, and what they unpack to. Pure.

The zipfile module takes anything for an archive in whose last 64 KiB it finds a directory's end: it trusts the size there and
not the count, lets bytes lie in front, and follows a second end for archives of over 4 GiB. Anyone who counts by one of these and
unpacks by another can be told two stories. So only what zip and numpy write is taken: the directory ends where the end begins,
holds as many members as that says, and nothing lies behind it. APPNOTE.TXT 4.3.12, 4.3.15, 4.3.16.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from evenkeel.serve.codec.codec import Body
from evenkeel.serve.errors import BadRequest

MEMBERS_MAX = 256
END, END_MAGIC = struct.Struct("<4s4H2LH"), b"PK\5\6"
ENTRY, ENTRY_MAGIC, ENTRY_BYTES = struct.Struct("<4s6xH8xLLHHH"), b"PK\1\2", 46
LARGE_END_MAGIC, LARGE_END_BYTES = b"PK\6\7", 20  # in front of the end, where the true directory is another


@dataclass(frozen=True, slots=True)
class Directory:
    """`unpacked`: bytes that the compressed members become. `names`: of all, as they are written."""

    names: tuple[bytes, ...]
    unpacked: int


def read_directory(body: Body) -> Directory:
    """Raises BadRequest for all but a plain archive of at most MEMBERS_MAX members."""
    if len(body) < END.size:
        raise _wrong("it is cut short")
    magic, _, _, here, entries, size, offset, comment = END.unpack_from(body, len(body) - END.size)
    if magic != END_MAGIC or comment:
        raise _wrong("it is cut short, or something follows its directory")
    if entries > MEMBERS_MAX:
        raise BadRequest(f"the NPZ file has over {MEMBERS_MAX} members")
    at, end = len(body) - END.size - size, len(body) - END.size
    if at < 0 or at != offset or here != entries or bytes(body[end - LARGE_END_BYTES : end])[:4] == LARGE_END_MAGIC:
        raise _wrong("its directory is not where it says")
    names, total = [], 0
    for _ in range(entries):
        if at + ENTRY_BYTES > end:
            raise _wrong("its directory holds fewer members than it says")
        magic, method, packed, unpacked, name, extra, remark = ENTRY.unpack_from(body, at)
        if magic != ENTRY_MAGIC:
            raise _wrong("its directory is damaged")
        total += unpacked if method or unpacked != packed else 0
        names.append(bytes(body[at + ENTRY_BYTES : at + ENTRY_BYTES + name]))
        at += ENTRY_BYTES + name + extra + remark
    if at != end:
        raise _wrong("its directory holds more members than it says")
    return Directory(tuple(names), total)


def _wrong(why: str) -> BadRequest:
    return BadRequest(f"not a readable NPZ file: {why}")
