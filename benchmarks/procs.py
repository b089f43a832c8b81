"""What /proc says about a process tree and the machine: CPU time, memory, who is who. Reads only, owns nothing."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
ROLE_SIGNS = (("sidecar", "sidecar"), ("engine", "engine"), ("gunicorn", "front"), ("front", "front"))
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    session: int
    started: int  # clock ticks since boot; with the pid it names a process for good
    cpu_s: float  # user and system time of all its threads, also those that ended
    comm: str


def processes() -> Iterator[Process]:
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (process := read_process(int(entry.name))):
            yield process


def read_process(pid: int) -> Process | None:
    """None once it is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S,
        comm=head.partition("(")[2],
    )


def is_there(process: Process) -> bool:
    now = read_process(process.pid)
    return now is not None and now.started == process.started


def tree(root: int) -> list[Process]:
    """The process, all below it, and all in the session that it leads (orphans that its children left behind)."""
    everyone = list(processes())
    members = {p.pid: p for p in everyone if p.pid == root or p.session == root}
    while True:
        found = {p.pid: p for p in everyone if p.parent in members and p.pid not in members}
        if not found:
            return list(members.values())
        members |= found


def role(process: Process, root: int) -> str:
    """A short name for what a process of a server does: evenkeel's parts by theirs, anything else by its comm."""
    words = f"{process.comm} {command_line(process.pid)}"
    for sign, name in ROLE_SIGNS:
        if sign in words:
            return name
    return "supervisor" if process.pid == root else process.comm


def command_line(pid: int) -> str:
    """Program and module of a process, without the folders they lie in and without options.

    A role is read from here, so the words that only name a path or an address must not count.
    """
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    return " ".join(Path(word).name for word in words[:3] if not word.startswith("-"))


@dataclass(frozen=True, slots=True)
class CpuReading:
    """CPU seconds of each process of a tree so far, and its role."""

    cpu_s: dict[tuple[int, int], float]
    roles: dict[tuple[int, int], str]


def read_cpu(root: int) -> CpuReading:
    members = [(p, (p.pid, p.started)) for p in tree(root)]
    return CpuReading({key: p.cpu_s for p, key in members}, {key: role(p, root) for p, key in members})


def cpu_between(before: CpuReading, after: CpuReading) -> dict[str, float]:
    """CPU seconds by role that a tree used between two readings. A process that ended in between is left out."""
    used: defaultdict[str, float] = defaultdict(float)
    for key, cpu_s in after.cpu_s.items():
        used[after.roles[key]] += cpu_s - before.cpu_s.get(key, 0.0)
    return dict(used)


@dataclass(frozen=True, slots=True)
class Machine:
    """CPU seconds of the whole machine so far: in use, and taken away by its host."""

    busy_s: float
    steal_s: float


def read_machine() -> Machine:
    with open("/proc/stat") as file:
        seconds = [int(v) / TICKS_PER_S for v in file.readline().split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = seconds
    return Machine(user + nice + system + irq + softirq, steal)


def wait_until_quiet(others_max: float, limit_s: float) -> None:
    """Give whatever just ended a moment to be gone, at most `limit_s`. Servers under test are idle here."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        before = read_machine()
        time.sleep(0.25)
        after = read_machine()
        if after.busy_s - before.busy_s + after.steal_s - before.steal_s < others_max * 0.25:
            return


def pss_mb(root: int) -> dict[str, float]:
    """Memory by role, each shared page divided among its users (the kernel's PSS), in MB of 10^6 bytes."""
    used: defaultdict[str, float] = defaultdict(float)
    for process in tree(root):
        used[role(process, root)] += rollup_mb(process.pid).get("Pss", 0.0)
    # This process runs on the same interpreter and numpy, and so carries a part of their pages: without it the tree
    # would have to carry that part too.
    own = rollup_mb(os.getpid())
    used["shared with the benchmark"] = own["Pss"] - own["Private_Clean"] - own["Private_Dirty"]
    return dict(used)


def rollup_mb(pid: int) -> dict[str, float]:
    """The sums over all mappings of a process, in MB; nothing once it is gone."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {name: int(value.split()[0]) * 1024 / 1e6 for name, _, value in (line.partition(":") for line in lines)}


def has_mapped(root: int, library: str) -> bool:
    """Whether any process of the tree has loaded a file whose path contains `library`."""
    for process in tree(root):
        try:
            if library in (PROC / str(process.pid) / "maps").read_text():
                return True
        except OSError:
            continue
    return False


def machine_speed_ms() -> float:
    """A fixed loop, timed: how fast this machine is just now. Neighbours and clocks make it drift by tens of %."""
    best_s = float("inf")
    for _ in range(3):
        start_s, x = time.perf_counter(), 0
        for i in range(200_000):
            x += i & 7
        best_s = min(best_s, time.perf_counter() - start_s)
    return 1e3 * best_s
