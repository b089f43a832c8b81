"""What this worker tells the others of the engines that it reaches. Owner of those cells of its block of the status page."""

from __future__ import annotations

from evenkeel.serve.contract import reach_cells
from evenkeel.serve.contract.reach_cells import GRACE_S
from evenkeel.serve.contract.status_page import ENGINES_MAX, Front, Main, StatusPage, serves


class Reach:
    """`is_apart`: requests that come to this worker find no engine, and have not for longer than a connect may take."""

    def __init__(self, page: StatusPage, place: int, now_s: float) -> None:
        self._page, block = page, page.front(place)
        self._count, self._value = block.count, block.value
        for cell in (
            *range(Front.GREETED, Front.GREETED + ENGINES_MAX),
            *range(Front.ANSWERED_BY, Front.ANSWERED_BY + ENGINES_MAX),
        ):
            self._count[cell] = 0  # a worker that was here before wrote them
        self._value[Front.APART_S] = now_s
        self.is_apart = False

    def greeted(self, engine: int, epoch: int) -> None:
        self._count[Front.GREETED + engine] = epoch

    def answered(self, engine: int, epoch: int) -> None:
        """It has answered a request of ours, the whole way; or there is none to ask."""
        self._count[Front.ANSWERED_BY + engine] = epoch

    def lost(self, engine: int) -> None:
        self._count[Front.GREETED + engine] = self._count[Front.ANSWERED_BY + engine] = 0

    def mistrusts(self, engine: int, now_s: float, some_up: bool) -> None:
        """It answers nothing. That has lasted, so there is no grace."""
        if not some_up:
            self._value[Front.APART_S], self.is_apart = now_s - GRACE_S, True
        self.lost(engine)

    def look(self, now_s: float, some_up: bool) -> None:
        """Now and then. Time in which every engine is in a batch does not count: it will greet us when that is done."""
        if some_up:
            self._value[Front.APART_S], self.is_apart = 0.0, False
            return
        page = self._page
        if not self._value[Front.APART_S] or not any(reach_cells.has_time(page, i) for i in self._engines() if serves(page, i)):
            self._value[Front.APART_S] = now_s
        self.is_apart = now_s - self._value[Front.APART_S] > GRACE_S

    def _engines(self) -> range:
        return range(self._page.main.count[Main.ENGINES])
