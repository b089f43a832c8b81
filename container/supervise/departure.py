"""How the container leaves: who asked, in which order the roles end, and how long all of it may take.

Owner of the reasons and times of leaving, and of the exit code. Who takes requests leaves before who answers them, and nobody
is told to end before the port has let in its last visitor, see listener_drain.py.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from evenkeel.container.supervise.child import Child, tell
from evenkeel.container.supervise.listener_drain import ListenerDrain
from evenkeel.serve.contract.lifecycle import Reason, Verdict
from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import Front, Main, StatusPage, read_engine

ORDER = ("front", "engine", "sidecar")  # the observer goes last
ABANDONED_S = 3.0  # for an engine without fronts: what a script leaves behind has one second of it, see engine/leaving.py


class Departure:
    """`drain_s`: from the first request to stop to the exit at most. `quiet_s`: of it, serving on as before. `listener`: of the
    data port, None where there is none."""

    def __init__(
        self, page: StatusPage, children: Sequence[Child], drain_s: float, quiet_s: float, listener: ListenerDrain | None = None
    ) -> None:
        self._page, self._children, self._listener = page, children, listener
        self._drain_s, self._quiet_s = drain_s, quiet_s
        self.exit_code = 0
        self._asked_s = 0.0
        self._hurried = False  # asked a second time
        self._alone_s = 0.0  # since when engines have no front any more
        self._signals = 0  # that asked us to stop
        self._told = -1  # index into ORDER of the last role that was told to end; -1: none yet

    @property
    def begun(self) -> bool:
        return self._asked_s > 0

    def heed_signals(self) -> None:
        """SIGHUP is what a terminal says when it closes. Under `nohup`, and to the first process of a container, it says
        nothing."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        if os.getpid() != 1 and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._on_signal)

    def _on_signal(self, signum: int, frame: object) -> None:
        if signum == signal.SIGHUP and self.begun:  # it comes along with others, or twice, and says nothing of impatience
            return
        self._signals += 1
        if not self.begun:
            self.begin(0, f"{signal.Signals(signum).name}: finishing what has been accepted")
        elif self._signals > 1:  # no more patience; but the first one after a drain is the platform, not an impatient person
            self._hurried = True

    def begin(self, code: int, why: str) -> None:
        """/ping turns 503 now, everything else follows in order."""
        if self.begun:
            return
        self.exit_code = code
        self._asked_s = time.monotonic()
        reason = Reason.DRAINING if code == 0 else Reason.FAILED
        self._page.main.count[Main.LEAVING] = reason
        self._page.write_verdict(Verdict(False, reason), self._asked_s)
        log("draining" if code == 0 else "giving_up", why)

    def done(self, now_s: float) -> bool:
        """Tell roles to end, one group after the other. True when all have ended."""
        alive = [c for c in self._children if c.process is not None]
        if not alive:
            return True
        waited_s = now_s - self._asked_s
        if self._hurried or waited_s > self._drain_s:
            why = "asked to end at once" if self._hurried else f"still there after {self._drain_s:g} s"
            self._kill(alive, why)
            return True
        quiet_s = self._quiet_s if self.exit_code == 0 else 0.0
        if waited_s < quiet_s and self.was_ready:
            return False
        if self._listener is not None and not self._listener.closed(now_s, any(c.role == "front" for c in alive)):
            return False
        if not any(c.role in ORDER[: self._told + 1] for c in alive) and self._told < len(ORDER) - 1:
            self._told += 1
            for child in alive:
                if child.role == ORDER[self._told]:
                    tell(child, signal.SIGTERM)
        self._end_abandoned(alive, now_s)
        return False

    def _end_abandoned(self, alive: Sequence[Child], now_s: float) -> None:
        """Engines that were told to end and have no front any more: what they still run was given up by everybody."""
        engines = [c for c in alive if c.role == "engine"]
        if self._told < ORDER.index("engine") or not engines or any(c.role == "front" for c in alive):
            return
        self._alone_s = self._alone_s or now_s
        if now_s - self._alone_s < ABANDONED_S:
            return
        self._alone_s = now_s  # a process in the kernel's hands may need to be told again
        log("abandoned", f"nobody waits for what {', '.join(c.label for c in engines)} still runs: ended", level="warning")
        for child in engines:
            tell(child, signal.SIGKILL)

    def _kill(self, alive: Sequence[Child], why: str) -> None:
        log("killed", f"{why}: {', '.join(c.label for c in alive)}")
        self.exit_code = self.exit_code or 1
        for child in alive:
            tell(child, signal.SIGKILL)
        for child in alive:
            if child.process is not None:
                child.process.wait()
                child.process = None

    @property
    def owes_answers(self) -> bool:
        """Requests wait in the fronts, and are to be answered before these end: their engine has gone, or has not come yet."""
        rows = sum(self._page.front(i).count[Front.QUEUE_ROWS] for i in range(self._page.main.count[Main.FRONTS]))
        return self.exit_code == 0 and rows > 0 and self.front_lives

    @property
    def front_lives(self) -> bool:
        return any(c.role == "front" and c.process is not None for c in self._children)

    @property
    def was_ready(self) -> bool:
        """Whether anybody could have been sending us traffic."""
        return any(read_engine(self._page, c.place).was_ready for c in self._children if c.role == "engine")
