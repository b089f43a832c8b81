"""The two slots of engine places, blue and green: in each the engines of one revision, which is one loading of one version.

One serves; the other holds the version that comes, the one before, or nothing. A plain folder has one slot and one revision,
for ever. Records, and questions that they answer by themselves; deployer.py changes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from evenkeel.container.supervise.child import Child


class RevisionState(StrEnum):
    """Said to people as it stands here."""

    LOADING = "loading"
    SERVING = "serving"
    PREVIOUS = "standby"  # the version before, warm in case that it is wanted again
    LEAVING = "leaving"


@dataclass(slots=True)
class Revision:
    """`counters`: where fronts count its answers, see version_counters.py."""

    number: int
    version: str
    path: Path
    counters: int
    state: RevisionState = RevisionState.LOADING
    since_s: float = 0.0
    leaving_since_s: float = 0.0  # 0: it was not told to leave

    @property
    def leaves(self) -> bool:
        return self.leaving_since_s > 0


@dataclass(slots=True)
class BlueGreenSlot:
    children: list[Child] = field(default_factory=list)
    revision: Revision | None = None

    @property
    def empty(self) -> bool:
        """No process runs there, whatever is to."""
        return all(c.process is None for c in self.children)

    @property
    def staying(self) -> Revision | None:
        """The revision there, unless it was told to leave."""
        return None if self.revision is None or self.revision.leaves else self.revision


class BlueGreen:
    """Owner of which slot serves."""

    def __init__(self, slots: int) -> None:
        self.slots = [BlueGreenSlot() for _ in range(slots)]
        self._index = 0

    @property
    def serving(self) -> BlueGreenSlot:
        return self.slots[self._index]

    @property
    def other(self) -> BlueGreenSlot:
        """Of a folder with versions."""
        return self.slots[1 - self._index]

    @property
    def has_versions(self) -> bool:
        return len(self.slots) > 1

    @property
    def revision(self) -> Revision:
        revision = self.serving.revision
        assert revision is not None, "one revision always serves, or is to serve again"
        return revision

    def turn_over(self) -> None:
        self._index = 1 - self._index

    def slot_of(self, child: Child) -> BlueGreenSlot | None:
        return next((slot for slot in self.slots if child in slot.children), None)
