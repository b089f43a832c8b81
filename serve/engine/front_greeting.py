"""The first that a warm engine does: fronts come, and each has an answer from it the whole way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from evenkeel.serve.contract import reach_cells
from evenkeel.serve.contract.status_page import RUN_SPANS, Engine, StatusPage
from evenkeel.serve.engine.front_wait import Waiting
from evenkeel.serve.settings import EngineSettings

if TYPE_CHECKING:
    from evenkeel.serve.engine.cycle.cycle import Cycle

UNMET_S = 1.0  # without a front that was expected: it is told why this engine is not ready
TURN_S = 0.005


def meet_fronts(cycle: Cycle, page: StatusPage, settings: EngineSettings) -> None:
    """Serve until every front worker has been greeted and has had an answer the whole way from here, see
    front/routing/front_warmup.py; then forget what that counted.

    On a first start nobody else has been told to send anything. After a restart there may be clients among the callers:
    then what was counted stays.
    """
    block = page.engine(settings.place)
    before, waiting = bytes(block.count), Waiting(time.monotonic())
    while not cycle.closing:
        now_s = time.monotonic()
        fronts = reach_cells.counting(reach_cells.workers(page), now_s)
        unmet = reach_cells.unmet(fronts, settings.place, settings.epoch)
        unproven = reach_cells.unproven(fronts, settings.place, settings.epoch)
        if waiting.is_over(now_s, len(fronts), unmet, unproven):
            break
        block.value[Engine.AWAITS_S] = waiting.began_s if unmet and now_s - waiting.began_s > UNMET_S else 0.0
        cycle.turn(TURN_S)
    block.value[Engine.AWAITS_S] = 0.0
    for model in cycle.models.all:
        for curve in model.replica.cost.curves.values():
            curve.forget_runs()
    if settings.epoch == 1:
        old = memoryview(before).cast("Q")
        for cell in (Engine.BATCHES, Engine.ROWS, *range(Engine.RUN_SUM_S, RUN_SPANS)):
            block.count[cell] = old[cell]
