"""PID 1's work: spawn, watch, restart, drain, reap. Knows processes by role and place, and nothing of what they do.

Owner of the data port, which door.py closes, the engines' listening sockets, the run directory and the supervisor's cells of the
status page. All of these outlive the processes that use them, so a restart loses no connection and no counter.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from container import cards, machine, standby, watch
from container.child import Child, tell
from container.door import Door
from container.output import Output
from container.sentinel import Sentinel
from container.versions import Versions
from container.waker import Waker, parent_of
from serve.contract.lifecycle import Reason, State, Verdict
from serve.contract.logline import log
from serve.contract.process import DUMP_SIGNAL, EXIT_BAD_MODEL, EXIT_DEVICE
from serve.contract.status import (
    DEVICE_TEXT,
    Block,
    Engine,
    Front,
    Main,
    StatusPage,
    read_engine,
    restart_cell,
    run_spans,
    serves,
)

TICK_S = 0.25
RESTART_WINDOW_S = 600.0
BACKOFF_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)  # before the n-th restart within the window
OBSERVER_BACKOFF_S = 1.0  # at most, for the sidecar: it costs nobody a request, and without it the verdict grows old
# Who takes requests leaves before who answers them; the observer goes last.
DEPARTURE = ("front", "engine", "sidecar")
LEAVE_S = 30.0  # for an engine that is replaced for its memory to finish what it has accepted
CGROUP = Path("/sys/fs/cgroup")
START_AGAIN_S = 1.0  # after the system would not let us start a process
DUMP_S = 0.5  # for a stuck engine to write its stacks before it is ended
EXIT_REASONS = {EXIT_DEVICE: "device"}  # exit codes that say why


class Supervisor:
    """Runs until every child has ended. `run` returns the container's exit code."""

    def __init__(
        self, page: StatusPage, children: list[Child], restart_limit: int, drain_s: float, quiet_s: float,
        policy: watch.Policy = watch.Policy(),  # noqa: B008  frozen
        sentinel: Sentinel | None = None, versions: Versions | None = None, door: Door | None = None,
    ) -> None:  # fmt: skip
        self._page, self._children, self._policy = page, children, policy
        self._moment = watch.Moment(time.monotonic())
        self._sentinel, self._versions = sentinel or Sentinel(), versions
        self._door, self._waker = door, Waker()
        self._oom_kills = machine.oom_kills(CGROUP)
        self._restart_limit, self._drain_s, self._quiet_s = restart_limit, drain_s, quiet_s
        self._exit_code = 0
        self._stop_asked_s = 0.0
        self._signals = 0  # that asked us to stop
        self._device_faults, self._lost_devices = 0, dict[str, int]()  # fatal errors known so far: of all devices, and by name
        self._departing = -1  # index into DEPARTURE of the roles told to end; -1: none yet
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.on_tick: Callable[[], None] = lambda: None

    # ---- the story -------------------------------------------------------------------------------------------------

    def run(self) -> int:
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for s in (signal.SIGTERM, signal.SIGINT):
            signal.signal(s, self._stop_signal)
        while True:
            now_s = time.monotonic()
            self._reap(now_s)
            self._moment = self._moment.later(now_s)
            self._waker.look(self._processes(), self._moment)
            if self._page.main.count[Main.DRAIN_ASKED]:
                self.stop(0, "asked to drain: finishing what has been accepted")
            if self._stop_asked_s:
                if self._depart(now_s):
                    return self._exit_code
                if self._owed():
                    if self._versions is not None and not self._versions.steady:
                        self._versions.tick(now_s)
                    self._start_due(now_s)
                    self._watch_engines()
            else:
                if self._versions is not None:
                    self._versions.tick(now_s)
                self._start_due(now_s)
                self._watch(now_s)
                self._switch_when_warm()
            self.on_tick()
            outputs, wait_s = self._outputs(TICK_S if not self._stop_asked_s else 0.02)
            ready, _, _ = select.select([self._wake_r, *outputs], [], [], wait_s)
            self._drain_wakeups()
            for fd in ready:
                if fd in outputs:
                    self._read_output(outputs[fd])

    def stop(self, code: int, why: str) -> None:
        """Begin to leave: /ping turns 503 now, everything else follows in order."""
        if self._stop_asked_s:
            return
        self._exit_code = code
        self._stop_asked_s = time.monotonic()
        reason = Reason.DRAINING if code == 0 else Reason.FAILED
        self._page.main.count[Main.LEAVING] = reason
        self._page.write_verdict(Verdict(False, reason), self._stop_asked_s)
        log("draining" if code == 0 else "giving_up", why)

    # ---- children ----------------------------------------------------------------------------------------------------

    def _start_due(self, now_s: float) -> None:
        for child in self._children:
            if child.process is None and child.due_s is not None and child.due_s <= now_s:
                try:
                    self._start(child)
                except OSError as e:  # no file descriptor, process or memory is left: those that run go on
                    log("start_failed", f"{child.label} cannot be started: {e.strerror}; it is tried again", level="warning")
                    child.due_s = now_s + START_AGAIN_S

    def _start(self, child: Child) -> None:
        child.epoch += 1
        child.due_s, child.started_s, child.condemned_s = None, time.monotonic(), 0.0
        block = self._clear(child.place) if child.role == "engine" else None
        if block is not None:
            block.count[Engine.EPOCH] = child.epoch
        # A session of its own: Ctrl-C at a terminal reaches only the supervisor, which then stops the others in order.
        read_end, write_end = os.pipe2(os.O_CLOEXEC) if child.captured else (-1, None)
        try:
            child.process = subprocess.Popen(
                child.command(child.epoch), pass_fds=child.fds, stdin=subprocess.DEVNULL, start_new_session=True,
                env=child.environ, stdout=write_end, stderr=write_end)  # fmt: skip
        except OSError:
            if write_end is not None:
                os.close(read_end)
            raise
        finally:
            if write_end is not None:
                os.close(write_end)
        if write_end is not None:
            child.output = Output(read_end, child.label)
        if block is not None:
            block.count[Engine.PID] = child.process.pid

    def _clear(self, place: int) -> Block:
        block = self._page.engine(place)
        for cell in (Engine.STATE, Engine.QUEUE_ROWS, Engine.WARM_DONE, Engine.WARM_TOTAL, Engine.STUCK):
            block.count[cell] = 0
        block.value[Engine.RUN_STARTED_S] = block.value[Engine.BEAT_S] = 0.0
        return block

    def _outputs(self, wait_s: float) -> tuple[dict[int, Child], float]:
        """The pipes to be read next, and how long to wait for them: less if one is due sooner."""
        now_s = time.monotonic()
        due = {c.output.fd: (c, c.output.due_s(now_s)) for c in self._children if c.output is not None}
        resting = [due_s for _, due_s in due.values() if due_s > 0]
        return {fd: c for fd, (c, due_s) in due.items() if due_s <= 0}, min([wait_s, *resting])

    def _read_output(self, child: Child) -> None:
        if child.output is not None and not child.output.read():
            child.output.close()
            child.output = None

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
        assert child.process is not None, "only running children end"
        child.process.returncode = code  # reaped here, so Popen must not wait for it again
        tell(child, signal.SIGKILL)  # whatever it had started must not outlive it
        if child.output is not None:
            child.output.close()
            child.output = None
        child.process = None
        if child.beside is not None:
            self._children.remove(child)
        if self._stop_asked_s:
            self._may_come_back(child, code, now_s)
            return
        if child.beside is not None:
            if child.ending != "leak":
                self._standby_failed(child.beside, code)
            elif code:  # cut off in a batch, which is not its successor's
                self._page.engine(child.place).value[Engine.RUN_STARTED_S] = 0.0
            return
        if self._versions is not None and self._versions.ended(child, code, now_s):
            return
        if code == EXIT_BAD_MODEL:
            self.stop(1, "the model cannot be served, see the line above; starting it again cannot help")
            return
        reason, child.ending = child.ending or self._reason(code), ""
        recent = [t for t in child.restarts if now_s - t < RESTART_WINDOW_S]
        child.restarts = deque([*recent, now_s] if reason != "leak" else recent)  # that one left in good order
        self._page.main.count[restart_cell(child.role, reason)] += 1
        what = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if len(child.restarts) > self._restart_limit and not self._can_do_without(child):
            self.stop(1, f"{child.label} ended {len(recent) + 1} times within {RESTART_WINDOW_S / 60:g} minutes ({what})")
            return
        successor = self._standby_of(child)
        if successor is not None:
            log("restart", f"{child.label} ended with {what}, the one that was being made beside it takes its place",
                role=child.role, place=child.place, reason=reason)  # fmt: skip
            self._clear(child.place)
            self._hand_over(child, successor)
            return
        backoff_s = BACKOFF_S[min(len(recent), len(BACKOFF_S) - 1)] if reason != "leak" else 0.0
        child.due_s = now_s + (backoff_s if child.role != "sidecar" else min(backoff_s, OBSERVER_BACKOFF_S))
        log("restart", f"{child.label} ended with {what}, starting another", role=child.role, place=child.place,
            reason=reason)  # fmt: skip
        self._start_due(now_s)

    def _can_do_without(self, child: Child) -> bool:
        """A container that has been ready serves on without its sidecar: the last verdict stands."""
        return child.role == "sidecar" and self._was_ready()

    def _reason(self, code: int) -> str:
        """Why a process ended that we did not end, as far as can be known."""
        kills, self._oom_kills = self._oom_kills, machine.oom_kills(CGROUP)
        if code == -signal.SIGKILL and self._oom_kills > kills:
            return "out_of_memory"
        return EXIT_REASONS.get(code) or ("signal" if code < 0 else "exit")

    # ---- those that live but do not move, see watch.py ---------------------------------------------------------------

    def _watch(self, now_s: float) -> None:
        sample = self._sentinel.due(now_s)
        if sample:
            self._sentinel.keep({c.place for c in self._children if c.role == "engine" and c.process is not None})
        self._watch_engines()
        self._watch_devices()
        for child in self._children:
            if child.ending == "leak" and child.process is not None and self._moment.since(child.condemned_s) > LEAVE_S:
                tell(child, signal.SIGKILL)
            if child.process is None or child.ending or child.beside is not None:
                continue
            if child.role == "engine":
                if sample and not child.condemned_s:
                    self._watch_memory(child, child.process.pid)
            elif why := self._silence(child):
                log("stuck", f"{child.label} {why}; it is ended and another started", role=child.role, place=child.place)
                self._end(child, "stuck")

    def _watch_engines(self) -> None:
        """While we leave, too, as long as requests wait: behind one that hangs they would wait in vain."""
        for child in self._children:
            watched = child.role == "engine" and child.process is not None and not child.ending and child.beside is None
            if watched and not self._predecessor_leaves(child):  # until then the batches on the page are that one's
                self._watch_engine(child)

    def _watch_devices(self) -> None:
        """An engine whose device has failed is ended at once: another may get a device that works, and its requests run there.
        One that starts on a device which is gone for good fails, and the container with it."""
        if self._page.main.count[Main.DEVICE_FAULTS] == self._device_faults:
            return
        told = self._page.read_text(DEVICE_TEXT).get("devices") or []
        lost = watch.lost_devices(told, self._lost_devices)
        if not told:
            return  # being written just now
        self._device_faults = self._page.main.count[Main.DEVICE_FAULTS]
        self._lost_devices |= lost
        for child in self._children:
            if child.role == "engine" and child.process is not None and not child.ending and child.device in lost:
                log("device_lost", f"{child.label}: its device {child.device} has failed; it is ended and another started",
                    role=child.role, place=child.place, device=child.device)  # fmt: skip
                self._end(child, "device")

    def _silence(self, child: Child) -> str:
        page = self._page
        if child.role == "sidecar":
            return watch.silent_sidecar(page.main.value[Main.VERDICT_BEAT_S], child.started_s, self._moment)
        beats_s = [page.front(i).value[Front.BEAT_S] for i in range(page.main.count[Main.FRONTS])]
        return watch.silent_fronts(beats_s, child.started_s, self._moment, self._policy)

    def _watch_engine(self, child: Child) -> None:
        """Found stuck, it writes its stacks, and is then ended; its queue runs elsewhere. One that moves on meanwhile is
        left alone."""
        page = self._page
        view, block = read_engine(page, child.place), page.engine(child.place)
        waiting = sum(page.front(i).count[Front.QUEUE_ROWS] for i in range(page.main.count[Main.FRONTS]))
        why = watch.stuck(view, self._moment, self._policy, waiting)
        if not why:
            if child.condemned_s:
                log("moved_on", f"{child.label} was slow, not stuck: it goes on", role=child.role, place=child.place)
                child.condemned_s, block.count[Engine.STUCK] = 0.0, 0
        elif not child.condemned_s:
            child.condemned_s, block.count[Engine.STUCK] = self._moment.now_s, 1
            log("stuck", f"{child.label} {why}; its stacks follow, then it is ended", role=child.role, place=child.place,
                rows=view.run_rows, predicted_s=round(view.run_predicted_s, 6), longest_s=round(view.run_longest_s, 6),
                batches=view.batches, requests=self._running(child), again=view.run_again)  # fmt: skip
            assert child.process is not None, "only the living are watched"
            os.kill(child.process.pid, DUMP_SIGNAL)
        elif self._moment.now_s - child.condemned_s >= DUMP_S:
            self._end(child, "stuck")

    def _watch_memory(self, child: Child, pid: int) -> None:
        """Before the kernel ends a replica in the middle of a batch, it is replaced."""
        view = read_engine(self._page, child.place)
        if view.state != State.READY:
            return
        why = self._sentinel.look(child.place, pid, view.rows, self._moment.now_s)
        swapping = self._versions is not None and not self._versions.steady
        if not why or swapping or not serves(self._page, child.place):  # a version that stands by leaves soon enough
            return
        if self._spare_taken():  # one after the other
            return
        no_room = standby.why_not(self._page.main.count[Main.ENGINES], self._sentinel.new_bytes(child.place),
                                  self._sentinel.left_bytes()) or self._no_room_on_card(child)  # fmt: skip
        how = f"in its place, because {no_room}" if no_room else "by one that is made ready beside it"
        log("leak", f"{child.label} is replaced {how}: {why}", role=child.role, place=child.place, rows=view.rows)
        if no_room:
            self._leave(child)
        else:
            self._begin_standby(child)

    def _no_room_on_card(self, child: Child) -> str:
        if not child.device:
            return ""
        there = sum(c.device == child.device and self._is_up(c) for c in self._children)
        card = cards.OnCard(child.device, engines=there, leaving=0, added=1)
        found = cards.fit(self._page.read_text(DEVICE_TEXT).get("devices") or [], [card])
        return "" if found.fits else found.why

    def _is_up(self, child: Child) -> bool:
        return child.process is not None and read_engine(self._page, child.place).state == State.READY

    def _spare_taken(self) -> bool:
        """By a standby, or by one that took over, after a crash, before it was warm: it tells of itself there until it is."""
        pid = self._page.engine(standby.SPARE).count[Engine.PID]
        return any(
            c.beside is not None
            or (c.process is not None and c.process.pid == pid and read_engine(self._page, c.place).state != State.READY)
            for c in self._children if c.role == "engine"
        )  # fmt: skip

    def _leave(self, child: Child) -> None:
        """It finishes what it has accepted. What comes meanwhile waits in the fronts."""
        child.ending, child.condemned_s = "leak", self._moment.now_s
        tell(child, signal.SIGTERM)

    # ---- a successor made ready beside its predecessor, see standby.py and serve/engine/standby.py ---------------------

    def _begin_standby(self, child: Child) -> None:
        fresh = Child(child.role, standby.SPARE, lambda epoch: standby.command(child.command(epoch)), child.fds, child.environ,
                      child.device, child.captured, epoch=child.epoch, beside=child)  # fmt: skip
        try:
            self._start(fresh)
        except OSError as e:
            log("no_successor", f"{child.label} stays for now: another cannot be started: {e.strerror}", level="warning")
            return
        self._children.append(fresh)

    def _standby_of(self, child: Child) -> Child | None:
        return next((c for c in self._children if c.beside is child and not c.ending and c.process is not None), None)

    def _predecessor_leaves(self, child: Child) -> bool:
        return any(c.beside is child and c.ending for c in self._children)

    def _switch_when_warm(self) -> None:
        """The predecessor is told to leave only when its successor can serve. /ping never learns of it."""
        for fresh in [c for c in self._children if c.beside is not None and not c.ending]:
            child = fresh.beside
            assert child is not None, "it was chosen for that"
            if self._versions is not None and not self._versions.steady:
                self._end(fresh, "leak")  # its predecessor gives way to another version now
                continue
            if child.process is None or read_engine(self._page, fresh.place).state != State.READY:
                continue
            old = Child(child.role, child.place, child.command, child.fds, captured=child.captured, output=child.output,
                        process=child.process, epoch=child.epoch, beside=child)  # fmt: skip
            self._children.append(old)
            self._page.main.count[restart_cell(child.role, "leak")] += 1
            log(
                "restart",
                f"{child.label} has a warm successor, which takes over",
                role=child.role,
                place=child.place,
                reason="leak",
            )
            self._hand_over(child, fresh)
            self._leave(old)

    def _hand_over(self, child: Child, fresh: Child) -> None:
        """The standby's process is the child's from now on: its epoch on the page tells it so."""
        self._children.remove(fresh)
        child.process, child.output, child.epoch, child.started_s = fresh.process, fresh.output, fresh.epoch, fresh.started_s
        child.ending, child.condemned_s, child.due_s = "", 0.0, None
        assert child.process is not None, "only a living standby takes over"
        block = self._page.engine(child.place)
        block.count[Engine.PID] = child.process.pid
        block.count[Engine.EPOCH] = child.epoch

    def _standby_failed(self, child: Child, code: int) -> None:
        what = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if child.process is None or child.ending:
            return
        if code == EXIT_BAD_MODEL:
            log("no_successor", f"{child.label} stays: the model's files cannot be served any more, see the line above")
            self._sentinel.leave_alone(child.process.pid)
            return
        log("no_successor", f"{child.label} is replaced in its place: the one beside it ended with {what}")
        self._leave(child)

    def _running(self, child: Child) -> list[tuple[int, int]]:
        """The ids of the batch, as spans: those that the log of a front has when one of them is refused."""
        return run_spans(self._page.engine(child.place))

    def _end(self, child: Child, reason: str) -> None:
        child.ending = reason
        tell(child, signal.SIGKILL)

    def _processes(self) -> dict[int, str]:
        """Names by pid: the children, and the workers of gunicorn's that say who they are."""
        found = {c.process.pid: c.label for c in self._children if c.process is not None}
        for i in range(self._page.main.count[Main.FRONTS]):
            pid = self._page.front(i).count[Front.PID]
            if pid and found.get(parent_of(pid), "").startswith("front"):
                found[pid] = f"front worker {i}"
        return found

    # ---- leaving -----------------------------------------------------------------------------------------------------

    def _stop_signal(self, signum: int, frame: object) -> None:
        self._signals += 1
        if self._stop_asked_s:
            if self._signals > 1:  # no more patience; but the first one after a drain is the platform, not an impatient person
                self._stop_asked_s -= self._drain_s
            return
        self.stop(0, f"{signal.Signals(signum).name}: finishing what has been accepted")

    def _depart(self, now_s: float) -> bool:
        """Tell roles to end, one group after the other. True when all have ended."""
        alive = [c for c in self._children if c.process is not None]
        if not alive:
            return True
        waited_s = now_s - self._stop_asked_s
        if waited_s > self._drain_s:
            log("killed", f"still there after {self._drain_s:g} s: {', '.join(c.label for c in alive)}")
            for child in alive:
                tell(child, signal.SIGKILL)
            self._exit_code = self._exit_code or 1
            return self._wait_killed(alive)
        quiet_s = self._quiet_s if self._exit_code == 0 else 0.0
        if waited_s < quiet_s and self._was_ready():
            return False
        if self._door is not None and not self._door.closed(now_s, any(c.role == "front" for c in alive)):
            return False
        if not any(c.role in DEPARTURE[: self._departing + 1] for c in alive) and self._departing < len(DEPARTURE) - 1:
            self._departing += 1
            for child in alive:
                if child.role == DEPARTURE[self._departing]:
                    tell(child, signal.SIGTERM)
        return False

    def _may_come_back(self, child: Child, code: int, now_s: float) -> None:
        """It ended while we leave: it is due again, and is started if requests still wait for it."""
        if child.role != "engine" or child.beside is not None or code == EXIT_BAD_MODEL or not self._front_lives():
            return
        if self._versions is None or not self._versions.ended(child, code, now_s):
            child.ending = ""
            child.restarts.append(now_s)
            child.due_s = now_s + BACKOFF_S[min(len(child.restarts), len(BACKOFF_S)) - 1]

    def _owed(self) -> bool:
        """Requests wait in the fronts, and are to be answered before these end: their engine has gone, or has not come yet."""
        rows = sum(self._page.front(i).count[Front.QUEUE_ROWS] for i in range(self._page.main.count[Main.FRONTS]))
        return self._exit_code == 0 and rows > 0 and self._front_lives()

    def _front_lives(self) -> bool:
        return any(c.role == "front" and c.process is not None for c in self._children)

    def _was_ready(self) -> bool:
        """Whether anybody could have been sending us traffic."""
        return any(read_engine(self._page, c.place).was_ready for c in self._children if c.role == "engine")

    def _wait_killed(self, alive: list[Child]) -> bool:
        for child in alive:
            if child.process is not None:
                child.process.wait()
                child.process = None
        return True

    def _drain_wakeups(self) -> None:
        try:
            while os.read(self._wake_r, 1024):
                pass
        except BlockingIOError:
            pass
