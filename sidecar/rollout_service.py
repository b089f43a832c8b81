"""The judge that lives in the sidecar: follows one named rollout at a time, in a thread of its own.

Owner of the rollout in progress, of its files in the run directory and of the page's ROLLOUT cell. The thread looks at the
instances and computes; others name, change and end the rollout, and read the last record. The lock is held only to exchange
those, so an instance that hangs, or answers garbage, delays nobody but the next look. The watch loop never comes here.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Main, RolloutCell, StatusPage
from evenkeel.serve.errors import EvenkeelError, NotFound
from evenkeel.sidecar import rollout_case
from evenkeel.sidecar.http import rollout_status
from evenkeel.sidecar.rollout import checkpoint, replay
from evenkeel.sidecar.rollout.decision_record import lost
from evenkeel.sidecar.rollout.judge_errors import CannotJudge
from evenkeel.sidecar.rollout.spec import STAGES_MAX, RolloutSpec, Split, check_split
from evenkeel.sidecar.rollout_case import Case

CELLS = {"promote": RolloutCell.PROMOTE, "hold": RolloutCell.HOLD, "rollback": RolloutCell.ROLLBACK}


class NoRollout(NotFound):
    code = "no_rollout"


class RolloutEnded(EvenkeelError):
    code, status = "rollout_ended", 409


class RolloutService:
    """`folder`: where a rollout in progress is saved, empty in the beginning or left by a predecessor."""

    def __init__(self, page: StatusPage, folder: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        self._page, self._folder, self._now_s = page, folder, now_s
        self._changed = threading.Condition()
        self._case: Case | None = None
        self._lost, self._lost_s = "", 0.0  # why what a predecessor was following cannot be followed any more, and since when
        with self._changed:
            self._resume()

    def start(self) -> None:
        threading.Thread(target=self._follow, name="judge", daemon=True).start()

    # ---- for the routes --------------------------------------------------------------------------------------------

    def name(self, order: RolloutSpec) -> dict[str, Any]:
        """Begin to follow this rollout, in place of any other. Raises CannotJudge for addresses that are none."""
        case = rollout_case.begun(order, self._now_s())
        with self._changed:
            self._case, self._lost = case, ""
            self._save(case, lambda: checkpoint.begin(self._folder, case.progress()))
            self._publish(case)
            log("rollout_named", f"judging {order.id}", instances=sum(map(len, order.arms().values())))
            return case.shown()

    def next_stage(self, split: Split | None) -> dict[str, Any]:
        """More traffic for the candidate from now on. None: nobody knows the split. Raises NoRollout, RolloutEnded, BadRule."""
        with self._changed:
            if self._lost:
                raise RolloutEnded(f"{self._lost}; POST /rollout names it again")
            case = self._named()
            if case.done:
                raise RolloutEnded("this rollout has ended; POST /rollout names another")
            if case.stages >= STAGES_MAX:
                raise RolloutEnded(f"this rollout has had {STAGES_MAX} stages; POST /rollout names another")
            check_split(split or {}, case.order.arms())
            case.stages += 1
            case.splits.append(split or {})
            self._changed.notify_all()
            return {"rollout": case.order.id, "stage": case.stages}

    def end(self) -> str:
        """Forget it; the name of what was forgotten. Raises NoRollout."""
        with self._changed:
            name = "" if self._lost else self._named().order.id
            self._case, self._lost = None, ""
            checkpoint.end(self._folder)
            self._page.main.count[Main.ROLLOUT] = RolloutCell.NONE
            log("rollout_ended", f"no longer judging {name}")
            return str(name)

    def shown(self) -> dict[str, Any]:
        """The decision record as it stands. Raises NoRollout."""
        with self._changed:
            return _lost_record(self._lost) if self._lost else self._named().shown()

    def status(self, unix: Callable[[float], float]) -> dict[str, Any] | None:
        """What /status shows of it. `unix` turns a moment of our clock into Unix time. None when no rollout was named."""
        with self._changed:
            if self._lost:
                return self._told(rollout_status.shown(None, _lost_record(self._lost), {}), unix, None, self._lost_s)
            case = self._case
            if case is None:
                return None
            shown = rollout_status.shown(case.order, case.shown(), case.trail)
            return self._told(shown, unix, case.named_s, case.decided_s)

    def _told(
        self, shown: dict[str, Any], unix: Callable[[float], float], named_s: float | None, since_s: float
    ) -> dict[str, Any]:
        named_at = None if named_s is None else unix(named_s)
        return {**shown, "named_at": named_at, "since": unix(since_s), "for_s": round(self._now_s() - since_s, 3)}

    def log_lines(self) -> list[str]:
        """The replay log as it stands, for `evenkeel judge --replay`. Raises NoRollout."""
        with self._changed:
            case = self._named()
            rule, windows, record = case.rollout.rule, case.windows, case.record
        return replay.write(rule, windows, record)

    def _named(self) -> Case:
        if self._case is None:
            raise NoRollout("no rollout has been named: POST /rollout with the arms")
        return self._case

    # ---- the thread ------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while True:
            if not self.turn():
                self._sleep()

    def turn(self) -> bool:
        """Look at the instances if that is due."""
        with self._changed:
            case = self._case
            if case is None or not case.is_due(self._now_s()):
                return False
        try:
            self._look(case)
        except Exception as e:
            self._fail(case, e)
        return True

    def _fail(self, case: Case, e: Exception) -> None:
        """Hold until a look succeeds, at the latest until the time allowed has passed. Of the error its kind and place are told:
        its words may be an instance's."""
        place = "".join(traceback.format_tb(e.__traceback__))
        with self._changed:
            now_s = self._now_s()
            if not case.failed:
                case.decided_s = now_s
            case.failed = f"an error of ours in the judge, {type(e).__name__}; the log has the details"
            since_s = case.named_s if case.start_s is None else case.start_s
            case.done = case.done or now_s - since_s >= case.rollout.rule.max_s
            case.due_s = self._next_due_s(case)
            log("rollout_failed", f"{case.order.id}: an error of ours: {type(e).__name__}", level="error", trace=place,
                final=case.done)  # fmt: skip
            if self._case is case:
                self._publish(case)

    def _sleep(self) -> None:
        with self._changed:
            case, now_s = self._case, self._now_s()
            if case is None or not case.is_due(now_s):
                self._changed.wait(None if case is None or case.done else case.due_s - now_s)

    def _look(self, case: Case) -> None:
        began_s = self._now_s()
        at_s = 0.0 if case.start_s is None else round(began_s - case.start_s, 3)
        with self._changed:
            splits = tuple(case.splits)  # asked for before this look, which ends the windows of the stage before
        answers = case.source.look(at_s)
        window = case.take(answers, at_s, began_s)
        decision = case.rollout.decision()
        with self._changed:
            if self._case is not case:
                return  # another one was named meanwhile, or none
            for split in splits:
                case.rollout.next_stage(split)
            del case.splits[: len(splits)]
            before = case.shown()["decision"]
            case.tell(answers, decision, began_s)
            case.due_s = self._next_due_s(case)
            self._save(case, lambda: checkpoint.add(self._folder, case.progress(), window))
            self._publish(case)
            if before != case.record["decision"] or case.done:
                codes = [reason["code"] for reason in case.record["reasons"]]
                log("rollout", f"{case.order.id}: {case.record['decision']}", reasons=codes[:5], final=case.done)

    def _next_due_s(self, case: Case) -> float:
        """On the grid of window_s from the first round on; a look that took longer than a window skips its turns."""
        start_s = case.named_s if case.start_s is None else case.start_s
        turns = (self._now_s() - start_s) // case.order.window_s
        return start_s + (turns + 1) * case.order.window_s

    # ---- saved, restored, published ----------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Go on with what a predecessor was following, or say that it is lost."""
        try:
            progress = checkpoint.load(self._folder)
            source = None if progress is None else rollout_case.source_of(progress.order)
        except CannotJudge as e:
            self._lose(e.message)
            return
        if progress is not None and source is not None:
            self._case = case = rollout_case.resumed(progress, source, self._now_s())
            self._publish(case)
            log("rollout_resumed", f"going on with {case.order.id} after {len(case.windows)} windows", phase=case.phase)
        elif self._page.main.count[Main.ROLLOUT]:
            self._lose("nothing was saved of it")

    def _lose(self, why: str) -> None:
        self._lost, self._lost_s = f"the sidecar was replaced: {why}", self._now_s()
        self._page.main.count[Main.ROLLOUT] = RolloutCell.HOLD
        log("rollout_lost", f"a rollout was being judged, and cannot be any more: {why}", level="error")

    def _save(self, case: Case, write: Callable[[], None]) -> None:
        if not case.saving:
            return
        try:
            write()
        except OSError as e:
            # What was saved last still holds: a successor's first window then begins there.
            case.saving = False
            log("rollout_not_saved", f"cannot save in {self._folder}: {e.strerror}; a restarted sidecar will not know the newest",
                level="error")  # fmt: skip

    def _publish(self, case: Case) -> None:
        self._page.main.count[Main.ROLLOUT] = CELLS[case.shown()["decision"]]
        self._changed.notify_all()


def _lost_record(why: str) -> dict[str, Any]:
    return {**lost("", why), "judge": {"phase": "lost", "missing": {}}}
