"""Finds processes that live and do not move, and engines that nobody reaches or whose device has failed, and ends them.
stuck.py and unreached.py decide.

Owner of which device faults are known. What follows the end of a process is not decided here, see restart.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from evenkeel.container.supervise.child import Child
from evenkeel.container.supervise.successors import Successors
from evenkeel.container.watch import stuck
from evenkeel.container.watch.stuck import StuckView
from evenkeel.container.watch.unreached import Unreached
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.process_setup import DUMP_SIGNAL
from evenkeel.serve.contract.status_page import DEVICE_TEXT, Engine, Front, Main, StatusPage, read_engine, run_spans

DUMP_S = 0.5  # for a stuck engine to write its stacks before it is ended


class Watcher:
    def __init__(self, page: StatusPage, children: Sequence[Child], successors: Successors, policy: stuck.StuckLimits) -> None:
        self._page, self._children, self._successors, self._policy = page, children, successors, policy
        self._unreached = Unreached()
        self._device_faults, self._lost_devices = 0, dict[str, int]()  # fatal errors known so far: of all devices, and by name

    def watch(self, moment: StuckView) -> None:
        self.watch_engines(moment)
        self._watch_devices()
        self._watch_reach(moment)
        for child in self._children:
            if child.process is None or child.ending or child.beside is not None or child.role == "engine":
                continue
            if why := self._silence(child, moment):
                log("stuck", f"{child.label} {why}; it is ended and another started", role=child.role, place=child.place)
                child.end("stuck")

    def watch_engines(self, moment: StuckView) -> None:
        """While we leave, too, as long as requests wait: behind one that hangs they would wait in vain."""
        for child in self._children:
            watched = child.role == "engine" and child.process is not None and not child.ending and child.beside is None
            if watched and not self._successors.predecessor_leaves(child):  # until then the batches on the page are that one's
                self._watch_engine(child, moment)

    def _watch_engine(self, child: Child, moment: StuckView) -> None:
        """Found stuck, it writes its stacks, and is then ended; its queue runs elsewhere. One that moves on meanwhile is
        left alone."""
        page = self._page
        view, block = read_engine(page, child.place), page.engine(child.place)
        waiting = sum(page.front(i).count[Front.QUEUE_ROWS] for i in range(page.main.count[Main.FRONTS]))
        why = stuck.stuck(view, moment, self._policy, waiting)
        if not why:
            if child.condemned_s:
                log("moved_on", f"{child.label} was slow, not stuck: it goes on", role=child.role, place=child.place)
                child.condemned_s, block.count[Engine.STUCK] = 0.0, 0
        elif not child.condemned_s:
            child.condemned_s, block.count[Engine.STUCK] = moment.now_s, 1
            # The ids of the batch, as spans: those that the log of a front has when one of them is refused.
            log("stuck", f"{child.label} {why}; its stacks follow, then it is ended", role=child.role, place=child.place,
                rows=view.run_rows, predicted_s=round(view.run_predicted_s, 6), longest_s=round(view.run_longest_s, 6),
                batches=view.batches, requests=run_spans(block), again=view.run_again)  # fmt: skip
            assert child.process is not None, "only the living are watched"
            os.kill(child.process.pid, DUMP_SIGNAL)
        elif moment.now_s - child.condemned_s >= DUMP_S:
            child.end("stuck")

    def _watch_reach(self, moment: StuckView) -> None:
        engines = {c.place: c for c in self._children if c.role == "engine" and c.process is not None and c.beside is None}
        for place, why in self._unreached.look(self._page, engines, moment).items():
            if not engines[place].ending:
                log("unreachable", f"{engines[place].label} {why}; it is ended and another started", role="engine", place=place)
                engines[place].end("unreachable")

    def _watch_devices(self) -> None:
        """An engine whose device has failed is ended at once: another may get a device that works, and its requests run there.
        One that starts on a device which is gone for good fails, and the container with it."""
        if self._page.main.count[Main.DEVICE_FAULTS] == self._device_faults:
            return
        devices = self._page.read_text(DEVICE_TEXT, looks=1).get("devices") or []
        lost = stuck.lost_devices(devices, self._lost_devices)
        if not devices:
            return  # being written just now
        self._device_faults = self._page.main.count[Main.DEVICE_FAULTS]
        self._lost_devices |= lost
        for child in self._children:
            if child.role == "engine" and child.process is not None and not child.ending and child.device in lost:
                log("device_lost", f"{child.label}: its device {child.device} has failed; it is ended and another started",
                    role=child.role, place=child.place, device=child.device)  # fmt: skip
                child.end("device")

    def _silence(self, child: Child, moment: StuckView) -> str:
        page = self._page
        if child.role == "sidecar":
            return stuck.silent_sidecar(page.main.value[Main.VERDICT_BEAT_S], child.started_s, moment)
        beats_s = [page.front(i).value[Front.BEAT_S] for i in range(page.main.count[Main.FRONTS])]
        return stuck.silent_fronts(beats_s, child.started_s, moment, self._policy)
