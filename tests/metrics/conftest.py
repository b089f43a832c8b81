from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from evenkeel.serve.contract.status_page import PLAN_TEXT, Main, StatusPage


@pytest.fixture
def page() -> Iterator[StatusPage]:
    """One front and one engine of the model `digits`, version 7."""
    page = StatusPage.create()
    page.main.count[Main.FRONTS] = page.main.count[Main.ENGINES] = 1
    page.write_text(PLAN_TEXT, {"model": {"name": "digits", "version": "7"}})
    yield page
    os.close(page.fd)
