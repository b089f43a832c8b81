"""Engines that are ready and that a living front cannot reach: after a while they are started again. Owner of since when.

Time in which the engine ran a batch, or in which we did not look, does not count: it greets nobody then, and is not to blame.
"""

from __future__ import annotations

from collections.abc import Iterable

from container.watch import Moment
from serve.contract import reach
from serve.contract.status import StatusPage, read_engine

UNREACHED_S = 20.0  # a connect takes milliseconds, and the next try follows at once


class Unreached:
    def __init__(self) -> None:
        self._since_s: dict[int, float] = {}

    def look(self, page: StatusPage, engines: Iterable[int], moment: Moment) -> dict[int, str]:
        """Of these engine places: why those that are to be ended are out of reach."""
        known = reach.workers(page)
        apart = {i: fronts for i in engines if (fronts := reach.out_of_reach(read_engine(page, i), known, moment.now_s))}
        self._since_s = {i: self._since_s.get(i, moment.now_s) for i in apart}
        return {
            i: f"has been out of reach of front worker {', '.join(map(str, apart[i]))} for {moment.since(at_s):.0f} s"
            for i, at_s in self._since_s.items()
            if moment.since(at_s) > UNREACHED_S
        }
