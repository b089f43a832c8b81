"""The table of models: one writes, others read, and nobody waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from evenkeel.serve.contract.model_table import NAME_BYTES_MAX, RING, ROWS_MAX, URL_BYTES_MAX, LoadedNames, ModelRow, ModelTable


@pytest.fixture
def table() -> Iterator[ModelTable]:
    made = ModelTable.create()
    yield made
    os.close(made.fd)


def row(name: str, ref: int = 1) -> ModelRow:
    return ModelRow(name, f"/opt/ml/models/{name}/model", 0, ref)


def test_a_reader_finds_what_was_written_and_not_what_was_cleared(table: ModelTable) -> None:
    names = LoadedNames(ModelTable(os.dup(table.fd)))
    assert names.find("a") is None and len(names) == 0
    table.put(0, row("a"))
    table.put(1, row("b", ref=7))
    assert names.find("a") == row("a") and names.find("b") == row("b", ref=7) and len(names) == 2
    table.clear(0)
    assert names.find("a") is None and names.find("b") == row("b", ref=7)
    table.put(0, row("c"))
    assert names.find("c") == row("c")


def test_a_model_that_moves_to_another_row_is_found_there(table: ModelTable) -> None:
    names = LoadedNames(table)
    table.put(0, row("a"))
    assert names.find("a") == row("a")
    table.clear(0)
    table.put(3, row("a", ref=2))
    table.put(0, row("b"))
    assert names.find("a") == row("a", ref=2) and names.find("b") == row("b")


def test_names_of_any_text_and_the_longest_fit(table: ModelTable) -> None:
    names = LoadedNames(table)
    for number, name in enumerate(["a/../b", "%2F", "ü" * (NAME_BYTES_MAX // 2), " ", "\n"]):
        longest = ModelRow(name, "u" * URL_BYTES_MAX, 3, (1 << 64) - 1)
        table.put(number, longest)
        assert names.find(name) == longest


def test_a_reader_that_was_away_for_long_reads_all(table: ModelTable) -> None:
    names = LoadedNames(table)
    table.put(5, row("old"))
    assert names.find("old") is not None
    table.clear(5)
    for i in range(2 * RING):
        table.put(i % 100 + 10, row(f"m{i}"))
    assert names.find("old") is None and len(names) == 100 and names.find(f"m{2 * RING - 1}") is not None


def test_pages_go_by_row_and_end(table: ModelTable) -> None:
    names = LoadedNames(table)
    for number in (9, 2, 5, ROWS_MAX - 1):
        table.put(number, row(f"m{number}"))
    rows, following = names.page(0, 2)
    assert [r.name for r in rows] == ["m2", "m5"] and following == 9
    rows, following = names.page(9, 2)
    assert [r.name for r in rows] == ["m9", f"m{ROWS_MAX - 1}"] and following is None
    assert names.page(10, 0) == ([], ROWS_MAX - 1) and LoadedNames(ModelTable.create()).page(0, 100) == ([], None)


def test_a_row_is_never_read_half_written(table: ModelTable) -> None:
    """The writer goes to and fro between two rows of different lengths while another thread reads."""
    both, stop = (row("short"), row("long" * 200, ref=2)), threading.Event()
    table.put(0, both[0])

    def write() -> None:
        for i in range(20_000):
            if stop.is_set():
                return
            table.put(0, both[i % 2])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3_000):
            assert table.read(0) in both
    finally:
        stop.set()
        writer.join()
