"""The story of versions in this container: which serves, which loads beside it, which stands by.

Owner of the swap that is under way and of the supervisor's text on the status page. What is due next is decided by
swap_table.py from what swap_sight.py sees, what comes of a wish by wishes.py; slot_engines.py acts on processes. The supervisor
calls `tick` and tells of every engine that ended; whatever concerns the engines that serve is left to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evenkeel.container.supervise.child import Child
from evenkeel.container.versions import swap_progress, swap_table
from evenkeel.container.versions.blue_green import BlueGreen, BlueGreenSlot, Revision, RevisionState
from evenkeel.container.versions.lost_engine import LostEngines
from evenkeel.container.versions.revisions import Revisions
from evenkeel.container.versions.slot_engines import SlotEngines
from evenkeel.container.versions.swap_progress import SwapProgress
from evenkeel.container.versions.swap_sight import SwapSight
from evenkeel.container.versions.swap_table import PHASE_AFTER, SwapAction
from evenkeel.container.versions.wish_taker import WishTaker
from evenkeel.serve.contract.catalogue import Catalogue
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import PLAN_TEXT, Engine, Main, StatusPage

STEPS_MAX = 3  # that need no waiting follow each other at once


@dataclass(frozen=True, slots=True)
class SwapRules:
    """Settings. `swap` is auto, beside or in_place; `memory_bytes` 0: what cgroup and machine have left."""

    window_s: float = 300.0
    swap: str = "auto"
    memory_bytes: int = 0
    program: str = ""  # the name of a handler's file, where it is not the usual one


class Deployer:
    def __init__(self, page: StatusPage, folder: Catalogue, version: str, rules: SwapRules, published: dict[str, Any]) -> None:
        """`version`: the one to begin with. `published`: what else the supervisor's text says."""
        self._page, self._window_s, self._published = page, rules.window_s, published
        self.places = BlueGreen(2 if folder.name else 1)
        self._revisions = Revisions(folder, rules.program)
        self._progress = SwapProgress(wanted=version, target=version)
        self._engines = SlotEngines(page)
        self._lost = LostEngines(page, self._engines, self._progress)
        self._sight = SwapSight(page, self.places, self._progress, rules.window_s)
        self._wishes = WishTaker(self.places, self._progress, self._revisions, page, rules.swap, rules.memory_bytes)
        self._text: dict[str, Any] = {}
        revision = self.places.serving.revision = self._next_revision(version)
        revision.state = RevisionState.SERVING
        page.main.count[Main.SERVING] = revision.number
        self._publish()

    def place(self, slot: BlueGreenSlot, child: Child) -> None:
        """Give a slot its next engine place. Nothing runs in the second slot before a swap."""
        slot.children.append(child)
        if slot.revision is None:
            child.due_s = None
        else:
            self._page.engine(child.place).count[Engine.REVISION] = slot.revision.number

    @property
    def name(self) -> str:
        return self._revisions.name

    @property
    def serving(self) -> Revision:
        return self.places.revision

    @property
    def wanted(self) -> str:
        return self._progress.wanted

    @property
    def steady(self) -> bool:
        """No swap is under way."""
        return self._progress.steady

    # ---- the story -------------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """Tidy up, take the step that is due."""
        self._engines.note_memory(self.places.slots, now_s)
        if self.places.has_versions:
            for slot in self.places.slots:
                self._engines.tidy(slot, now_s, serves=slot is self.places.serving)
            for _ in range(STEPS_MAX):
                action = swap_table.step(self._sight.view(now_s))
                if action is SwapAction.NOTHING:
                    break
                self._act(action, now_s)
        self._publish()

    def use(self, version: str) -> dict[str, str]:
        """Somebody wants this version to serve. Says what will come of it; raises CommandError where nothing will."""
        answer = self._wishes.take(version)
        log("swap_asked", answer.why, version=self.wanted, how=answer.how)
        self._publish()
        return {"how": answer.how, "why": answer.why, "serving": self.serving.version}

    def ended(self, child: Child, code: int, now_s: float) -> bool:
        """An engine has ended. False: it is one of those that serve, and the supervisor's to start again."""
        slot = self.places.slot_of(child)
        if slot is None or (slot.revision is not None and slot.revision.state is RevisionState.SERVING):
            return False
        self._lost.ended(slot, child, code, now_s)
        return True

    # ---- what is done ------------------------------------------------------------------------------------------------

    def _act(self, action: SwapAction, now_s: float) -> None:
        match action:
            case SwapAction.CLEAR:
                self._clear(now_s)
            case SwapAction.LOAD:
                self._load(now_s)
            case SwapAction.SWITCH:
                self._switch(now_s)
            case SwapAction.GIVE_UP:
                self._give_up(now_s)
            case SwapAction.RESTORE:
                self._give_up(now_s)
                self._restore(now_s)
            case SwapAction.RETIRE:
                self._retire(now_s)
            case SwapAction.RESTORED:
                log("restored", f"version {self.serving.version} serves again", version=self.serving.version)
        if action in PHASE_AFTER:
            self._progress.phase = swap_table.go(self._progress.phase, PHASE_AFTER[action])
            self._progress.since_s = now_s

    def _clear(self, now_s: float) -> None:
        progress = self._progress
        log("swap_begins", f"version {progress.wanted} begins to load", version=progress.wanted,
            serving=self.serving.version, how=progress.how, why=progress.fit.why)  # fmt: skip
        progress.failed, progress.in_place, progress.target = "", not progress.fit.beside, progress.wanted
        self._engines.leave(self.places.other, now_s)
        if progress.in_place:
            self._engines.leave(self.places.serving, now_s)

    def _load(self, now_s: float) -> None:
        self._progress.target = self.wanted
        self._engines.load(self.places.other, self._next_revision(self.wanted), now_s)

    def _switch(self, now_s: float) -> None:
        """The one store that fronts follow is that of SERVING; readiness and metrics go by it, too."""
        old, new = self.places.serving, self.places.other
        before, revision = self.serving, new.revision
        assert revision is not None, "there is something to switch to"
        revision.state, revision.since_s = RevisionState.SERVING, now_s
        before.state, before.since_s = RevisionState.PREVIOUS, now_s
        self.places.turn_over()
        self._page.main.count[Main.SERVING] = revision.number
        stands_by = f"; version {before.version} stands by for {self._window_s:g} s"
        if old.empty:
            self._engines.clear(old)
            stands_by = ""
        log(
            "swapped", f"version {revision.version} takes the traffic{stands_by}", version=revision.version, before=before.version
        )

    def _give_up(self, now_s: float) -> None:
        progress, serving = self._progress, self.serving.version
        if progress.failed or progress.target == progress.wanted:
            failure = swap_progress.why_failed(progress, self._reports(), now_s)
            progress.failures.appendleft(failure)
            log("swap_failed", f"version {progress.target} is not taken, {serving} goes on: {failure.message}", level="error",
                version=progress.target, reason=failure.reason)  # fmt: skip
            if progress.wanted == progress.target:
                progress.wanted = serving
        else:
            log("swap_given_up", f"version {progress.target} is no longer wanted", version=progress.target)
        progress.failed = ""
        self._engines.leave(self.places.other, now_s)

    def _reports(self) -> list[dict[str, Any]]:
        """What engines of the new version say of their failure."""
        failures = [self._page.read_text(c.place).get("failure") for c in self.places.other.children]
        return [failure for failure in failures if isinstance(failure, dict)]

    def _restore(self, now_s: float) -> None:
        log("restoring", f"version {self.serving.version} is loaded again", version=self.serving.version)
        self._engines.load_again(self.places.serving, now_s)

    def _retire(self, now_s: float) -> None:
        previous = self.places.other.revision
        assert previous is not None, "it has stood by for its time"
        log("standby_over", f"version {previous.version} has stood by long enough; its engines end", version=previous.version)
        self._engines.leave(self.places.other, now_s)

    def _next_revision(self, version: str) -> Revision:
        revision = self._revisions.next(version)
        self._page.main.count[Main.COUNTED_VERSIONS] = len(self._revisions.labels)
        return revision

    def _publish(self) -> None:
        labels = list(self._revisions.labels)
        text = {
            **self._published, "model": labels[self.serving.counters], "counted": labels,
            "model_dir": str(self._revisions.path.resolve()),
            "swap": swap_progress.shown(self._progress, self.places, self._window_s),
        }  # fmt: skip
        if text != self._text:
            self._text = text
            self._page.write_text(PLAN_TEXT, text)
