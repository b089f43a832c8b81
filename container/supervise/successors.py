"""A successor made ready beside its predecessor: for an engine whose memory would soon meet the limit. See warm_successor.py,
which decides whether there is room, and serve/engine/models/succession.py, which is the successor's side.

Owner of nothing but who stands beside whom, which the children say themselves. /ping never learns of it.
"""

from __future__ import annotations

import signal

from evenkeel.container.plan import gpu_memory
from evenkeel.container.supervise import engine_leave, life_records, warm_successor
from evenkeel.container.supervise.child import Child, how_it_ended, tell
from evenkeel.container.supervise.spawn import spawn
from evenkeel.container.versions.deployer import Deployer
from evenkeel.container.watch.memory_sampler import MemorySampler
from evenkeel.container.watch.stuck import StuckView
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import DEVICE_TEXT, Engine, Main, StatusPage, read_engine, restart_cell, serves

LEAVE_S = 30.0  # for an engine that is replaced for its memory to finish what it has accepted


class Successors:
    def __init__(self, page: StatusPage, children: list[Child], sampler: MemorySampler, versions: Deployer | None) -> None:
        self._page, self._children = page, children
        self._sampler, self._versions = sampler, versions

    def watch(self, moment: StuckView) -> None:
        self._hurry(moment)
        if self._sampler.due(moment.now_s):
            engines = [c for c in self._children if c.role == "engine" and c.process is not None]
            self._sampler.keep({c.place for c in engines})
            for child in engines:
                if not child.ending and not child.condemned_s and child.beside is None:
                    self._watch_memory(child, moment)
        self._switch_when_warm(moment)

    # ---- who needs one ------------------------------------------------------------------------------------------------

    def _watch_memory(self, child: Child, moment: StuckView) -> None:
        """Before the kernel ends a replica in the middle of a batch, it is replaced."""
        view = read_engine(self._page, child.place)
        if view.state != ReplicaState.READY or child.process is None:
            return
        why = self._sampler.look(child.place, child.process.pid, view.rows, moment.now_s)
        if not why or self._swapping or not serves(self._page, child.place):  # a version that stands by leaves soon enough
            return
        if self._spare_taken():  # one after the other
            return
        no_room = warm_successor.why_not(self._page.main.count[Main.ENGINES], self._sampler.new_bytes(child.place),
                                  self._sampler.left_bytes()) or self._no_room_on_gpu(child)  # fmt: skip
        how = f"in its place, because {no_room}" if no_room else "by one that is made ready beside it"
        log("leak", f"{child.label} is replaced {how}: {why}", role=child.role, place=child.place, rows=view.rows)
        if no_room:
            self.leave(child, moment)
        else:
            self._begin(child)

    @property
    def _swapping(self) -> bool:
        return self._versions is not None and not self._versions.steady

    def _no_room_on_gpu(self, child: Child) -> str:
        if not child.device:
            return ""
        engines = sum(c.device == child.device and self._is_up(c) for c in self._children)
        gpu = gpu_memory.OnGpu(child.device, engines=engines, leaving=0, added=1)
        fit = gpu_memory.fit(self._page.read_text(DEVICE_TEXT, looks=3).get("devices") or [], [gpu])
        return "" if fit.fits else fit.why

    def _is_up(self, child: Child) -> bool:
        return child.process is not None and read_engine(self._page, child.place).state == ReplicaState.READY

    def _spare_taken(self) -> bool:
        """By a standby, or by one that took over, after a crash, before it was warm: it tells of itself there until it is."""
        pid = self._page.engine(warm_successor.SPARE).count[Engine.PID]
        engines = [c for c in self._children if c.role == "engine"]
        cold = [c for c in engines if c.process is not None and c.process.pid == pid and not self._is_up(c)]
        return bool(cold) or any(c.beside is not None for c in engines)

    # ---- it comes, it takes over, or it fails ---------------------------------------------------------------------------

    def _begin(self, child: Child) -> None:
        fresh = Child(
            child.role, warm_successor.SPARE, lambda epoch: warm_successor.command(child.command(epoch)), child.fds,
            child.environ, child.device, child.order, child.commanded, child.captured, epoch=child.epoch, history=child.history,
            beside=child)  # fmt: skip
        try:
            spawn(self._page, fresh)
        except OSError as e:
            log("no_successor", f"{child.label} stays for now: another cannot be started: {e.strerror}", level="warning")
            return
        self._children.append(fresh)

    def of(self, child: Child) -> Child | None:
        return next((c for c in self._children if c.beside is child and not c.ending and c.process is not None), None)

    def predecessor_leaves(self, child: Child) -> bool:
        return any(c.beside is child and c.ending for c in self._children)

    def _switch_when_warm(self, moment: StuckView) -> None:
        """The predecessor is told to leave only when its successor can serve."""
        for fresh in [c for c in self._children if c.beside is not None and not c.ending]:
            child = fresh.beside
            assert child is not None, "it was chosen for that"
            if self._swapping:
                fresh.end("leak")  # its predecessor gives way to another version now
                continue
            if child.process is None or read_engine(self._page, fresh.place).state != ReplicaState.READY:
                continue
            old = Child(child.role, child.place, child.command, child.fds, captured=child.captured, output=child.output,
                        link=child.link, process=child.process, epoch=child.epoch, beside=child)  # fmt: skip
            self._children.append(old)
            self._page.main.count[restart_cell(child.role, "leak")] += 1
            log("restart", f"{child.label} has a warm successor, which takes over", role=child.role, place=child.place,
                reason="leak")  # fmt: skip
            self._page.engine(child.place).count[Engine.LEAVING_EPOCH] = old.epoch
            self.hand_over(child, fresh)
            self.leave(old, moment)

    def hand_over(self, child: Child, fresh: Child) -> None:
        """The standby's process is the child's from now on: its epoch on the page tells it so."""
        self._children.remove(fresh)
        child.process, child.output, child.epoch, child.started_s = fresh.process, fresh.output, fresh.epoch, fresh.started_s
        child.link, child.leave_asked, child.load_asked = fresh.link, None, fresh.load_asked
        child.began = life_records.mark(self._page, child.started_s)
        child.ending, child.condemned_s, child.due_s = "", 0.0, None
        assert child.process is not None, "only a living standby takes over"
        block = self._page.engine(child.place)
        block.count[Engine.PID] = child.process.pid
        block.count[Engine.EPOCH] = child.epoch

    def keep(self, child: Child) -> None:
        """Its successor cannot be: nothing can take this process's place."""
        log("no_successor", f"{child.label} stays: the model's files cannot be served any more, see the line above")
        assert child.process is not None, "it serves on"
        self._sampler.leave_alone(child.process.pid)

    def replace_in_place(self, child: Child, code: int, moment: StuckView) -> None:
        log("no_successor", f"{child.label} is replaced in its place: the one beside it ended with {how_it_ended(code)}")
        self.leave(child, moment)

    def leave(self, child: Child, moment: StuckView) -> None:
        """It finishes what it has accepted. What comes meanwhile waits in the fronts."""
        child.ending, child.condemned_s = "leak", moment.now_s
        engine_leave.ask_to_leave(child, moment.now_s)

    def _hurry(self, moment: StuckView) -> None:
        """Those that were told to leave, and have had their time."""
        for child in self._children:
            if child.ending == "leak" and child.process is not None and moment.since(child.condemned_s) > LEAVE_S:
                tell(child, signal.SIGKILL)
