"""The engines of a blue or green slot: start them, tell them to leave, clear what they have left on the status page.

Acts on what deployer.py has decided. Owner of how exposed each engine is to the kernel's out-of-memory killer.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable

from evenkeel.container.supervise.child import Child, tell
from evenkeel.container.supervise.engine_leave import ask_to_leave
from evenkeel.container.supervise.restart import History
from evenkeel.container.versions.blue_green import BlueGreenSlot, Revision, RevisionState
from evenkeel.container.versions.version_fit import engine_bytes
from evenkeel.container.watch.memory_kills import ENGINE_SCORE, IDLE_SCORE, prefer_as_victim
from evenkeel.serve.contract.status_page import Engine, StatusPage

LEAVE_S = 30.0  # for engines to finish what they have accepted
MEMORY_EVERY_S = 1.0


class SlotEngines:
    def __init__(self, page: StatusPage) -> None:
        self._page = page
        self._scores: dict[int, tuple[int, int]] = {}  # by place, the pid and its score, where that was not an engine's
        self._memory_due_s = 0.0

    def load(self, slot: BlueGreenSlot, revision: Revision, now_s: float) -> None:
        """From now on this slot is that revision's: nothing of the one before may be taken for its own."""
        slot.revision, revision.since_s = revision, now_s
        for child in slot.children:
            block = self._page.engine(child.place)
            for cell in (Engine.STATE, Engine.WAS_READY, Engine.ROWS_FIT, Engine.PID, Engine.LEAVING_EPOCH):
                block.count[cell] = 0
            block.value[Engine.RUN_LONGEST_S] = block.value[Engine.ROW_COST_S] = block.value[Engine.STATE_SINCE_S] = 0.0
            self._page.write_text(child.place, {})  # its writer is the engine, and there is none now
            block.count[Engine.REVISION] = revision.number
            child.failed_starts, child.history = 0, History()
            child.due_s = now_s

    def load_again(self, slot: BlueGreenSlot, now_s: float) -> None:
        """The revision that was told to leave here is to serve again."""
        assert slot.revision is not None, "it goes only when its successor serves"
        slot.revision.leaving_since_s, slot.revision.state = 0.0, RevisionState.SERVING
        for child in slot.children:
            child.due_s = now_s

    def leave(self, slot: BlueGreenSlot, now_s: float) -> None:
        """Its engines finish what they have accepted, and end."""
        if slot.staying is None:
            return
        slot.staying.state, slot.staying.leaving_since_s = RevisionState.LEAVING, now_s
        for child in slot.children:
            child.due_s = None
            if child.process is not None:
                ask_to_leave(child, now_s)

    def tidy(self, slot: BlueGreenSlot, now_s: float, *, serves: bool) -> None:
        """Those that were told to leave are hurried after their time; what they had is cleared when the last has ended."""
        revision = slot.revision
        if revision is None:
            return
        if revision.leaves and slot.empty and not serves:
            self.clear(slot)
            return
        overdue = revision.leaves and now_s - revision.leaving_since_s > LEAVE_S
        for child in [c for c in slot.children if c.process is not None]:
            if overdue:
                tell(child, signal.SIGKILL)
            self._expose(child, ENGINE_SCORE if revision.state is RevisionState.SERVING else IDLE_SCORE)

    def clear(self, slot: BlueGreenSlot) -> None:
        slot.revision = None
        for child in slot.children:
            child.due_s = None  # one that crashed may have been about to come back
            count = self._page.engine(child.place).count
            for cell in (Engine.REVISION, Engine.STATE, Engine.PID, Engine.WAS_READY, Engine.QUEUE_ROWS):
                count[cell] = 0
            self._page.write_text(child.place, {})

    def note_memory(self, slots: Iterable[BlueGreenSlot], now_s: float) -> None:
        if now_s >= self._memory_due_s:
            self._memory_due_s = now_s + MEMORY_EVERY_S
            for child in (c for slot in slots for c in slot.children):
                self._page.engine(child.place).count[Engine.MEMORY_BYTES] = engine_bytes(child)

    def _expose(self, child: Child, score: int) -> None:
        assert child.process is not None, "only the living are exposed"
        pid = child.process.pid
        last_pid, last = self._scores.get(child.place, (0, ENGINE_SCORE))
        if (last if last_pid == pid else ENGINE_SCORE) != score:
            self._scores[child.place] = pid, score
            prefer_as_victim(pid, score)
