from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.tree import LIVING, Tree, serving


@pytest.fixture(autouse=True)
def no_tree_outlives_its_test() -> Iterator[None]:
    before = list(LIVING)
    yield
    for tree in [t for t in LIVING if t not in before]:
        tree.kill()


@pytest.fixture(scope="session")
def echo() -> Iterator[Tree]:
    """Returns its input, to the bit. Tests leave it as they found it."""
    with serving("echo") as tree:
        yield tree


@pytest.fixture(scope="session")
def hurried() -> Iterator[Tree]:
    """Short patience and few connections, so that every limit is met within seconds."""
    settings = {
        "EVENKEEL_HEADER_TIMEOUT_S": "1", "EVENKEEL_BODY_TIMEOUT_S": "5", "EVENKEEL_KEEP_ALIVE_S": "3",
        "EVENKEEL_MAX_CONNECTIONS": "20", "EVENKEEL_BODY_RATE": "100000", "EVENKEEL_QUEUE_MB": "16",
    }  # fmt: skip
    with serving("echo", **settings) as tree:
        yield tree
