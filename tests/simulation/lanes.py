"""The supervisor's part in the small world: versions load beside the one that serves or in its place, are named, stand by,
leave. As container/versions/deployer.py does it, but when is chance."""

from __future__ import annotations

import random

from evenkeel.serve.contract.status_page import Main
from tests.support.front_bench import EnginePlace, FrontBench


class Lanes:
    """Owner of which revision is in which lane. `revisions` 0: the lane is empty, or is to be."""

    def __init__(self, bench: FrontBench, replicas: int, chance: random.Random) -> None:
        self._bench, self._replicas, self._random = bench, replicas, chance
        self.revisions = [1, 0]
        self.serving = 0
        self.leaves = 0  # engines that ended in good order, or are to
        self._numbers, self._next = 1, 0  # the revision that loads, or will when there is room; 0: none
        self.named = [1]  # every revision that took the traffic, in order
        bench.page.main.count[Main.SERVING] = 1

    def revision_of(self, place: int) -> int:
        return self.revisions[place // self._replicas]

    def lane(self, which: int) -> list[EnginePlace]:
        return self._bench.engines[which * self._replicas : (which + 1) * self._replicas]

    @property
    def down(self) -> list[EnginePlace]:
        """Places where an engine is to run and none does."""
        return [e for i, e in enumerate(self._bench.engines) if e.cycle is None and self.revision_of(i)]

    def step(self) -> None:
        """One step of a swap, if it can be taken."""
        other = 1 - self.serving
        if self._next:
            self._load_or_name(other)
        elif self.revisions[other] and self._up(other) and self._random.random() < 0.4:
            self._name(other)  # the way back
        elif self.revisions[other] and self._random.random() < 0.3:
            self._leave(other)
        else:
            self._numbers += 1
            self._next = self._numbers
            self._leave(other)
            if self._random.random() < 0.3:  # in place
                self._leave(self.serving)

    def _load_or_name(self, other: int) -> None:
        if self.revisions[other] == self._next:
            if self._random.random() < 0.15:  # it fails, or nobody wants it any more
                self._leave(other)
                self.revisions[self.serving] = self.named[-1]
                self._next = 0
            elif self._up(other):
                self._name(other)
            return
        empty = [e for lane in (0, 1) if not self.revisions[lane] for e in self.lane(lane)]
        if all(e.cycle is None for e in empty):
            self.revisions[other] = self._next
            for engine in self.lane(other):
                engine.start()

    def _up(self, lane: int) -> bool:
        return all(e.cycle is not None and not e.cycle.closing for e in self.lane(lane))

    def _name(self, lane: int) -> None:
        self.serving, self._next = lane, 0
        self.named.append(self.revisions[lane])
        self._bench.page.main.count[Main.SERVING] = self.revisions[lane]

    def _leave(self, lane: int) -> None:
        self.revisions[lane] = 0
        for engine in self.lane(lane):
            self.leaves += engine.cycle is not None
            engine.leave()

    def end(self) -> None:
        """Whatever swap was under way, the version that serves is to be there."""
        if self._next and self.revisions[1 - self.serving] == self._next:
            self._leave(1 - self.serving)
        self._next = 0
        self.revisions[self.serving] = self.named[-1]

    def place_of(self, revision: int) -> int:
        """Where in the order of those that were named a front is that follows this one now."""
        return max((i for i, e in enumerate(self.named) if e == revision), default=0)

    def since(self, place: int) -> set[int]:
        """Revisions that may answer what a front took while it followed the one of that place."""
        return set(self.named[place:])
