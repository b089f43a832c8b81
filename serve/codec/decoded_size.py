"""What a body becomes when it is decoded, told before it is decoded: bytes of memory, and whether it is quick. Pure.

A body weighs little beside what it may become: deflate packs a thousand to one, a sparse record names any size, a list
of short texts takes thirty times its bytes as Python objects. So every codec looks first, and refuses what is over the
room that it is given.
"""

from __future__ import annotations

from evenkeel.serve.codec.codec import Body
from evenkeel.serve.errors import BodyTooLarge

ARRAY_BYTES_MAX = 256 << 20  # of one request's arrays: what the largest slot takes
# Of one Python object with its place in a list: a text, list or map takes some 64 bytes and a number 32 (CPython 3.11).
OBJECT_BYTES, NUMBER_BYTES = 64, 32
WIDEST_CHARACTER_BYTES = 4  # of a Python text with any character beyond the basic plane
# Lists and objects of a text that is read in one go: while orjson makes them, and while they are freed, no other thread runs.
# 1 us each, so half a second.
CONTAINERS_MAX = 1 << 19
# What an event loop decodes itself. Measured on 2 cores of an AMD EPYC, where each of these takes 2 ms or less.
QUICK_BYTES = 256 << 10  # of an archive or a sparse record, unpacked
QUICK_CAST_BYTES, QUICK_TEXTS = 4 << 20, 16 << 10  # of an array whose dtype is another; texts of an array
QUICK_NUMBERS_BYTES, QUICK_LISTS = 96 << 10, 1500  # of text that is all plain numbers, and the lists that it may have
QUICK_OBJECTS_BYTES = 20 << 10  # of text with names, texts or quotes, and of cells read one by one
QUICK_TEXT_OUTPUT_BYTES, QUICK_OUTPUT_BYTES = 256 << 10, 4 << 20  # of outputs that become text, or stay bytes
COUNT_BYTES = 1 << 20  # a view is counted in such pieces, so that no whole copy is made


def check_room(needed: int, room: int, what: str) -> None:
    """Raises BodyTooLarge for what would take more memory than there may be."""
    if needed > room:
        raise BodyTooLarge(f"{what} would take up to {_mib(needed)} MiB to decode, over the limit of {_mib(room)} MiB", needed)


def check_array(size: int, what: str) -> None:
    """Raises BodyTooLarge for an array that no slot could take, at no time."""
    if size > ARRAY_BYTES_MAX:
        raise BodyTooLarge(f"{what} takes {_mib(size)} MiB, over the limit of {_mib(ARRAY_BYTES_MAX)} MiB")


def count(body: Body, byte: bytes) -> int:
    if not isinstance(body, memoryview):
        return body.count(byte)
    return sum(bytes(body[at : at + COUNT_BYTES]).count(byte) for at in range(0, len(body), COUNT_BYTES))


def check_json(body: Body, room: int, what: str) -> None:
    """Raises BodyTooLarge for a JSON text whose Python objects would take more than `room`, or too long to make.

    Each begins behind a comma, a bracket, a brace or a quote. A text that is not all ASCII takes up to four bytes a
    character, and the whole document is one text in the error of one that is malformed.
    """
    containers = count(body, b"[") + count(body, b"{")
    if containers > CONTAINERS_MAX:
        raise BodyTooLarge(f"{what} would be {containers} lists and objects, over the limit of {CONTAINERS_MAX}: send plain "
                           "arrays, or application/x-npy")  # fmt: skip
    objects = NUMBER_BYTES * count(body, b",") + OBJECT_BYTES * (containers + count(body, b'"') // 2)
    check_room(objects + len(body) * (1 if is_ascii(body) else WIDEST_CHARACTER_BYTES), room, what)


def is_ascii(body: Body) -> bool:
    if not isinstance(body, memoryview):
        return body.isascii()
    return all(bytes(body[at : at + COUNT_BYTES]).isascii() for at in range(0, len(body), COUNT_BYTES))


def _mib(size: int) -> int:
    return -(-size >> 20)
