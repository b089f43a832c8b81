"""The thing that serves, as a black box: one interface for the running image and, faster, for the process tree.

A test takes the fixture `start` (tests/conftest.py), says `box = start("digits", EVENKEEL_THREADS="1")`, and runs once
against each kind. `@pytest.mark.contract("12.3")` on it names the item of the contract that it proves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support.tree import ARTIFACTS, START_S, eventually
from tests.support.wire import Wire

GRACE_S = 30  # `docker stop -t 30`, as the platform: SIGTERM, and SIGKILL so many seconds later


@dataclass(frozen=True, slots=True)
class Room:
    """What the platform gives a container. The process tree knows nothing of it but the settings."""

    settings: Mapping[str, str] = field(default_factory=dict)
    user: str = "54321:54321"  # nobody that the image knows; "0:0" is what the platform takes
    read_only: bool = True  # the root, with a /tmp of its own that can be written
    network: bool = True  # False: not even the one that the pings come over
    cpus: float = 0.0  # 0: all
    memory_mb: int = 0  # 0: all
    pids: int = 0  # processes and threads; 0: any number
    files: int = 0  # that one process may have open; 0: many
    command: tuple[str, ...] = ("serve",)
    mounts_model: bool = True
    beside: str = ""  # the container whose network namespace it shares, as those of a pipeline do


class Box(Protocol):
    """Started, and not necessarily ready."""

    kind: str  # process or image
    host: str
    port: int

    def log(self) -> list[dict[str, Any]]:
        """Every line on stdout; each must be one JSON object."""

    def story(self) -> str:
        """What it wrote, for the message of a failing test."""

    def exit_code(self) -> int | None:
        """None while it runs."""

    def stop(self) -> int:
        """As `docker stop -t 30`. Returns the exit code, which is 137 for one that had to be killed."""

    def kill(self) -> None:
        """`kill -9` of the first process, and with it of all."""

    def again(self) -> None:
        """Start the same thing once more, after its end."""

    def remove(self) -> None:
        """Leave nothing behind, in any state."""


def folder_of(model: str | Path) -> Path:
    return ARTIFACTS / model if isinstance(model, str) else model


def wire(box: Box, timeout_s: float = 30.0) -> Wire:
    """A new connection to the data port."""
    return Wire(box.port, timeout_s, box.host)


def ping(box: Box) -> int:
    """The status of a GET /ping; 0 where nobody answers."""
    try:
        with wire(box, 5.0) as w:
            return w.get("/ping").status
    except OSError:
        return 0


def wait_ready(box: Box) -> Box:
    def ready() -> bool:
        code = box.exit_code()
        assert code is None, f"it ended with {code}"
        return ping(box) == 200

    try:
        eventually(ready, "/ping says 200", START_S)
    except AssertionError as e:
        raise AssertionError(f"{e}\n{box.story()}") from e
    return box
