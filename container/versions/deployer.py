"""Versions of the model in this container: which serves, which loads beside it, which stands by. Acts on swap_table.py's table.

Owner of the editions (one loading of one version each), of the lanes (sets of engine places, one edition in each) and of
the supervisor's text on the status page. A plain folder has one lane and one edition, for ever. The supervisor calls `tick`
and tells of every engine that ended; whatever concerns the engines that serve is left to it.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evenkeel.container.plan import gpu_memory, machine
from evenkeel.container.plan.memory_fit import Measured, MemoryFit, room
from evenkeel.container.supervise.child import Child, how_it_ended, tell
from evenkeel.container.supervise.restart import History
from evenkeel.container.versions import swap_table
from evenkeel.container.versions.swap_table import PHASE_AFTER, Do, Phase, View
from evenkeel.container.watch.memory_kills import ENGINE_SCORE, IDLE_SCORE, prefer_as_victim
from evenkeel.container.watch.memory_sampler import anonymous_bytes
from evenkeel.serve.contract import catalogue, fingerprint, manifest, reach_cells
from evenkeel.serve.contract.catalogue import Catalogue
from evenkeel.serve.contract.cgroup import ROOT
from evenkeel.serve.contract.commands import CommandError, Refusal
from evenkeel.serve.contract.lifecycle import ReplicaState
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.process_setup import EXIT_BAD_MODEL
from evenkeel.serve.contract.status_page import (
    DEVICE_TEXT,
    PLAN_TEXT,
    TALLIES_MAX,
    Engine,
    Front,
    Main,
    StatusPage,
    restart_cell,
)
from evenkeel.serve.errors import BadModel

LOAD_S_MAX = 1800.0  # of a new version, from its start to READY; who has less patience asks for the old one again
STARTS_MAX = 3  # of one engine of a new version: it may be killed from outside, but not again and again
START_AGAIN_S = 0.2
FOLLOW_S = 5.0  # for a front that hangs: it finds its way by itself, and is replaced if it hangs longer
SHA256_S = 60.0  # a READY version waits so long for the sum of its files, which every reply names
LEAVE_S = 30.0  # for engines to finish what they have accepted
FAILURES_SHOWN = 5
MESSAGE_CHARS_MAX = 1000
MEMORY_EVERY_S = 1.0
OTHERS = "other"  # versions beyond TALLIES_MAX are counted together


@dataclass(slots=True)
class Revision:
    number: int
    version: str
    path: Path
    tally: int
    state: str = "loading"  # then serving, standby, leaving
    since_s: float = 0.0
    told_s: float = 0.0  # when it was told to leave; 0: it was not


@dataclass(slots=True)
class Lane:
    children: list[Child] = field(default_factory=list)
    edition: Revision | None = None

    @property
    def empty(self) -> bool:
        return all(c.process is None for c in self.children)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version was not taken."""

    version: str
    reason: str
    message: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings. `swap` is auto, beside or in_place; `memory_bytes` 0: what cgroup and machine have left."""

    window_s: float = 300.0
    swap: str = "auto"
    memory_bytes: int = 0
    program: str = ""  # the name of a handler's file, where it is not the usual one


class Deployer:
    def __init__(self, page: StatusPage, catalogue: Catalogue, version: str, rules: Rules, more: dict[str, Any]) -> None:
        """`version`: the one to begin with. `more`: what else the supervisor's text says."""
        self._page, self._catalogue, self._rules, self._more = page, catalogue, rules, more
        self.lanes = [Lane() for _ in range(2 if catalogue.name else 1)]
        self.phase, self._serving = Phase.STEADY, 0  # index into lanes
        self.wanted = version
        self._numbers = 0
        self._tallies: list[dict[str, str]] = []
        self._room = MemoryFit(True, "")  # what was said when the wanted version was asked for
        self._in_place, self._target = False, version  # of the swap that is under way, or was last
        self._failed = ""  # why the new version cannot become ready
        self._failures: deque[Failure] = deque(maxlen=FAILURES_SHOWN)
        self._since_s = 0.0  # of the phase
        self._memory_due_s = 0.0
        self._said: dict[str, Any] = {}
        self._oom: dict[int, int] = {}
        edition = self.lanes[0].edition = self._edition(version)
        edition.state = "serving"
        page.main.count[Main.SERVING] = edition.number
        self._publish()

    def place(self, lane: Lane, child: Child) -> None:
        """Give a lane its next engine place. Nothing runs in the second lane before a swap."""
        lane.children.append(child)
        if lane.edition is None:
            child.due_s = None
        else:
            self._page.engine(child.place).count[Engine.EDITION] = lane.edition.number

    @property
    def serving(self) -> Revision:
        found = self.lanes[self._serving].edition
        assert found is not None, "one edition always serves, or is to serve again"
        return found

    @property
    def steady(self) -> bool:
        """No swap is under way."""
        return self.phase is Phase.STEADY

    @property
    def _other(self) -> Lane:
        return self.lanes[1 - self._serving]

    # ---- the story -------------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """Tidy up, take the step that is due."""
        self._note_memory(now_s)
        if len(self.lanes) > 1:
            self._tidy(now_s)
            for _ in range(3):  # steps that need no waiting follow each other at once
                if not self._act(swap_table.step(self._view(now_s)), now_s):
                    break
        self._publish()

    def ended(self, child: Child, code: int, now_s: float) -> bool:
        """An engine has ended. False: it is one of those that serve, and the supervisor's to start again."""
        lane = next((lane for lane in self.lanes if child in lane.children), None)
        if lane is None:
            return False
        edition = lane.edition
        if edition is not None and edition.state == "serving":
            return False
        child.ending, child.due_s = "", None
        if edition is None or edition.told_s:
            return True
        what = how_it_ended(code)
        self._page.main.count[restart_cell("engine", "signal" if code < 0 else "exit")] += code != EXIT_BAD_MODEL
        if edition.state == "standby":
            log("standby_lost", f"{child.label} ended with {what} while version {edition.version} stood by; it stands by no more",
                version=edition.version)  # fmt: skip
            self._leave(lane, now_s)
        elif code == EXIT_BAD_MODEL:
            self._failed = self._failed or "bad_model"
        else:
            child.failed_starts += 1
            if child.failed_starts >= STARTS_MAX:
                self._failed = self._failed or f"{child.label} ended {STARTS_MAX} times before it was ready, the last with {what}"
            else:
                child.due_s = now_s + START_AGAIN_S
                log("restart", f"{child.label} of the new version ended with {what}, starting another", place=child.place,
                    role=child.role)  # fmt: skip
        return True

    # ---- what is asked -----------------------------------------------------------------------------------------------

    def use(self, version: str, now_s: float) -> dict[str, str]:
        """Somebody wants this version to serve. Says what will come of it; raises CommandError where nothing will."""
        try:
            answer = {**self._ask(version, now_s), "serving": self.serving.version}
        except CommandError as e:
            log("swap_asked", e.message, version=self.wanted, how="refused")
            raise
        log("swap_asked", answer["why"], version=self.wanted, how=answer["how"])
        self._publish()
        return answer

    def _ask(self, version: str, now_s: float) -> dict[str, str]:
        """Take the wish, and say what will come of it."""
        other, waiting = self._other.edition if len(self.lanes) > 1 else None, self.phase is not Phase.STEADY
        if version == self.serving.version:
            was, self.wanted = self.wanted, version
            given_up = f", the swap to {was} is given up" if was != version else ""
            return {"how": "stays", "why": f"version {version} serves already{given_up}"}
        if other is not None and other.version == version and not other.told_s:
            self.wanted = version
            if other.state == "standby":
                return {"how": "at once", "why": f"version {version} is warm: fronts switch without a load"}
            return {"how": "beside" if self._room.beside else "in place", "why": f"version {version} is on its way already"}
        try:
            found = catalogue.read(self._catalogue.folder)
            found.choose(version)
            if found.name != self._catalogue.name:
                raise BadModel(f"{found.folder} holds {found.name!r} now, and {self._catalogue.name!r} was started")
        except (BadModel, OSError) as e:
            raise CommandError(Refusal.REFUSED, e.message if isinstance(e, BadModel) else str(e)) from e
        before, self._catalogue = self._catalogue, found
        try:
            measured = self._measure(version)
        except OSError as e:  # a folder that may not be read, or that somebody is changing just now: that ends no container
            self._catalogue = before
            raise CommandError(Refusal.REFUSED, f"version {version} cannot be looked at: {e}") from e
        self.wanted, self._room = version, measured
        after = ", after the swap that is under way" if waiting else ""
        how = "beside" if self._room.beside else "in place"
        gap = "" if self._room.beside else "; requests wait meanwhile, up to their deadline, and /ping says 503"
        return {"how": how, "why": f"version {version} loads {self._room.why}{gap}{after}"}

    def _measure(self, version: str) -> MemoryFit:
        if self._rules.swap != "auto":
            beside = self._rules.swap == "beside"
            return MemoryFit(
                beside, f"{'beside' if beside else 'in place of'} the old one, as EVENKEEL_SWAP={self._rules.swap} says"
            )
        old = [self._bytes(c) for c in self.lanes[self._serving].children]
        freed = sum(self._bytes(c) for c in self._other.children)
        left = self._rules.memory_bytes - sum(old) if self._rules.memory_bytes else machine.memory_left(ROOT) + freed
        files = [sum(p.stat().st_size for _, p in fingerprint.files(path)) for path in
                 (self.serving.path, self._catalogue.path(version))]  # fmt: skip
        found = room(Measured(left, max(old, default=0), len(old), *files))
        on_cards = any(c.device for c in self.lanes[self._serving].children)
        return self._on_cards(files[1] - files[0]) if found.beside and on_cards else found

    def _on_cards(self, grown_bytes: int) -> MemoryFit:
        if not all(self._is_ready(c) for c in self.lanes[self._serving].children):
            return MemoryFit(False, "in place of the old one: not all of its engines have loaded, so what they take is not known")
        old, other = self.lanes[self._serving].children, self._other.children
        there = [
            gpu_memory.OnCard(
                device, _running_on(device, old), _running_on(device, other), sum(c.device == device for c in other)
            )
            for device in dict.fromkeys(c.device for c in old)
        ]
        fits, why = gpu_memory.fit(self._page.read_text(DEVICE_TEXT, looks=3).get("devices") or [], there, grown_bytes)
        return MemoryFit(fits, f"{'beside' if fits else 'in place of'} the old one: {why}")

    # ---- what is seen ------------------------------------------------------------------------------------------------

    def _view(self, now_s: float) -> View:
        other, page = self._other, self._page
        edition, number = other.edition, page.main.count[Main.SERVING]
        fronts = [page.front(i).count[Front.FOLLOWS] for i in range(page.main.count[Main.FRONTS])]
        told = edition is None or edition.told_s > 0
        return View(
            phase=self.phase, wanted=self.wanted != self.serving.version, in_place=self._in_place,
            cleared=other.edition is None and (not self._in_place or self.lanes[self._serving].empty),
            other_wanted=edition is not None and not told and edition.version == self.wanted,
            other_ready=not told and all(self._ready(c, now_s) for c in other.children),
            other_failed=bool(self._failed) or now_s - self._since_s > LOAD_S_MAX,
            followed=all(f == number for f in fronts) or now_s - self._since_s > FOLLOW_S,
            serving_ready=all(self._is_ready(c) for c in self.lanes[self._serving].children),
            standby_over=edition is not None and edition.state == "standby" and now_s - edition.since_s >= self._rules.window_s,
        )  # fmt: skip

    def _is_ready(self, child: Child) -> bool:
        count = self._page.engine(child.place).count
        return child.process is not None and count[Engine.STATE] == ReplicaState.READY and count[Engine.EPOCH] == child.epoch

    def _ready(self, child: Child, now_s: float) -> bool:
        """READY, connected to every front, and known by the sum of its files, unless that takes too long."""
        if not self._is_ready(child) or not reach_cells.reached_by_all(self._page, child.place, now_s):
            return False
        known = (self._page.read_text(child.place, looks=1).get("model") or {}).get("sha256")
        return bool(known) or now_s - self._page.engine(child.place).value[Engine.STATE_SINCE_S] > SHA256_S

    def _bytes(self, child: Child) -> int:
        return anonymous_bytes(child.process.pid) if child.process is not None else 0

    def _note_memory(self, now_s: float) -> None:
        if now_s >= self._memory_due_s:
            self._memory_due_s = now_s + MEMORY_EVERY_S
            for child in (c for lane in self.lanes for c in lane.children):
                self._page.engine(child.place).count[Engine.MEMORY_BYTES] = self._bytes(child)

    # ---- what is done ------------------------------------------------------------------------------------------------

    def _act(self, do: Do, now_s: float) -> bool:
        """Whether anything was done."""
        match do:
            case Do.NOTHING:
                return False
            case Do.CLEAR:
                self._clear(now_s)
            case Do.LOAD:
                self._load(now_s)
            case Do.SWITCH:
                self._switch(now_s)
            case Do.GIVE_UP | Do.RESTORE:
                self._give_up(do, now_s)
            case Do.RETIRE:
                log("standby_over", f"version {self._other_version} has stood by long enough; its engines end",
                    version=self._other_version)  # fmt: skip
                self._leave(self._other, now_s)
            case Do.RESTORED:
                log("restored", f"version {self.serving.version} serves again", version=self.serving.version)
            case Do.SETTLE:
                pass
        if do in PHASE_AFTER:
            self.phase, self._since_s = swap_table.go(self.phase, PHASE_AFTER[do]), now_s
        return True

    @property
    def _other_version(self) -> str:
        return self._other.edition.version if self._other.edition is not None else ""

    def _clear(self, now_s: float) -> None:
        log("swap_begins", f"version {self.wanted} loads {self._room.why}", version=self.wanted, serving=self.serving.version,
            how="beside" if self._room.beside else "in place")  # fmt: skip
        self._failed, self._in_place, self._target = "", not self._room.beside, self.wanted
        self._leave(self._other, now_s)
        if self._in_place:
            self._leave(self.lanes[self._serving], now_s)

    def _load(self, now_s: float) -> None:
        lane = self._other
        edition = lane.edition = self._edition(self.wanted)
        edition.since_s, self._target = now_s, self.wanted
        for child in lane.children:
            block = self._page.engine(child.place)
            for cell in (Engine.STATE, Engine.WAS_READY, Engine.ROWS_FIT, Engine.PID, Engine.LEAVING_EPOCH):
                block.count[cell] = 0
            block.value[Engine.RUN_LONGEST_S] = block.value[Engine.ROW_COST_S] = block.value[Engine.STATE_SINCE_S] = 0.0
            self._page.write_text(child.place, {})  # its writer is the engine, and there is none now
            block.count[Engine.EDITION] = edition.number
            child.failed_starts, child.history = 0, History()
            child.due_s = now_s

    def _switch(self, now_s: float) -> None:
        """The one store that fronts follow is that of SERVING; readiness and metrics go by it, too."""
        old, new = self.lanes[self._serving], self._other
        before, edition = self.serving, new.edition
        assert edition is not None, "there is something to switch to"
        edition.state, edition.since_s = "serving", now_s
        before.state, before.since_s = "standby", now_s
        self._serving = 1 - self._serving
        self._page.main.count[Main.SERVING] = edition.number
        if old.empty:
            self._empty(old)
        more = "" if old.empty else f"; version {before.version} stands by for {self._rules.window_s:g} s"
        log("swapped", f"version {edition.version} takes the traffic{more}", version=edition.version, before=before.version)

    def _give_up(self, do: Do, now_s: float) -> None:
        version = self._target
        if self._failed or version == self.wanted:
            failure = self._why(version, now_s)
            self._failures.appendleft(failure)
            log("swap_failed", f"version {version} is not taken, {self.serving.version} goes on: {failure.message}",
                level="error", version=version, reason=failure.reason)  # fmt: skip
            if self.wanted == version:
                self.wanted = self.serving.version
        else:
            log("swap_given_up", f"version {version} is no longer wanted", version=version)
        self._failed = ""
        self._leave(self._other, now_s)
        if do is Do.RESTORE:
            log("restoring", f"version {self.serving.version} is loaded again", version=self.serving.version)
            self.serving.told_s, self.serving.state = 0.0, "serving"
            for child in self.lanes[self._serving].children:
                child.due_s = now_s

    def _why(self, version: str, now_s: float) -> Failure:
        told = [t for c in self._other.children if isinstance(t := self._page.read_text(c.place).get("failure"), dict)]
        if told:
            return Failure(version, str(told[0].get("reason")), str(told[0].get("message"))[:MESSAGE_CHARS_MAX], now_s)
        if self._failed == "bad_model":
            return Failure(version, "bad_model", "it cannot be served; the log says why", now_s)
        return Failure(version, "crashed" if self._failed else "timeout",
                       self._failed or f"it was not ready after {LOAD_S_MAX:g} s", now_s)  # fmt: skip

    def _leave(self, lane: Lane, now_s: float) -> None:
        """Its engines finish what they have accepted, and end."""
        edition = lane.edition
        if edition is None or edition.told_s:
            return
        edition.told_s, edition.state = now_s, "leaving"
        for child in lane.children:
            child.due_s = None
            if child.process is not None:
                tell(child, signal.SIGTERM)

    def _tidy(self, now_s: float) -> None:
        for i, lane in enumerate(self.lanes):
            edition = lane.edition
            if edition is None:
                continue
            if edition.told_s and lane.empty and i != self._serving:
                self._empty(lane)
            elif edition.told_s and now_s - edition.told_s > LEAVE_S:
                for child in lane.children:
                    if child.process is not None:
                        tell(child, signal.SIGKILL)
            for child in lane.children:
                if child.process is not None:
                    self._expose(child.process.pid, ENGINE_SCORE if edition.state == "serving" else IDLE_SCORE)

    def _empty(self, lane: Lane) -> None:
        lane.edition = None
        for child in lane.children:
            child.due_s = None  # one that crashed may have been about to come back
            count = self._page.engine(child.place).count
            for cell in (Engine.EDITION, Engine.STATE, Engine.PID, Engine.WAS_READY, Engine.QUEUE_ROWS):
                count[cell] = 0
            self._page.write_text(child.place, {})

    def _expose(self, pid: int, score: int) -> None:
        if self._oom.get(pid, ENGINE_SCORE) != score:
            self._oom[pid] = score
            prefer_as_victim(pid, score)

    def _edition(self, version: str) -> Revision:
        self._numbers += 1
        label = self._label(version)
        if label not in self._tallies:
            if len(self._tallies) == TALLIES_MAX - 1:
                label = {**label, "version": OTHERS}
            if label not in self._tallies and len(self._tallies) < TALLIES_MAX:
                self._tallies.append(label)
        tally = self._tallies.index(label) if label in self._tallies else TALLIES_MAX - 1
        self._page.main.count[Main.TALLIES] = len(self._tallies)
        return Revision(self._numbers, version, self._catalogue.path(version), tally)

    def _label(self, version: str) -> dict[str, str]:
        """Name and version, known before an engine has loaded anything: counters have the same labels from the first on."""
        if version:
            return {"name": self._catalogue.name, "version": version}
        folder = self._catalogue.folder
        try:
            found = manifest.load(folder, program=self._rules.program)
        except BadModel:
            return {"name": folder.resolve().name, "version": ""}  # the engine will say what is wrong with it
        return {"name": found.name, "version": found.version}

    @property
    def name(self) -> str:
        return self._catalogue.name

    # ---- what is told ------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        said = {
            **self._more, "model": self._tallies[self.serving.tally], "tallies": list(self._tallies),
            "model_dir": str(self._catalogue.folder.resolve()),
            "swap": {
                "phase": self.phase.value, "wanted": self.wanted, "serving": self.serving.version,
                "window_s": self._rules.window_s,
                "how": "beside" if self._room.beside else "in place", "why": self._room.why,
                "editions": [self._shown(lane) for lane in self.lanes if lane.edition is not None],
                "failures": [asdict(f) for f in self._failures],
            },
        }  # fmt: skip
        if said != self._said:
            self._said = said
            self._page.write_text(PLAN_TEXT, said)

    def _shown(self, lane: Lane) -> dict[str, Any]:
        e = lane.edition
        assert e is not None, "only what is there is shown"
        places = [c.place for c in lane.children]
        return {"edition": e.number, "version": e.version, "state": e.state, "since_s": e.since_s, "places": places}


def _running_on(device: str, children: Sequence[Child]) -> int:
    return sum(c.device == device and c.process is not None for c in children)
