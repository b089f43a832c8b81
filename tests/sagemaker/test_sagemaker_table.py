"""The page says what the markers say."""

from __future__ import annotations

from tests.sagemaker.table import PAGE, table


def test_the_contract_table_of_the_page_is_drawn_from_the_markers() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), "stale: python -m tests.sagemaker.table"
