"""What follows when a process has ended: it is collected, its end explained, and another started, or the container ends.

restart.py decides, and the deployer for engines of a version that does not serve; this acts. Owner of nothing but the count of
kills by the kernel that explain an end.
"""

from __future__ import annotations

import os
import signal

from evenkeel.container.supervise import life_records, restart
from evenkeel.container.supervise.child import Child, how_it_ended, tell
from evenkeel.container.supervise.departure import Departure
from evenkeel.container.supervise.process_watch import ProcessWatch
from evenkeel.container.supervise.restart import End, RestartAction, Situation, Step
from evenkeel.container.supervise.spawn import clear
from evenkeel.container.versions.deployer import Deployer
from evenkeel.container.watch.memory_kills import OomKills
from evenkeel.serve.contract import engine_ends
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.process_setup import EXIT_BAD_MODEL, EXIT_DEVICE
from evenkeel.serve.contract.status_page import Engine, StatusPage, restart_cell

EXIT_REASONS = {EXIT_DEVICE: "device"}  # exit codes that say why


class EndedProcesses:
    def __init__(
        self, page: StatusPage, children: list[Child], restart_limit: int, departure: Departure, watch: ProcessWatch,
        versions: Deployer | None,
    ) -> None:  # fmt: skip
        self._page, self._children, self._restart_limit = page, children, restart_limit
        self._departure, self._watch, self._versions = departure, watch, versions
        self._oom_kills = OomKills(page)

    def reap(self, now_s: float) -> None:
        """Collect every process that has ended, ours or orphaned to us."""
        self._oom_kills.look(now_s)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = next((c for c in self._children if c.process is not None and c.process.pid == pid), None)
            if child is not None:
                self._ended(child, os.waitstatus_to_exitcode(status), now_s)

    def _ended(self, child: Child, code: int, now_s: float) -> None:
        end = self._end_of(child, code, now_s)
        self._bury(child, code)
        if self._belongs_to_a_swap(child, end, now_s):
            return
        step = restart.after(end, child.history, self._situation(child))
        child.history = step.history
        self._act(child, end, step, now_s)

    def _belongs_to_a_swap(self, child: Child, end: End, now_s: float) -> bool:
        """Of a version that does not serve; what follows is decided there."""
        over = self._departure.begun and (end.code == EXIT_BAD_MODEL or not self._departure.front_lives)
        if self._versions is None or end.post is not restart.Post.OWN or over:
            return False
        return self._versions.ended(child, end.code, now_s)

    def _end_of(self, child: Child, code: int, now_s: float) -> End:
        life = life_records.life(self._page, child.role, child.place, child.began, now_s)
        reason = child.ending or self._reason(code, now_s)
        if child.role == "engine":  # fronts ask what ended the engine that ran their requests
            engine_ends.write(self._page.engine(child.place), child.epoch, engine_ends.how(code, reason))
        return End(child.role, child.label, code, reason, how_it_ended(code), life, child.post)

    def _reason(self, code: int, now_s: float) -> str:
        """Why a process ended that we did not end, as far as can be known."""
        if code == -signal.SIGKILL and self._oom_kills.explain_one(now_s):
            return restart.OUT_OF_MEMORY
        return EXIT_REASONS.get(code) or ("signal" if code < 0 else "exit")

    def _bury(self, child: Child, code: int) -> None:
        assert child.process is not None, "only running children end"
        child.process.returncode = code  # reaped here, so Popen must not wait for it again
        tell(child, signal.SIGKILL)  # whatever it had started must not outlive it
        if child.output is not None:
            child.output.close()
            child.output = None
        if child.link is not None:
            child.link.close()
            child.link = None
        child.process = None
        if child.beside is not None:
            self._children.remove(child)

    def _situation(self, child: Child) -> Situation:
        before = child.beside
        return Situation(
            limit=self._restart_limit, leaving=self._departure.begun, fronts_live=self._departure.front_lives,
            was_ready=self._departure.was_ready, successor=self._watch.successors.of(child) is not None,
            predecessor_serves=before is not None and before.process is not None and not before.ending)  # fmt: skip

    def _act(self, child: Child, end: End, step: Step, now_s: float) -> None:
        match step.do:
            case RestartAction.START if self._departure.begun:
                child.ending, child.due_s = "", now_s + step.after_s
            case RestartAction.START | RestartAction.TAKE_OVER:
                self._replace(child, end, step, now_s)
            case RestartAction.GIVE_UP:
                if end.code != EXIT_BAD_MODEL:
                    self._count(child, end)
                self._departure.begin(1, step.why + self._watch.memory.words(step.history.idle_ends))
            case RestartAction.KEEP_PREDECESSOR:
                assert child.beside is not None, "it stood beside another"
                self._watch.successors.keep(child.beside)
            case RestartAction.REPLACE_IN_PLACE:
                assert child.beside is not None, "it stood beside another"
                self._watch.successors.replace_in_place(child.beside, end.code, self._watch.moment)
            case RestartAction.NOTHING if end.post is restart.Post.PREDECESSOR and end.code:
                # Cut off in a batch, which is not its successor's.
                self._page.engine(child.place).value[Engine.RUN_STARTED_S] = 0.0

    def _replace(self, child: Child, end: End, step: Step, now_s: float) -> None:
        self._count(child, end)
        child.ending = ""
        successor = self._watch.successors.of(child) if step.do is RestartAction.TAKE_OVER else None
        how = "starting another" if successor is None else "the one that was being made beside it takes its place"
        if step.lowered:
            how += f", with at most {step.history.rows_max} rows in a batch"
        log("restart", f"{child.label} ended with {end.how}, {how}", role=child.role, place=child.place, reason=end.reason)
        if successor is not None:
            clear(self._page, child.place)
            self._watch.successors.hand_over(child, successor)
            return
        child.due_s = now_s + step.after_s

    def _count(self, child: Child, end: End) -> None:
        self._page.main.count[restart_cell(child.role, end.reason)] += 1
