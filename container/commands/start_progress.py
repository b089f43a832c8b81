"""Tells what the start is doing, and at its end that the model serves, and where."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from evenkeel.container.run_record import RunRecord
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Main, StatusPage, places, read_engine


class StartProgress:
    """Looks at the page now and then; says each new thing once."""

    def __init__(
        self, page: StatusPage, record: RunRecord, told: Mapping[str, object], steps: bool,
        then: Callable[[Mapping[str, object]], None] | None,
    ) -> None:  # fmt: skip
        """`steps`: somebody watches, and each is told. `then`: called once it serves, with what was told of it."""
        self._page, self._record, self._more, self._steps, self._then = page, record, told, steps, then
        self._last = ""
        self._done = False

    def look(self) -> None:
        if self._done or self._page.main.count[Main.LEAVING]:
            return
        if self._page.verdict().ready:
            self._done = True
            seconds = round(time.monotonic() - self._page.main.value[Main.STARTED_S], 3)
            told = {"port": self._record.port, "page": self._record.page, "seconds": seconds, **self._more}
            log("serving", f"ready on port {self._record.port}", **told)
            if self._then is not None:
                self._then(told)
        elif any(read_engine(self._page, i).state == ReplicaState.FAILED for i in places(self._page)):
            self._done = True  # the start has failed, and the container ends
        elif self._steps and (step := self._step()) != self._last:
            self._last = step
            log("progress", step)

    def _step(self) -> str:
        engines = [read_engine(self._page, i) for i in places(self._page)]
        slowest = min(engines, key=lambda e: (e.state, e.warm_done))
        if slowest.state < ReplicaState.WARMING:
            return "loading the model"
        return f"warming up: {slowest.warm_done} of {slowest.warm_total}" if slowest.warm_total else "warming up"
