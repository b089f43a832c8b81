"""Which models a container of many has loaded: rows in shared memory, written by the supervisor, read by everybody else.

How it works. Each row has a counter that is odd while the row is written, so a reader that sees it change reads again. After
a row is written its number goes into a ring of changes, and then the count of changes is raised: a reader that compares that
one number knows at once that nothing has changed, and otherwise reads only the rows that have. A reader that has missed more
than the ring holds reads all of them. Nobody waits for anybody. The memory is sparse: only rows that were ever used take any.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass

ROWS_MAX = 65_536
ROW_BYTES = 2048
NAME_BYTES_MAX, URL_BYTES_MAX = 1024, 960  # as UTF-8
RING = 1024  # changes that a reader may be behind
HEAD_BYTES = 8192
_HEAD = struct.Struct("<QQ")  # count of changes, rows that were ever used
_ROW = struct.Struct("<QIHHQ40x")  # its counter, engine place, bytes of name and url, reference; no name: the row is empty
_COUNTER = struct.Struct("<Q")
_NUMBER = struct.Struct("<I")
_RING_AT = 64
LOOKS_MAX = 1000  # at a row that is being written; it is done in a microsecond
LOOK_S = 0.0001


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model that is loaded. `ref` is how records name it in the engine at `place`."""

    name: str
    url: str  # as it was given when it was loaded
    place: int
    ref: int


class ModelTable:
    """Owner of the memory. One process writes, by `put` and `clear`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, HEAD_BYTES + ROWS_MAX * ROW_BYTES)

    @staticmethod
    def create() -> ModelTable:
        fd = os.memfd_create("evenkeel-models")
        os.ftruncate(fd, HEAD_BYTES + ROWS_MAX * ROW_BYTES)
        return ModelTable(fd)

    # ---- writing -----------------------------------------------------------------------------------------------------

    def put(self, number: int, row: ModelRow) -> None:
        name, url = row.name.encode(), row.url.encode()
        assert 0 < len(name) <= NAME_BYTES_MAX and len(url) <= URL_BYTES_MAX, "checked where they came in"
        self._write(number, row.place, name, url, row.ref)

    def clear(self, number: int) -> None:
        self._write(number, 0, b"", b"", 0)

    def _write(self, number: int, place: int, name: bytes, url: bytes, ref: int) -> None:
        memory, at = self._memory, HEAD_BYTES + number * ROW_BYTES
        (counter,) = _COUNTER.unpack_from(memory, at)
        _COUNTER.pack_into(memory, at, counter + 1)
        memory[at + _ROW.size : at + _ROW.size + len(name) + len(url)] = name + url
        _ROW.pack_into(memory, at, counter + 1, place, len(name), len(url), ref)
        _COUNTER.pack_into(memory, at, counter + 2)
        changes, used = _HEAD.unpack_from(memory)
        _NUMBER.pack_into(memory, _RING_AT + changes % RING * _NUMBER.size, number)
        _COUNTER.pack_into(memory, 8, max(used, number + 1))
        _COUNTER.pack_into(memory, 0, changes + 1)

    # ---- reading -----------------------------------------------------------------------------------------------------

    @property
    def changes(self) -> int:
        (changes,) = _COUNTER.unpack_from(self._memory)
        return int(changes)

    def changed_since(self, changes: int) -> tuple[int, list[int]]:
        """The count of changes now, and the numbers of the rows that have changed since it was `changes`."""
        now, used = _HEAD.unpack_from(self._memory)
        if now - changes >= RING:  # the oldest of a full ring may be overwritten while it is read
            return now, list(range(used))
        ring = [_NUMBER.unpack_from(self._memory, _RING_AT + i % RING * _NUMBER.size)[0] for i in range(changes, now)]
        if self.changes - changes >= RING:
            return self.changed_since(changes)
        return now, ring

    def read(self, number: int) -> ModelRow | None:
        """None: the row is empty."""
        memory, at = self._memory, HEAD_BYTES + number * ROW_BYTES
        for _ in range(LOOKS_MAX):
            counter, place, name_bytes, url_bytes, ref = _ROW.unpack_from(memory, at)
            text = memory[at + _ROW.size : at + _ROW.size + name_bytes + url_bytes]
            if counter % 2 == 0 and _COUNTER.unpack_from(memory, at)[0] == counter:
                return ModelRow(text[:name_bytes].decode(), text[name_bytes:].decode(), place, ref) if name_bytes else None
            time.sleep(LOOK_S)
        raise AssertionError("the supervisor has ended while it wrote a row, and everybody ends with it")


class LoadedNames:
    """A reader's own view of the table, by name and in the order of the rows."""

    def __init__(self, table: ModelTable) -> None:
        self._table, self._seen = table, 0
        self._by_number: dict[int, ModelRow] = {}
        self._numbers: dict[str, int] = {}

    def find(self, name: str) -> ModelRow | None:
        if self._table.changes != self._seen:
            self._look()
        number = self._numbers.get(name)
        return None if number is None else self._by_number[number]

    def page(self, first: int, count: int) -> tuple[list[ModelRow], int | None]:
        """Up to `count` rows from that number on, and the number of the next one that there is; None: there is none."""
        self._look()
        numbers = sorted(number for number in self._by_number if number >= first)
        rows = [self._by_number[number] for number in numbers[:count]]
        return rows, numbers[count] if count < len(numbers) else None

    def __len__(self) -> int:
        self._look()
        return len(self._by_number)

    def _look(self) -> None:
        self._seen, changed = self._table.changed_since(self._seen)
        for number in changed:
            before = self._by_number.pop(number, None)
            if before is not None and self._numbers.get(before.name) == number:
                del self._numbers[before.name]
            row = self._table.read(number)
            if row is not None:
                self._by_number[number], self._numbers[row.name] = row, number
