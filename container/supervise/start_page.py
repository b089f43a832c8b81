"""The status page as a start makes it: when that was, and how many processes there are to be."""

from __future__ import annotations

import time

from evenkeel.container.plan.processes import ProcessPlan
from evenkeel.serve.contract.logline import sink
from evenkeel.serve.contract.status_page import Main, StatusPage


def new_page(processes: ProcessPlan) -> StatusPage:
    page = StatusPage.create()
    sink().count_in(page.main.count, Main.LINES_LOST)
    page.main.value[Main.STARTED_S] = time.monotonic()
    page.main.count[Main.FRONTS], page.main.count[Main.ENGINES] = processes.fronts, processes.places
    return page
