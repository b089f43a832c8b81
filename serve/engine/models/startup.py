"""The start-up ledger: how long each phase of a start took. Phases may nest; time counts for the innermost one only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PHASES = ("import", "unpack", "load", "device_copy", "compile", "warm")


class Ledger:
    def __init__(self, clock: Callable[[], float] = time.monotonic, began_s: float | None = None) -> None:
        """`began_s`: when the process began, if that was before now."""
        self._clock = clock
        self._began_s = clock() if began_s is None else began_s
        self._spent: dict[str, float] = {}
        self._open: list[str] = []
        self._since_s = self._began_s

    def _charge(self) -> None:
        now_s = self._clock()
        if self._open:
            self._spent[self._open[-1]] = self._spent.get(self._open[-1], 0.0) + now_s - self._since_s
        self._since_s = now_s

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        assert name in PHASES, f"{name!r} is no phase of a start"
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def before(self, name: str) -> None:
        """Everything from the begin of the process until now was this phase."""
        self._spent[name] = self._clock() - self._began_s

    def to_json(self) -> dict[str, float | None]:
        """Seconds of each phase, None where this start had none, and of the whole until now."""
        spent = {f"{name}_s": round(self._spent[name], 4) if name in self._spent else None for name in PHASES}
        return {**spent, "total_s": round(self._clock() - self._began_s, 4)}


def process_began_s() -> float:
    """When this process was started, on the clock of time.monotonic; the kernel counts in hundredths of a second."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    since_boot_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5), counted from the state
    return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot_s)
