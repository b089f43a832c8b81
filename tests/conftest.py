"""Fixtures for tests of every folder: the thing that serves, once as a process tree and once as the image."""

from __future__ import annotations

import contextlib
import itertools
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.sagemaker import image_box
from tests.sagemaker.box import Box, Room, wait_ready
from tests.sagemaker.image_box import ImageBox
from tests.sagemaker.process_box import ProcessBox

# Folders whose tests start process trees, containers or a browser: `make test-slow`. Of them a core set stays in `make test`.
SLOW = ("process", "sagemaker", "page", "security", "load", "metrics", "artifacts", "benchmarks")
CORE = (
    "process/test_process_answers.py", "process/test_process_exact.py", "process/test_process_orphans.py",
    "process/test_process_reach.py", "metrics/test_metrics_exact.py", "metrics/test_metrics_exposition.py",
    "metrics/test_metrics_measure.py", "metrics/test_metrics_emf.py", "benchmarks/test_benchmarks_trend.py",
    "benchmarks/test_benchmarks_table.py", "benchmarks/test_benchmarks_client.py", "benchmarks/test_benchmarks_handlers.py",
)  # fmt: skip
TESTS = Path(__file__).parent

# Random tests have no deadline and may be slow to begin, since machines are shared; and they leave no files behind.
settings.register_profile("shared", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order-seed", type=int, help="shuffle the files, and the tests in each, by this seed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        name = item.path.relative_to(TESTS).as_posix()
        if name.partition("/")[0] in SLOW and name not in CORE:
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(group(item, name)))
    if (seed := config.getoption("--order-seed")) is not None:
        items[:] = shuffled(items, seed)


def group(item: pytest.Item, name: str) -> str:
    """Tests of a file share what they start, so one worker runs them; containers are for one worker alone."""
    return "image" if item.get_closest_marker("image") else name


def shuffled(items: list[pytest.Item], seed: int) -> list[pytest.Item]:
    """Files stay together, since their tests share trees of processes."""
    chance = random.Random(seed)
    files = [list(tests) for _, tests in itertools.groupby(items, key=lambda item: item.path)]
    chance.shuffle(files)
    for tests in files:
        chance.shuffle(tests)
    return [item for tests in files for item in tests]


class Start(Protocol):
    def __call__(self, model: str | Path, room: Room | None = None, *, ready: bool = True, **settings: str) -> Box: ...


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for the names of Unix sockets, which `tmp_path` does not always do."""
    with tempfile.TemporaryDirectory(prefix="ekt-") as path:
        yield Path(path)


@pytest.fixture(scope="session", params=["process", pytest.param("image", marks=pytest.mark.image)])
def kind(request: pytest.FixtureRequest) -> str:
    return skip_without_image(request.param)


def skip_without_image(kind: str) -> str:
    if kind == "image" and (why := image_box.missing()):
        pytest.skip(why)
    return kind


@contextlib.contextmanager
def starting(kind: str) -> Iterator[Start]:
    boxes: list[Box] = []

    def start(model: str | Path, room: Room | None = None, *, ready: bool = True, **settings: str) -> Box:
        room = room or Room(settings)
        boxes.append((ImageBox if kind == "image" else ProcessBox)(model, room))
        return wait_ready(boxes[-1]) if ready else boxes[-1]

    try:
        yield start
    finally:
        for box in reversed(boxes):  # one may have borrowed the network of one before it
            box.remove()


@pytest.fixture
def start(kind: str) -> Iterator[Start]:
    """`start("digits", EVENKEEL_THREADS="1")`: a ready box of each kind; what it starts ends with the test."""
    with starting(kind) as starter:
        yield starter


@pytest.fixture
def start_image() -> Iterator[Start]:
    """The same for what only a container has: walls, limits, users. Tests that take it carry `@pytest.mark.image`."""
    skip_without_image("image")
    with starting("image") as starter:
        yield starter


@pytest.fixture(scope="session")
def digits_box(kind: str) -> Iterator[Box]:
    """A ready box with an ONNX model, shared: tests leave it as they found it."""
    with starting(kind) as starter:
        yield starter("digits")


@pytest.fixture(scope="session")
def echo_box(kind: str) -> Iterator[Box]:
    """A ready box that returns its input, to the bit: shared like `digits_box`."""
    with starting(kind) as starter:
        yield starter("echo")
