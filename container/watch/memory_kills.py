"""Who ends when memory is short, who did, and what can be said of it. Reads /proc and the cgroup.

Owner of the count of kills that nothing explains yet. The kernel chooses its victim by size, and the largest process may be a
front that holds everybody's requests. An engine is the better victim: what it ran is run again elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from evenkeel.container.plan.machine import memory_limit
from evenkeel.container.watch.memory_sampler import anonymous_bytes
from evenkeel.serve.contract import cgroup
from evenkeel.serve.contract.status_page import Main, StatusPage

ENGINE_SCORE = 300  # oom_score_adj of an engine; raising it needs no privilege
IDLE_SCORE = 500  # of one without traffic: it goes first
EXPLAINS_S = 5.0  # a kill by the kernel explains the end of a process that comes to light within this time
SAMPLE_S = 1.0
MB = 1_000_000


def prefer_as_victim(pid: int, score: int) -> None:
    with contextlib.suppress(OSError):  # it has just ended, or a sandbox forbids it
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(score))


class OomKills:
    """Kills by the kernel for want of memory, each of which explains the end of one process."""

    def __init__(self, page: StatusPage, root: Path = cgroup.ROOT) -> None:
        self._page, self._root = page, root
        self._total = cgroup.oom_kills(root)
        self._unexplained_s: list[float] = []  # when each was noticed
        page.main.count[Main.OOM_KILLS] = self._total

    def look(self, now_s: float) -> None:
        """Gunicorn, which replaces front workers, compares the kernel's count with that of the page: what is on the page
        explains nothing any more."""
        total = cgroup.oom_kills(self._root)
        self._unexplained_s = [at_s for at_s in self._unexplained_s if now_s - at_s < EXPLAINS_S]
        self._unexplained_s += [now_s] * (total - self._total)
        self._total = total
        self._page.main.count[Main.OOM_KILLS] = max(0, total - len(self._unexplained_s))

    def explain_one(self, now_s: float) -> bool:
        """Whether a process that ended by SIGKILL was one of them."""
        self.look(now_s)
        if not self._unexplained_s:
            return False
        self._unexplained_s.pop()
        self._page.main.count[Main.OOM_KILLS] += 1
        return True


class MemoryUse:
    """The most that each of our processes was seen to take, where there is a limit: what is said when it does not suffice."""

    def __init__(self, root: Path = cgroup.ROOT) -> None:
        self._limit_bytes = memory_limit(root)
        self._most: dict[str, int] = {}
        self._due_s = 0.0

    def look(self, processes: Mapping[int, str], now_s: float) -> None:
        """`processes`: names by pid."""
        if not self._limit_bytes or now_s < self._due_s:
            return
        self._due_s = now_s + SAMPLE_S
        for pid, name in processes.items():
            self._most[name] = max(self._most.get(name, 0), anonymous_bytes(pid))

    def words(self, reasons: Iterable[str]) -> str:
        """For the log, when the container gives up and memory was the cause."""
        if "out_of_memory" not in reasons or not self._limit_bytes:
            return ""
        taken = sum(self._most.values()) // MB
        return f"; the memory limit is {self._limit_bytes // MB} MB, and this model's processes take about {taken} MB"
