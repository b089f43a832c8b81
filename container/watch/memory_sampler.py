"""Samples the memory of the replicas and asks leak.py about it. Owner of the samples; reads /proc, decides nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from evenkeel.container.plan import machine
from evenkeel.container.watch.leak import SAMPLES_MAX, MemorySample, leak
from evenkeel.serve.contract.cgroup import ROOT, small_file

SAMPLE_S = 1.0


class MemorySampler:
    """`within_s` 0: nobody is replaced for a leak. `budget_bytes` 0: the limit is the cgroup's or the machine's."""

    def __init__(self, within_s: float = 0.0, budget_bytes: int = 0) -> None:
        self._within_s, self._budget_bytes = within_s, budget_bytes
        self._samples: dict[int, deque[MemorySample]] = {}
        self._pids: dict[int, int] = {}
        self._new_bytes: dict[int, int] = {}  # of the process at that place when it was first looked at
        self._left_alone: set[int] = set()  # processes that are not to be replaced whatever they do
        self._due_s = 0.0

    def due(self, now_s: float) -> bool:
        """Whether it is time for samples. True once in SAMPLE_S."""
        if self._within_s <= 0 or now_s < self._due_s:
            return False
        self._due_s = now_s + SAMPLE_S
        return True

    def look(self, place: int, pid: int, rows: int, now_s: float) -> str:
        """Take a sample of this replica. Says why it should be replaced, or ""."""
        if self._pids.get(place) != pid:  # another process: what was known of this place is past
            self._pids[place], self._samples[place] = pid, deque(maxlen=SAMPLES_MAX)
            self._new_bytes[place] = anonymous_bytes(pid)
        samples = self._samples[place]
        samples.append(MemorySample(now_s, rows, anonymous_bytes(pid)))
        if pid in self._left_alone:
            return ""
        return leak(list(samples), self.left_bytes() / len(self._samples), self._within_s)  # others may grow as well

    def keep(self, places: Collection[int]) -> None:
        """Of all other places nothing counts any more: their processes have ended, of a version that has left, say."""
        for place in [p for p in self._samples if p not in places]:
            del self._samples[place], self._pids[place]

    def new_bytes(self, place: int) -> int:
        """What the replica there took when it was new: about what its successor will."""
        return self._new_bytes.get(place, 0)

    def left_bytes(self) -> float:
        if self._budget_bytes:
            return self._budget_bytes - sum(s[-1].bytes for s in self._samples.values() if s)
        return machine.memory_left(ROOT)

    def leave_alone(self, pid: int) -> None:
        """Nothing can take this process's place."""
        self._left_alone = {pid, *(p for p in self._pids.values() if p in self._left_alone)}


def anonymous_bytes(pid: int) -> int:
    """A process's own memory: without the model file and the fronts' arenas that it maps. 0 when it has just gone."""
    try:
        text = small_file(f"/proc/{pid}/status")
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith("RssAnon:")), "RssAnon: 0 kB")
    return int(line.split()[1]) * 1024
