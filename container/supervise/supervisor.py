"""PID 1's work: spawn, watch, restart, drain, reap. Knows processes by role and place, and nothing of what they do.

Owner of the children and of the supervisor's cells of the status page. What is decided is decided elsewhere: what follows an
end in restart.py, who is stuck in stuck.py, how all of it ends in departure.py.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable

from evenkeel.container.supervise import engine_leave, life_records, restart
from evenkeel.container.supervise.child import Child, how_it_ended, tell
from evenkeel.container.supervise.command_server import CommandServer
from evenkeel.container.supervise.departure import Departure
from evenkeel.container.supervise.listener_drain import ListenerDrain
from evenkeel.container.supervise.restart import End, RestartAction, Situation, Step
from evenkeel.container.supervise.spawn import clear, spawn
from evenkeel.container.supervise.successors import Successors
from evenkeel.container.supervise.supervisor_commands import SupervisorCommands
from evenkeel.container.supervise.wakeups import Wakeups
from evenkeel.container.versions.deployer import Deployer
from evenkeel.container.watch import stuck
from evenkeel.container.watch.memory_kills import MemoryUse, OomKills
from evenkeel.container.watch.memory_sampler import MemorySampler
from evenkeel.container.watch.stopped_processes import StoppedProcesses, parent_of
from evenkeel.container.watch.watcher import Watcher
from evenkeel.serve.contract import engine_ends
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.process_setup import EXIT_BAD_MODEL, EXIT_DEVICE
from evenkeel.serve.contract.status_page import Engine, Front, Main, StatusPage, restart_cell

TICK_S = 0.25
LEAVING_TICK_S = 0.02
START_AGAIN_S = 1.0  # after the system would not let us start a process
EXIT_REASONS = {EXIT_DEVICE: "device"}  # exit codes that say why


class Supervisor:
    """Runs until every child has ended. `run` returns the container's exit code."""

    def __init__(
        self, page: StatusPage, children: list[Child], restart_limit: int, drain_s: float, quiet_s: float,
        policy: stuck.StuckLimits = stuck.StuckLimits(),  # noqa: B008  frozen
        sentinel: MemorySampler | None = None, versions: Deployer | None = None, door: ListenerDrain | None = None,
        commands: socket.socket | None = None,
    ) -> None:  # fmt: skip
        self._page, self._children, self._restart_limit = page, children, restart_limit
        self._sentinel, self._versions = sentinel or MemorySampler(), versions
        self._moment = stuck.StuckView(time.monotonic())
        self._departure = Departure(page, children, drain_s, quiet_s, door)
        self._successors = Successors(page, children, self._sentinel, versions)
        self._watcher = Watcher(page, children, self._successors, policy)
        self._waker, self._oom_kills, self._memory = StoppedProcesses(), OomKills(page), MemoryUse()
        served = SupervisorCommands(self._departure, versions)
        self._wakeups = Wakeups(children, CommandServer(commands, served) if commands is not None else None)
        self.on_tick: Callable[[], None] = lambda: None

    # ---- the story -------------------------------------------------------------------------------------------------

    def run(self) -> int:
        self._wakeups.heed_signals()
        self._departure.heed_signals()
        while not self._tick(time.monotonic()):
            self.on_tick()
            self._wakeups.sleep(LEAVING_TICK_S if self._departure.begun else TICK_S)
        return self._departure.exit_code

    def _tick(self, now_s: float) -> bool:
        """Look at everything once. True when all is over."""
        self._reap(now_s)
        self._moment = self._moment.later(now_s)
        engine_leave.insist(self._children)
        self._look(now_s)
        if not self._departure.begun:
            if self._versions is not None:
                self._versions.tick(now_s)
            self._start_due(now_s)
            self._watch(now_s)
            return False
        if self._departure.done(now_s):
            return True
        if self._departure.owes_answers:
            if self._versions is not None and not self._versions.steady:
                self._versions.tick(now_s)
            self._start_due(now_s)
            self._watcher.watch_engines(self._moment)
        return False

    # ---- children ----------------------------------------------------------------------------------------------------

    def _start_due(self, now_s: float) -> None:
        for child in self._children:
            if child.process is None and child.due_s is not None and child.due_s <= now_s:
                try:
                    spawn(self._page, child)
                except OSError as e:  # no file descriptor, process or memory is left: those that run go on
                    log("start_failed", f"{child.label} cannot be started: {e.strerror}; it is tried again", level="warning")
                    child.due_s = now_s + START_AGAIN_S

    def _reap(self, now_s: float) -> None:
        """Collect every process that has ended, ours or orphaned to us."""
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
        end = self._told_of(child, code, now_s)
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

    def _told_of(self, child: Child, code: int, now_s: float) -> End:
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
            was_ready=self._departure.was_ready, successor=self._successors.of(child) is not None,
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
                self._departure.begin(1, step.why + self._memory.words(step.history.idle_ends))
            case RestartAction.KEEP_PREDECESSOR:
                assert child.beside is not None, "it stood beside another"
                self._successors.keep(child.beside)
            case RestartAction.REPLACE_IN_PLACE:
                assert child.beside is not None, "it stood beside another"
                self._successors.replace_in_place(child.beside, end.code, self._moment)
            case RestartAction.NOTHING if end.post is restart.Post.PREDECESSOR and end.code:
                # Cut off in a batch, which is not its successor's.
                self._page.engine(child.place).value[Engine.RUN_STARTED_S] = 0.0

    def _replace(self, child: Child, end: End, step: Step, now_s: float) -> None:
        self._count(child, end)
        child.ending = ""
        successor = self._successors.of(child) if step.do is RestartAction.TAKE_OVER else None
        how = "starting another" if successor is None else "the one that was being made beside it takes its place"
        if step.lowered:
            how += f", with at most {step.history.rows_max} rows in a batch"
        log("restart", f"{child.label} ended with {end.how}, {how}", role=child.role, place=child.place, reason=end.reason)
        if successor is not None:
            clear(self._page, child.place)
            self._successors.hand_over(child, successor)
            return
        child.due_s = now_s + step.after_s
        self._start_due(now_s)

    def _count(self, child: Child, end: End) -> None:
        self._page.main.count[restart_cell(child.role, end.reason)] += 1

    # ---- looking after them --------------------------------------------------------------------------------------------

    def _look(self, now_s: float) -> None:
        processes = self._processes()
        self._waker.look(processes, self._moment)
        self._oom_kills.look(now_s)
        self._memory.look(processes, now_s)

    def _watch(self, now_s: float) -> None:
        self._watcher.watch(self._moment)
        self._successors.hurry(self._moment)
        if self._sentinel.due(now_s):
            engines = [c for c in self._children if c.role == "engine" and c.process is not None]
            self._sentinel.keep({c.place for c in engines})
            for child in engines:
                if not child.ending and not child.condemned_s and child.beside is None:
                    self._successors.watch_memory(child, self._moment)
        self._successors.switch_when_warm(self._moment)

    def _processes(self) -> dict[int, str]:
        """Names by pid: the children, and the workers of gunicorn's that say who they are."""
        found = {c.process.pid: c.label for c in self._children if c.process is not None}
        for i in range(self._page.main.count[Main.FRONTS]):
            pid = self._page.front(i).count[Front.PID]
            if pid and found.get(parent_of(pid), "").startswith("front"):
                found[pid] = f"front worker {i}"
        return found
