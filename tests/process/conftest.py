from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.tree import LIVING, Tree, serving


@pytest.fixture(autouse=True)
def no_tree_outlives_its_test() -> Iterator[None]:
    """Fixtures of a wider scope have started theirs before; what a failing test leaves running ends here."""
    before = list(LIVING)
    yield
    for tree in [t for t in LIVING if t not in before]:
        tree.kill()


@pytest.fixture(scope="session")
def digits() -> Iterator[Tree]:
    """A tree with an ONNX model, shared: tests leave it as they found it."""
    with serving("digits") as tree:
        yield tree


@pytest.fixture(scope="session")
def echo() -> Iterator[Tree]:
    """A tree that returns its input, to the bit: shared like `digits`."""
    with serving("echo") as tree:
        yield tree
