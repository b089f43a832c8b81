"""A real Chromium for the page for people.

Without Chromium these tests are skipped, by name and with the command that installs it: `make test` promises to need
nothing but Python and make, and everything that the page shows is tested without a browser too, as /status. `.ci/run`
installs Chromium first and fails when it cannot, so no change lands untested.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page.browser import Browser
from tests.support.tree import LIVING

NEEDED = ("chromium", "chromedriver")
INSTALL = "apt-get install chromium chromium-driver"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    mine = [i for i in items if Path(__file__).parent in i.path.parents and "browser" in getattr(i, "fixturenames", ())]
    if not missing or not mine:
        return
    reason = f"{' and '.join(missing)} missing: the page for people is not tested in a browser; {INSTALL}"
    print(f"\nSKIPPED {len(mine)} tests of tests/page: {reason}", file=sys.stderr)
    for item in mine:
        item.add_marker(pytest.mark.skip(reason=reason))


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
