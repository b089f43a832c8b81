"""May a version take traffic? What its engines say, on the status page and when they are asked. Decides nothing else.

Owner of what each engine of the other slot has said of itself, by command: an engine that does not answer, or that has another
revision loaded than it was started for, takes no traffic.
"""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.command_link import AskedCommand
from evenkeel.serve.contract import reach_cells
from evenkeel.serve.contract.commands import Result, Verb
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.status_page import Engine, StatusPage

SHA256_S = 60.0  # a READY version waits so long for the sum of its files, which every reply names
ANSWER_S = 2.0
ASK_EVERY_S = 0.25


def is_ready(page: StatusPage, child: Child) -> bool:
    count = page.engine(child.place).count
    return child.process is not None and count[Engine.STATE] == ReplicaState.READY and count[Engine.EPOCH] == child.epoch


@dataclass(slots=True)
class EngineReport:
    """Of one life of the engine at a place. `model`: what it said of the revision, once it did."""

    epoch: int
    asked: AskedCommand
    asked_s: float
    model: Result | None = None


class EngineReadiness:
    def __init__(self, page: StatusPage) -> None:
        self._page = page
        self._reports: dict[int, EngineReport] = {}

    def may_take_traffic(self, child: Child, revision: int, now_s: float) -> bool:
        """READY, connected to every front, and known by the sum of its files, unless that takes too long."""
        page = self._page
        if not is_ready(page, child) or not reach_cells.reached_by_all(page, child.place, now_s):
            return False
        model = self._model(child, revision, now_s)
        if model is None:
            return False
        return bool(model.get("sha256")) or now_s - page.engine(child.place).value[Engine.STATE_SINCE_S] > SHA256_S

    def _model(self, child: Child, revision: int, now_s: float) -> Result | None:
        """What it says of this revision; None: nothing yet. Asked again until it names the sum of its files."""
        report = self._reports.get(child.place)
        if child.link is None:
            return None
        if report is None or report.epoch != child.epoch:
            report = self._reports[child.place] = EngineReport(child.epoch, child.link.ask(Verb.DESCRIBE, now_s, ANSWER_S), now_s)
        answer = report.asked.answer
        if answer is not None and answer.error is None:
            report.model = _of_revision(answer.result, revision) or report.model
        unknown = report.model is None or not report.model.get("sha256")
        if unknown and answer is not None and now_s - report.asked_s >= ASK_EVERY_S:
            report.asked, report.asked_s = child.link.ask(Verb.DESCRIBE, now_s, ANSWER_S), now_s
        return report.model


def _of_revision(result: Result, revision: int) -> Result | None:
    models = result.get("models")
    loaded = [m for m in models if isinstance(m, dict)] if isinstance(models, list) else []
    return next((model for model in loaded if model.get("revision") == revision), None)
