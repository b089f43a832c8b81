"""Engines that are ready and that a living front cannot reach: after a while they are started again. Owner of for how long.

Only time counts in which the engine had nothing else to do than to greet, and in which we looked. Beside the traffic of other
fronts it adds up, from one batch to the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evenkeel.container.watch.stuck import StuckView
from evenkeel.serve.contract import reach_cells
from evenkeel.serve.contract.status_page import StatusPage, read_engine

UNREACHED_S = 20.0  # a connect takes milliseconds, and the next try follows at once


@dataclass(slots=True)
class Apart:
    """Of one engine that a front does not reach. `looked_s`: when it was last seen with time to greet; 0: it was busy then."""

    epoch: int
    fronts: list[int]
    free_s: float = 0.0
    looked_s: float = 0.0

    def look(self, free: bool, moment: StuckView) -> None:
        if free and self.looked_s:
            self.free_s += max(0.0, moment.since(self.looked_s))
        self.looked_s = moment.now_s if free else 0.0


class Unreached:
    def __init__(self) -> None:
        self._apart: dict[int, Apart] = {}

    def look(self, page: StatusPage, engines: Iterable[int], moment: StuckView) -> dict[int, str]:
        """Of these engine places: why those that are to be ended are out of reach."""
        workers, before, self._apart = reach_cells.workers(page), self._apart, {}
        for place in engines:
            engine = read_engine(page, place)
            fronts = reach_cells.apart(engine, workers, moment.now_s)
            if not fronts:
                continue
            apart = before.get(place)
            if apart is None or apart.epoch != engine.epoch:
                apart = Apart(engine.epoch, fronts)
            apart.fronts = fronts
            apart.look(reach_cells.is_free(engine), moment)
            self._apart[place] = apart
        return {
            place: f"has been out of reach of front worker {', '.join(map(str, apart.fronts))} for {apart.free_s:.0f} s"
            for place, apart in self._apart.items()
            if apart.free_s > UNREACHED_S
        }
