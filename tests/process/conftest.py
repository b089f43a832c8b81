from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.tree import Tree, serving


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
