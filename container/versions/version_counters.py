"""Which cells of the status page count the answers of which version. Pure.

A version that comes back counts on where it stopped. There is room for a few; all that come later are counted together.
"""

from __future__ import annotations

from evenkeel.serve.contract.status_page import COUNTED_VERSIONS_MAX

Label = dict[str, str]  # name and version, as metrics have them
OTHERS = "other"


class VersionCounters:
    def __init__(self) -> None:
        self.labels: list[Label] = []  # by the number of the counters

    def number(self, label: Label) -> int:
        """Of this version's counters, the same each time."""
        if label not in self.labels:
            if len(self.labels) == COUNTED_VERSIONS_MAX - 1:
                label = {**label, "version": OTHERS}
            if label not in self.labels and len(self.labels) < COUNTED_VERSIONS_MAX:
                self.labels.append(label)
        return self.labels.index(label) if label in self.labels else COUNTED_VERSIONS_MAX - 1
