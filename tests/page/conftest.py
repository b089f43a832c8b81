"""A real Chromium for the page for people.

Without Chromium these tests are skipped, by name and with the command that installs it: `make test` promises to need
nothing but Python and make, and everything that the page shows is tested without a browser too, as /status. `.ci/run`
installs Chromium first and fails when it cannot, so no change lands untested.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page.browser import Browser
from tests.support.tree import LIVING

NEEDED = ("chromium", "chromedriver")
INSTALL = "apt-get install chromium chromium-driver"


MISSING = [name for name in NEEDED if shutil.which(name) is None]
REASON = f"{' and '.join(MISSING)} missing: the page for people is not tested in a browser; to test it: {INSTALL}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if MISSING and "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=REASON))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.stats.get("skipped", ()) if "tests/page/" in r.nodeid]
    if MISSING and skipped:
        terminalreporter.write_line(f"SKIPPED {len(skipped)} tests of tests/page: {REASON}", yellow=True, bold=True)


@pytest.fixture
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(prefix="ekb-", ignore_cleanup_errors=True) as folder:
        found = Browser(Path(folder))
        try:
            yield found
        finally:
            found.close()


@pytest.fixture(autouse=True)
def no_tree_outlives_its_test() -> Iterator[None]:
    before = list(LIVING)
    yield
    for tree in [t for t in LIVING if t not in before]:
        tree.kill()
