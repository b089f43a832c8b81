"""What is written is there after a kill at any byte, and what was not told of as written is not there by halves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evenkeel.endpoint.control import journal_store
from evenkeel.endpoint.control.journal_store import Change, JournalStore


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "j")
    store.write(Change("models", "a", {"n": 1}), Change("tags", "a", {"k": "v"}))
    store.write(Change("models", "b", {"n": 2}))
    store.write(Change("models", "a", None))
    store.close()
    again = JournalStore(tmp_path / "j")
    assert dict(again.rows("models")) == {"b": {"n": 2}} and again.get("tags", "a") == {"k": "v"}
    again.close()


def test_a_kill_at_any_byte_leaves_whole_changes(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    store = JournalStore(whole)
    states = [{}]
    sizes = [0]
    for n in range(4):
        store.write(Change("t", f"{n % 2}", {"n": n}), Change("u", "last", {"n": n}))
        states.append({"t": {k: dict(v) for k, v in store.rows("t").items()}, "u": dict(store.rows("u"))})
        sizes.append(whole.stat().st_size)
    store.close()
    data = whole.read_bytes()
    for cut in range(len(data) + 1):
        (tmp_path / "cut").write_bytes(data[:cut])
        read = JournalStore(tmp_path / "cut")
        written = max(n for n, size in enumerate(sizes) if size <= cut + 1)  # the last line may lack its end
        found = {name: dict(read.rows(name)) for name in ("t", "u") if read.rows(name)}
        assert found == states[written], cut
        read.close()


def test_what_the_disk_has_no_room_for_has_not_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JournalStore(tmp_path / "j")
    store.write(Change("t", "a", {"n": 1}))
    real = os.write
    monkeypatch.setattr(journal_store.os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
    with pytest.raises(OSError, match="no space left"):
        store.write(Change("t", "a", {"n": 2}))
    assert store.get("t", "a") == {"n": 1}
    monkeypatch.undo()
    store.write(Change("t", "b", {"n": 3}))
    store.close()
    again = JournalStore(tmp_path / "j")
    assert dict(again.rows("t")) == {"a": {"n": 1}, "b": {"n": 3}}
    again.close()


def test_a_start_writes_only_what_is_still_there(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "j")
    for n in range(100):
        store.write(Change("t", "a", {"n": n}))
    store.close()
    large = (tmp_path / "j").stat().st_size
    JournalStore(tmp_path / "j").close()
    assert (tmp_path / "j").stat().st_size < large / 50
