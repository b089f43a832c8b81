"""What there is, in tables of JSON records that outlive a kill at any moment.

How it works. Every change is one line of JSON at the end of a journal, and is on the disk before anybody is told of it. A line
that was cut by a kill or a full disk is left out at the next start, and nothing else is: several changes that belong together
stand in one line. At a start the journal is written anew with what is still there.

Owner of the file. One process at a time; the lock of the home folder sees to it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """`row` None removes it."""

    table: str
    key: str
    row: Row | None


class JournalStore:
    def __init__(self, path: Path) -> None:
        """Raises OSError where the journal cannot be written."""
        self._path = path
        self._tables: dict[str, dict[str, Row]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._read(path.read_bytes())
        self._file = self._written_anew()

    def get(self, table: str, key: str) -> Row | None:
        return self._tables.get(table, {}).get(key)

    def rows(self, table: str) -> Mapping[str, Row]:
        return self._tables.get(table, {})

    def write(self, *changes: Change) -> None:
        """All of them or none. Raises OSError, and then nothing has changed."""
        line = _line(changes)
        start = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(28, "no space left on device", str(self._path))
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, start)
            raise
        self._apply(changes)

    def close(self) -> None:
        os.close(self._file)

    def _apply(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            table = self._tables.setdefault(change.table, {})
            if change.row is None:
                table.pop(change.key, None)
            else:
                table[change.key] = change.row

    def _read(self, data: bytes) -> None:
        for line in data.split(b"\n"):
            try:
                self._apply(tuple(Change(*parts) for parts in orjson.loads(line)))
            except (orjson.JSONDecodeError, TypeError):
                continue  # cut by a kill, or the empty end

    def _written_anew(self) -> int:
        fresh = self._path.with_suffix(".new")
        everything = [Change(table, key, row) for table, rows in self._tables.items() for key, row in rows.items()]
        with fresh.open("wb") as file:
            file.writelines(_line((change,)) for change in everything)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)


def _line(changes: tuple[Change, ...]) -> bytes:
    return orjson.dumps([[change.table, change.key, change.row] for change in changes]) + b"\n"
